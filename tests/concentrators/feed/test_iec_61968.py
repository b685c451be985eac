"""MeterReadings and EndDeviceEvents: valid by our schemas, the same at every attempt, and as each profile wants."""

import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from concentrators.feed.formats import end_device_events, meter_readings
from concentrators.feed.formats.event_message import END_DEVICE_EVENTS, METER_READINGS, feed_header
from concentrators.feed.formats.meter_readings import Codes
from concentrators.feed.formats.profile import Profile, ProfileError, parse_profile, written
from concentrators.feed.rows import Change, EventRow, Quality, ReadingRow, RegisterKind
from meters.codes.event_codes import EventCodes
from meters.codes.qualities import Qualities
from meters.codes.reading_types import ReadingTypes
from meters.readings.obis import FRAUD_LOG, STANDARD_LOG
from tests.concentrators.feed.documents import MESSAGE_2009, MESSAGE_2011, errors, texts, valid

KNOWN = Path(__file__).with_name("known_meter_readings.xml")
START = datetime(2026, 1, 1, tzinfo=UTC)
CODES = Codes(ReadingTypes(), Qualities())
PROFILE = Profile()
_TOLD: dict[str, Any] = {
    "position": 4711,
    "row": 0,
    "change": Change.NEW,
    "system_title": "0024befffe804ff1",
    "serial_number": "SN-1",
    "usage_point": "Mill Lane 4",
    "captured_at": START,
    "scheme": "ccm",
    "quality": (Quality.AUTHENTIC,),
    "received_at": START + timedelta(minutes=31, seconds=5),
    "verified_at": START + timedelta(minutes=31, seconds=7),
    "uplink": 17,
}


def interval(**changes: Any) -> ReadingRow:
    row = ReadingRow(
        **_TOLD,
        obis_code="1-0:1.29.0",
        kind=RegisterKind.INTERVAL,
        interval_minutes=30,
        value=Decimal(112),
        unit="Wh",
    )
    return replace(row, **changes)


def register(**changes: Any) -> ReadingRow:
    row = ReadingRow(
        **_TOLD,
        obis_code="1-0:1.8.0",
        kind=RegisterKind.CUMULATIVE,
        interval_minutes=0,
        value=Decimal(1234567),
        unit="Wh",
    )
    return replace(row, **changes)


def event(**changes: Any) -> EventRow:
    return replace(EventRow(**_TOLD, obis_code=FRAUD_LOG, value=44), **changes)


def message_of(rows: Sequence[ReadingRow], profile: Profile = PROFILE, era: str = "1") -> bytes:
    return meter_readings.message(rows, profile, CODES, feed_header(era, METER_READINGS, rows))


def readings_of(*rows: ReadingRow, **settings: Any) -> Any:
    """The one message of these rows, which has to be valid."""
    octets = message_of(rows, parse_profile(settings))
    return valid(octets, MESSAGE_2009 if settings.get("year") == 2009 else MESSAGE_2011)


def events_of(*rows: EventRow, **settings: Any) -> Any:
    header = feed_header("1", END_DEVICE_EVENTS, rows)
    octets = end_device_events.message(rows, parse_profile(settings), EventCodes(), header)
    return valid(octets, MESSAGE_2009 if settings.get("year") == 2009 else MESSAGE_2011)


def _canonical(octets: bytes) -> str:
    document = etree.fromstring(octets, etree.XMLParser(remove_blank_text=True, remove_comments=True))
    return str(etree.tostring(document, method="c14n").decode())


def test_the_known_answer_comes_out() -> None:
    octets = message_of([register(), interval(row=1)])
    valid(octets, MESSAGE_2011)
    assert _canonical(octets) == _canonical(KNOWN.read_bytes())


def test_the_schema_refuses_what_is_wrong() -> None:
    known = KNOWN.read_text()
    for right, wrong in (
        ("<Verb>created</Verb>", "<Verb>deleted</Verb>"),
        ("<value>112</value>", "<value>much</value>"),
        ("0.0.5.4.1.1.12", "0.0.5.4.1.12"),
        ("<Noun>MeterReadings</Noun>", ""),
        ("2011/MeterReadings#", "2012/MeterReadings#"),
    ):
        assert right in known
        assert errors(known.replace(right, wrong).encode(), MESSAGE_2011), wrong


def test_a_message_is_the_same_at_every_attempt_and_another_for_other_rows() -> None:
    rows = [interval(row=n) for n in range(5)]
    once, again = ([message_of(part) for part in (rows[:2], rows[2:4], rows[4:])] for _ in range(2))
    assert once == again
    different = [*once, message_of(rows[:2], era="2")]
    assert len({texts(valid(octets, MESSAGE_2011), "//m:MessageID")[0] for octets in different}) == 4


def test_a_corrected_length_is_said() -> None:
    relabelled = interval(row=1, change=Change.RELABELLED, former_interval_minutes=15)
    new, changed = readings_of(interval()), readings_of(relabelled)
    assert texts(new, "//m:Verb") == ["created"]
    assert texts(changed, "//m:Verb") == ["changed"]
    assert texts(changed, "//r:comment") == ["was told as an interval of 15 minutes"]


def test_readings_are_grouped_by_meter_place_and_reading_type() -> None:
    other = {"system_title": "0024befffe000002", "serial_number": "SN-2", "usage_point": None}
    later = START + timedelta(minutes=30)
    message = readings_of(
        interval(),
        interval(row=1, **other),
        interval(row=2, captured_at=later),
        interval(row=3, obis_code="1-0:2.29.0"),
    )
    assert texts(message, "//r:Meter/r:mRID") == ["0024befffe804ff1", "0024befffe000002"]
    assert texts(message, "//r:MeterReading[1]/r:IntervalBlocks/r:ReadingType/@ref") == [
        "0.0.5.4.1.1.12.0.0.0.0.0.0.0.0.0.72.0",
        "0.0.5.4.19.1.12.0.0.0.0.0.0.0.0.0.72.0",
    ]
    assert texts(message, "//r:MeterReading[1]/r:IntervalBlocks[1]/r:IntervalReadings/r:timeStamp") == [
        "2026-01-01T00:30:00Z",
        "2026-01-01T01:00:00Z",
    ]
    assert len(texts(message, "//r:UsagePoint")) == 1


