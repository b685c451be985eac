"""What notifications say by their profiles, against what the sources of the frames decoded."""

from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meters.readings import push_profiles
from meters.readings.push.blanking import blanked
from meters.readings.push.definition import UNITS, ProfileError, parse_definition
from meters.readings.push.profiles import (
    ContentError,
    Notification,
    OtherMeterError,
    PushValue,
    parse_notification,
    read,
)
from meters.readings.push.skeleton import digest
from tests.dlms_frames import SYNTHETIC, plaintexts
from tests.meters.push.profiles import BY_NAME, definition_for

TITLE = bytes.fromhex("545354ae6af2a9a4")
NO_DATA = {"neg_depth", "neg_array_count", "neg_compact_zero_width", "dp_hdlc_landis_gyr_zmf100"}
NO_CLOCK = {"amshan_aidon_no_list_1", "amshan_aidon_no_list_2", "amshan_hdlc_frame_with_escape_character_in_info"}
READ = {
    name: (said, plaintext)
    for name, said, plaintext in plaintexts()
    if name not in NO_DATA | NO_CLOCK and "event_notification" not in name
}


def values_of(name: str, definition: dict[str, Any] | None = None) -> list[PushValue]:
    said, plaintext = READ[name]
    wanted = parse_definition(definition or definition_for(name, said))
    return read(parse_notification(plaintext), wanted, TITLE)


def _is_said(value: PushValue, one: dict[str, Any]) -> bool:
    """Whether a value is what an entry expects: by code where it has one, exactly in its units."""
    if isinstance(one["raw"], str):  # of a telegram: in the larger unit
        return Decimal(value.raw).scaleb(value.scaler) == Decimal(one["raw"]) * 1000
    if value.raw != one["raw"]:
        return False
    return one.get("unit_code") is None or (value.scaler, value.units) == (one["scaler"], UNITS[one["unit_code"]])


@pytest.mark.parametrize("name", READ)
def test_every_number_of_an_entry_comes_out(name: str) -> None:
    said, _ = READ[name]
    values = values_of(name)
    columns = {one.get("obis", ""): one for one in definition_for(name, said).get("columns", [])}
    wanted = [one for one in said.get("expected", ()) if ("raw" in one and not isinstance(one["raw"], str)) or
              (isinstance(one.get("raw"), str) and "." in one["raw"])]  # fmt: skip
    for one in wanted:
        column = columns.get(one.get("obis", ""), {})
        if column.get("ignore"):
            continue
        register = column.get("register", one.get("obis"))
        found = [value for value in values if register in (None, value.obis)]
        assert any(_is_said(value, one) for value in found), (one, values)
        if "at" in one:
            assert datetime.fromisoformat(one["at"]).timestamp() in {
                value.at_s for value in found if value.raw == one["raw"]
            }
    assert len(values) >= sum(not columns.get(one.get("obis", ""), {}).get("ignore") for one in wanted)


def test_values_have_the_time_of_the_notification() -> None:
    for name, (said, _) in READ.items():
        if "clock_utc" in said and not any("at" in one for one in said["expected"]):
            assert {value.at_s for value in values_of(name)} == {
                int(datetime.fromisoformat(said["clock_utc"]).timestamp())
            }, name


@pytest.mark.parametrize("name", sorted(NO_DATA))
def test_data_that_break_are_refused(name: str) -> None:
    ((_, plaintext),) = [(said, plain) for found, said, plain in plaintexts() if found == name] or [
        ({}, bytes.fromhex(SYNTHETIC[name]["plain"]))
    ]
    with pytest.raises(ContentError, match="A-XDR"):
        parse_notification(plaintext)


@pytest.mark.parametrize("name", sorted(NO_CLOCK))
def test_a_list_without_a_clock_has_no_time(name: str) -> None:
    ((said, plaintext),) = [(said, plain) for found, said, plain in plaintexts() if found == name]
    with pytest.raises(ContentError, match="no date-time"):
        read(parse_notification(plaintext), parse_definition(definition_for(name, said)), TITLE)


