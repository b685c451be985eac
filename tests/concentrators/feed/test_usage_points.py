"""Green Button and the Nordic document: valid by their schemas, with every interval that is there."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from concentrators.feed.formats import green_button, nordic
from concentrators.feed.formats.meter_readings import Codes
from concentrators.feed.formats.series import Point, Series
from meters.codes.qualities import Fact, Qualities, Quality
from meters.codes.reading_types import ReadingTypes
from tests.concentrators.feed.documents import GREEN_BUTTON, NORDIC, errors, texts, valid

START = datetime(2026, 3, 1, tzinfo=UTC)
NOW = datetime(2026, 3, 5, 12, tzinfo=UTC)
POINT = green_button.UsagePoint(7, "Mill Lane 4 <&>", "https://head-end/api/v1/places/7/green-button?from=a&to=b")
EXCHANGE = nordic.Exchange(
    nordic.Party("5799999933318", "A10", "MDR"),
    nordic.Party("5790001330552", "A10", "DGL"),
    "579999993331812345",
    "A10",
)


def series(steps: list[int | None], **changes: Any) -> Series:
    minutes = changes.pop("interval_minutes", 15)
    facts = changes.pop("facts", {})
    points = tuple(
        Point(
            START + timedelta(minutes=minutes * n),
            value,
            facts.get(n, Fact.MISSING if value is None else Fact.AUTHENTIC),
        )
        for n, value in enumerate(steps)
    )
    return Series(
        **{"obis_code": "1-0:1.29.0", "unit": "Wh", "scaler": 0, **changes}, interval_minutes=minutes, points=points
    )


def green(*found: Series, codes: Codes | None = None) -> Any:
    codes = codes or Codes(ReadingTypes(), Qualities())
    return valid(b"".join(green_button.green_button(POINT, found, codes, NOW)), GREEN_BUTTON)


def document(*found: Series) -> Any:
    return valid(b"".join(nordic.document(EXCHANGE, found, Qualities(), NOW, UUID(int=1))), NORDIC)


class TestGreenButton:
    def test_a_feed_of_two_days_and_two_registers(self) -> None:
        feed = green(series(list(range(100))), series([5, 6], obis_code="1-0:2.29.0"))
        assert texts(feed, "//espi:flowDirection") == ["1", "19"]
        assert len(texts(feed, "//espi:IntervalBlock")) == 3
        assert texts(feed, "(//espi:IntervalBlock)[1]/espi:interval/*") == ["86400", str(int(START.timestamp()))]
        assert texts(feed, "(//espi:IntervalBlock)[2]/espi:interval/espi:duration") == ["3600"]
        assert [int(text) for text in texts(feed, "//espi:value")] == [*range(100), 5, 6]
        assert texts(feed, "//atom:entry[1]/atom:title") == ["Mill Lane 4 <&>"]

    def test_missing_intervals_are_left_out(self) -> None:
        feed = green(series([1, None, 3]))
        starts = [int(text) - int(START.timestamp()) for text in texts(feed, "//espi:timePeriod/espi:start")]
        assert starts == [0, 1800]

    def test_qualities_that_are_not_the_usual_one(self) -> None:
        feed = green(series([1, 2, 3], facts={1: Fact.UNAUTHENTICATED}))
        assert texts(feed, "//espi:defaultQuality") == ["14"]
        assert texts(feed, "//espi:IntervalReading[espi:ReadingQuality]/espi:value") == ["2"]
        assert texts(feed, "//espi:quality") == ["10"]
        ours = Qualities({Fact.AUTHENTIC: Quality("1.0.0", 17, "A04")})
        assert texts(green(series([1]), codes=Codes(ReadingTypes(), ours)), "//espi:defaultQuality") == ["17"]

    @pytest.mark.parametrize(
        ("unit", "scaler", "multiplier", "value"),
        [("Wh", 0, "0", 7), ("Wh", -1, "-1", 7), ("kWh", 0, "3", 7), ("Wh", -4, "-6", 700), ("Wh", 4, "3", 70)],
    )
    def test_values_are_whole_numbers_of_a_multiplier(
        self, unit: str, scaler: int, multiplier: str, value: int
    ) -> None:
        feed = green(series([7], unit=unit, scaler=scaler))
        assert texts(feed, "//espi:powerOfTenMultiplier | //espi:value") == [multiplier, str(value)]

    def test_nothing_is_a_feed_too(self) -> None:
        feed = green(series([1], obis_code="1-0:99.29.0"), series([]))
        assert texts(feed, "//espi:ServiceCategory/espi:kind") == ["0"]
        assert texts(feed, "//espi:IntervalBlock") == []


class TestNordic:
    def test_the_interval_begins_before_it_ends(self) -> None:
        found = document(series([242, 242, 1001], interval_minutes=60))
        start, end = texts(found, "//cim:timeInterval/*")
        assert (start, end) == ("2026-03-01T00:00Z", "2026-03-01T03:00Z")
        assert texts(found, "//cim:resolution") == ["PT1H"]
        assert texts(found, "//cim:position") == ["1", "2", "3"]
        assert [Decimal(text) for text in texts(found, "//cim:quantity")] == [
            Decimal(n) / 1000 for n in (242, 242, 1001)
        ]

    def test_each_point_has_its_quality(self) -> None:
        found = document(series([1, None, 3], facts={2: Fact.PARTIAL}))
        assert texts(found, "//cim:quality") == ["A04", "A02", "A05"]
        assert len(texts(found, "//cim:quantity")) == 2

    def test_registers_have_their_kind(self) -> None:
        codes = ["1-0:1.29.0", "1-0:2.29.0", "1-0:3.29.0"]
        found = document(*(series([1], obis_code=code, unit="varh" if "3.29" in code else "Wh") for code in codes))
        assert texts(found, "//cim:marketEvaluationPoint.type") == ["E17", "E18", "E20"]
        assert texts(found, "//cim:quantity_Measure_Unit.name") == ["KWH", "KWH", "K3"]
        assert len(set(texts(found, "//cim:Series/cim:mRID"))) == 3

    def test_other_registers_are_left_out(self) -> None:
        strange = series([1], obis_code="1-0:1.29.0", unit="V"), series([1], obis_code="1-0:32.29.0", unit="V")
        assert not any(map(nordic.is_known, strange))
        assert texts(document(*strange), "//cim:Series") == []

    @pytest.mark.parametrize(("minutes", "written"), [(1, "PT1M"), (15, "PT15M"), (120, "PT2H"), (1440, "P1D")])
    def test_resolutions(self, minutes: int, written: str) -> None:
        assert texts(document(series([1], interval_minutes=minutes)), "//cim:resolution") == [written]

    def test_the_schema_refuses_a_position_of_0(self) -> None:
        octets = b"".join(nordic.document(EXCHANGE, [series([1])], Qualities(), NOW, UUID(int=1)))
        assert errors(octets.replace(b"<cim:position>1<", b"<cim:position>0<"), NORDIC)