class TestProfile:
    def test_the_namespaces_of_2009(self) -> None:
        message = readings_of(interval(), year=2009)
        assert message.tag == "{http://www.iec.ch/TC57/2008/schema/message}EventMessage"
        assert b'xmlns="http://iec.ch/TC57/2009/MeterReadings#"' in etree.tostring(message)

    def test_meters_by_names(self) -> None:
        message = readings_of(interval(), meter="names")
        assert texts(message, "//r:Meter/r:mRID") == []
        assert texts(message, "//r:Meter/r:Names/r:name") == ["SN-1", "0024befffe804ff1"]

    def test_intervals_by_their_start(self) -> None:
        message = readings_of(interval(), interval_time="start")
        assert texts(message, "//r:timeStamp") == ["2026-01-01T00:00:00Z"]

    def test_energies_in_kilo(self) -> None:
        message = readings_of(interval(), register(row=1, value=Decimal("0.5"), unit="kWh"), energy="kWh")
        assert texts(message, "//r:value") == ["0.112", "0.5"]
        assert texts(message, "//r:ReadingType/@ref") == [
            "0.0.5.4.1.1.12.0.0.0.0.0.0.0.0.3.72.0",
            "0.0.0.1.1.1.12.0.0.0.0.0.0.0.0.3.72.0",
        ]

    def test_registers_without_a_reading_type(self) -> None:
        rows = interval(), register(row=1, obis_code="1-0:99.8.0")
        assert texts(readings_of(*rows), "//r:ReadingType/@ref")[1] == "1-0:99.8.0"
        assert len(texts(readings_of(*rows, unmapped="omit"), "//r:value")) == 1

    def test_header(self) -> None:
        message = readings_of(interval(), context="TEST", source="North & South", revision="3.1")
        assert texts(message, "//m:Context | //m:Source | //m:Revision") == ["3.1", "TEST", "North & South"]

    def test_it_is_read_as_it_is_written(self) -> None:
        profile = parse_profile({"year": 2009, "energy": "kWh", "readings_per_message": 7, "context": "TEST"})
        assert parse_profile(written(profile)) == profile
        assert parse_profile({}) == Profile()

    @pytest.mark.parametrize(
        ("given_", "said"),
        [
            ({"year": 2012}, "year is one of 2011, 2009, not '2012'"),
            ({"year": "2011"}, "year is one of 2011, 2009"),
            ({"meter": "serial"}, "meter is one of mrid, names, not 'serial'"),
            ({"readings_per_message": 0}, "1 to 10,000, not 0"),
            ({"readings_per_message": True}, "is a number"),
            ({"source": ""}, "source is a line of at most 64 characters"),
            ({"context": "a\nb"}, "context is a line"),
            ({"sauce": "x"}, "'sauce' is no setting of a profile; they are year, meter"),
        ],
    )
    def test_what_is_wrong_is_named(self, given_: dict[str, Any], said: str) -> None:
        with pytest.raises(ProfileError, match=re.escape(said)):
            parse_profile(given_)


def test_qualities_are_the_worst_first_with_their_words() -> None:
    message = readings_of(interval(quality=(Quality.SIGNED, Quality.UNAUTHENTICATED)))
    assert texts(message, "//r:ReadingQualityType/@ref") == ["2.10.0", "1.0.0"]
    assert texts(message, "//r:comment") == ["unauthenticated", "signed"]
    for quality in Quality:  # of each there is a code
        readings_of(interval(quality=(quality,)))


def test_an_event_says_what_its_code_means() -> None:
    message = events_of(event())
    assert texts(message, "//e:EndDeviceEventType/@ref | //e:severity | //e:createdDateTime") == [
        "2026-01-01T00:00:00Z",
        "critical",
        "3.33.1.44",
    ]
    assert texts(message, "//e:EndDeviceEventDetails/e:value")[:3] == ["meter cover opened", FRAUD_LOG, "44"]
    (first, other) = (texts(events_of(one), "//e:EndDeviceEvent/e:mRID") for one in (event(), event(value=45)))
    assert first != other
    assert first == texts(events_of(event(position=9, row=3)), "//e:EndDeviceEvent/e:mRID")


def test_rows_whose_uplink_is_gone_do_not_say_when_they_came() -> None:
    assert texts(readings_of(interval(received_at=None)), "//r:reportedDateTime") == []
    assert "ReportedDateTime" not in texts(events_of(event(received_at=None)), "//e:EndDeviceEventDetails/e:name")


def test_an_unknown_code_is_passed_on() -> None:
    message = events_of(event(obis_code=STANDARD_LOG, value=2**63 - 1), year=2009, meter="names")
    assert b"<value>9223372036854775807</value>" in etree.tostring(message)
    assert b"<severity>info</severity>" in etree.tostring(message)


@given(name=st.text(max_size=64), value=st.integers(-(2**63), 2**63 - 1), scaler=st.integers(-9, 9))
def test_any_name_and_any_value_makes_a_valid_message(name: str, value: int, scaler: int) -> None:
    row = interval(usage_point=name, serial_number=name, value=Decimal(value).scaleb(scaler))
    message = readings_of(row, energy="kWh")
    assert Decimal(texts(message, "//r:value")[0]) * 1000 == row.value