def test_the_skeleton_holds_the_form_and_no_value() -> None:
    plain = bytes.fromhex(SYNTHETIC["db_sc30"]["plain"])
    skeleton = parse_notification(plain).skeleton
    assert skeleton == (
        "0f[0c] {octets(12) obis(0100010800ff) u32 unit(0,30) obis(0100020800ff) u32 unit(0,30) obis(0100010700ff) "
        "u32 unit(0,27) obis(0100200700ff) u16 unit(-1,35) obis(01001f0700ff) u16 unit(-2,33)}"
    )
    assert len(digest(skeleton)) == 32
    other_value = plain.replace(bytes.fromhex("009da535"), bytes.fromhex("009da536"))
    assert parse_notification(other_value).skeleton == skeleton
    for before, after in (
        ("0100010800ff", "0100010801ff"),
        ("02020f00161e", "02020f03161e"),
        ("02020f00161e", "02020f00161f"),
    ):
        assert parse_notification(plain.replace(bytes.fromhex(before), bytes.fromhex(after))).skeleton != skeleton


def test_the_number_of_rows_does_not_matter_and_that_of_columns_does() -> None:
    rows = READ["profile_buffer"][1]
    fewer = rows[:18] + b"\x01\x07" + rows[20 : -(len(rows) - 20) // 8]
    assert parse_notification(fewer).skeleton == parse_notification(rows).skeleton == ("0f[0c] [{octets(12) u8 u32}]")
    assert parse_notification(READ["profile_null_times"][1]).skeleton == "0f[0c] [{octets(12) u8 u32} {null null u32}]"
    assert parse_notification(READ["compact_array"][1]).skeleton == "0f[0c] {octets(12) <{u8 u32}>}"


def test_of_a_pushlist_the_list_stays() -> None:
    plain = READ["push_object_list_6"][1]
    other_object = plain.replace(bytes.fromhex("0100010800ff"), bytes.fromhex("0100020800ff"))
    assert parse_notification(other_object).skeleton != parse_notification(plain).skeleton


def test_scaler_and_unit_are_never_guessed() -> None:
    with pytest.raises(ContentError, match="neither the frame nor the profile says scaler and unit"):
        values_of("push_object_list", {"kind": "pushlist", "clock": {"from": "0-0:1.0.0"}})
    with pytest.raises(ContentError, match="does not say what element 3 is"):
        values_of("positional", BY_NAME["positional"] | {"columns": BY_NAME["positional"]["columns"][:3]})
    with pytest.raises(ContentError, match="does not say what column 1"):
        values_of("compact_array", BY_NAME["compact_array"] | {"columns": BY_NAME["compact_array"]["columns"][:1]})


def test_ratios_of_transformers_multiply_what_they_are_of() -> None:
    said = {"kind": "obis", "clock": {"from": "apdu"}, "factor": {"voltage_ratio": 200, "current_ratio": 50}}
    before = {value.obis: value.raw for value in values_of("db_sc30")}
    after = {value.obis: value.raw for value in values_of("db_sc30", said)}
    assert {obis: after[obis] // before[obis] for obis in after} == {
        "1-0:1.8.0": 10_000, "1-0:2.8.0": 10_000, "1-0:1.7.0": 10_000, "1-0:32.7.0": 200, "1-0:31.7.0": 50,
    }  # fmt: skip


def test_another_meter_in_the_data_is_found() -> None:
    plaintext = READ["p1_telegram"][1]
    wanted = parse_definition(BY_NAME["p1_telegram"])
    with pytest.raises(OtherMeterError, match="names the meter"):
        read(parse_notification(plaintext), wanted, bytes(8))


def test_a_telegram_whose_checksum_is_wrong_is_none() -> None:
    plaintext = READ["p1_telegram"][1].replace(b"010331.445", b"910331.445")
    with pytest.raises(ContentError, match="checksum"):
        parse_notification(plaintext)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ([], "an object"),
        ({"kind": "guess"}, "kind is one of"),
        ({"kind": "obis", "colums": []}, "has no 'colums'"),
        ({"kind": "obis", "clock": {"from": "body"}}, "OBIS code"),
        ({"kind": "obis", "clock": {"from": "apdu", "zone": "Mars/North"}}, "no zone"),
        ({"kind": "obis", "columns": [{"obis": "1-0:1.8.0", "unit": "Wh"}]}, "scaler and unit go together"),
        ({"kind": "obis", "columns": [{"obis": "1-0:1.8.0", "unit": "kWh", "scaler": 0}]}, "unit is one of"),
        ({"kind": "obis", "columns": [{"obis": "1-0:1.8", "unit": "Wh", "scaler": 0}]}, "not an OBIS code"),
        ({"kind": "obis", "columns": [{"obis": "1-0:1.8.0", "ignore": 1}]}, "ignore is true"),
        ({"kind": "obis", "columns": [{"ignore": True}]}, "obis says which"),
        ({"kind": "obis", "columns": [{"obis": "1-0:1.8.0", "ignore": True}] * 2}, "has a column already"),
        ({"kind": "positional", "columns": [{"at": 0}]}, "obis names the register"),
        ({"kind": "positional", "columns": [{"at": -1, "ignore": True}]}, "at is a number"),
        ({"kind": "positional", "columns": [{"at": 0, "is": "clock"}]}, "in rows alone"),
        ({"kind": "compact", "columns": [{"at": 0, "ignore": True}]}, "period_s"),
        ({"kind": "obis", "factor": {"voltage_ratio": 0}}, "voltage_ratio is a number"),
        ({"kind": "obis", "thin_s": 900}, "go together"),
        ({"kind": "obis", "interval_time": "middle"}, "start or end"),
        ({"kind": "p1", "clock": {"from": "apdu"}}, "clock.from"),
        ({"kind": "p1", "period_s": True, "clock": {"from": "0-0:1.0.0"}}, "period_s is a number"),
    ],
)
def test_a_definition_that_is_none_says_what_is_wrong(said: object, why: str) -> None:
    with pytest.raises(ProfileError, match=why):
        parse_definition(said)


CHANGED = st.builds(
    lambda whole, at, octet: whole[: at % len(whole)] + octet + whole[at % len(whole) + 1 :],
    st.sampled_from([plain for _, plain in READ.values()]),
    st.integers(6, 4096),
    st.binary(max_size=2),
)
DEFINITIONS = [parse_definition(definition_for(name, said)) for name, (said, _) in READ.items()]


def _read_within_bounds(plaintext: bytes) -> None:
    try:
        notification: Notification = parse_notification(plaintext)
    except ContentError:
        return
    for definition in DEFINITIONS:
        try:
            assert len(read(notification, definition, TITLE)) <= len(plaintext)
        except ContentError:
            continue


@given(CHANGED)
@settings(max_examples=60, deadline=None)
def test_no_notification_does_harm(plaintext: bytes) -> None:
    _read_within_bounds(plaintext)


@pytest.mark.soak
@pytest.mark.timeout(1_800)
@given(
    st.one_of(CHANGED, st.builds(bytes.__add__, st.sampled_from([b"\x0f" + bytes(5), b"/"]), st.binary(max_size=200)))
)
@settings(max_examples=10_000, deadline=None)
def test_no_notification_does_harm_at_length(plaintext: bytes) -> None:
    _read_within_bounds(plaintext)


@pytest.mark.parametrize("name", READ)
def test_a_blanked_notification_says_the_same_registers_and_no_number(name: str) -> None:
    said, plaintext = READ[name]
    definition = parse_definition(definition_for(name, said))
    notification = parse_notification(plaintext)
    blank = blanked(plaintext, notification, TITLE)
    again = parse_notification(blank)
    assert again.skeleton == notification.skeleton
    assert len(blank) == len(plaintext)
    before, after = (read(one, definition, TITLE) for one in (notification, again))
    assert after == [one._replace(raw=0) for one in before]


def test_no_number_of_a_household_stays_in_a_blanked_sample() -> None:
    """Not even those that no column reads, nor a serial number."""
    body = bytes.fromhex("0f000000010002030600bc614e0910" + 16 * "37" + "090c" + 12 * "31")
    blank = blanked(body, parse_notification(body), TITLE)
    assert blank == bytes.fromhex("0f0000000100020306000000000910" + 16 * "00" + "090c" + 12 * "00")


def test_samples_of_public_profiles_can_be_blanked() -> None:
    for one in push_profiles.public():
        checked = push_profiles.check(one.wish.definition, one.wish.sample, one.wish.sample_title)
        assert checked.blanked != one.wish.sample
