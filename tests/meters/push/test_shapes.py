"""Notifications that are read by comparing octets: as the general reader reads them, or not at all."""

from copy import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meters.contents.lines import Catalogue, PushProfileRow, RegisterRow
from meters.contents.push import PushReader
from meters.readings.obis import STANDARD_REGISTERS, RegisterKind
from meters.readings.push.definition import parse_definition
from meters.readings.push.profiles import parse_notification
from meters.readings.push.shapes import Shape
from meters.readings.push.skeleton import digest
from meters.registry.interval_lengths import Lengths
from meters.values import PayloadError, PayloadTimes, Value
from tests.dlms_frames import plaintexts
from tests.meters.push.profiles import definition_for

TITLE = bytes.fromhex("545354ae6af2a9a4")
ALWAYS = PayloadTimes(0, 2**40)
_MAXIMUM = 70_000_000
REGISTERS = {
    one.obis_code: RegisterRow(
        number, one.unit, one.scaler, one.kind is RegisterKind.INTERVAL, one.kind is RegisterKind.EVENT, -5, _MAXIMUM
    )
    for number, one in enumerate(STANDARD_REGISTERS)
}
REGISTERS |= {
    f"1-0:{code}.7.0": RegisterRow(
        100 + code, "var" if code < 13 else "/", 0 if code < 13 else -3, False, False, 0, 9999
    )
    for code in (3, 4)
}
for code in ("31", "51", "71"):  # finer than the frame: what it says is multiplied
    REGISTERS[f"1-0:{code}.7.0"] = REGISTERS[f"1-0:{code}.7.0"]._replace(scaler=-3)
SHAPED = {
    "dp_mbus_netz_noe_p1", "fkw9_2", "hasm_sim-three-phase", "amshan_kaifa_no_list_2", "positional", "db_sc30",
    "tag_0c_datetime", "dp_hdlc_kamstrup_omnipower", "push_object_list_6",
    "dp_hdlc_iskra550",
}  # fmt: skip
SAMPLES = {name: (said, plaintext) for name, said, plaintext in plaintexts() if name in SHAPED}


def reader(name: str) -> PushReader:
    said, plaintext = SAMPLES[name]
    skeleton = parse_notification(plaintext).skeleton
    row = PushProfileRow(TITLE[:3], digest(skeleton), parse_definition(definition_for(name, said)))
    return PushReader(Catalogue(REGISTERS, [row]))


def answer(reads: PushReader, payload: bytes, period: PayloadTimes = ALWAYS) -> "list[Value] | tuple[str, str]":
    try:
        return sorted(reads.read(payload, TITLE, 30, period))
    except PayloadError as error:
        return error.reason.value, str(error)


def shapes_of(reads: PushReader) -> list[Shape]:
    return [shape for by_octets in reads._shapes.values() for shapes in by_octets.values() for shape in shapes]


def learned(name: str) -> PushReader:
    reads = reader(name)
    values = reads.read(SAMPLES[name][1], TITLE, 30, ALWAYS)
    (shape,) = shapes_of(reads)
    found = sorted(shape.values(SAMPLES[name][1], 30, ALWAYS) or [])
    assert found == sorted(values)
    assert [copy(one)._replace(value=1) for one in found] == [one._replace(value=1) for one in sorted(values)]
    return reads


@pytest.mark.parametrize("name", sorted(SHAPED))
def test_a_sample_leaves_its_shape_behind(name: str) -> None:
    learned(name)


@pytest.mark.parametrize("name", sorted(SHAPED))
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_a_shape_gives_what_the_general_reader_gives(name: str, data: st.DataObject) -> None:
    fast = learned(name)
    payload = bytearray(SAMPLES[name][1])
    for at in data.draw(st.lists(st.integers(0, len(payload) - 1), max_size=4)):
        payload[at] = data.draw(st.integers(0, 255))
    period = data.draw(st.sampled_from([ALWAYS, PayloadTimes(1_650_000_000, 1_750_000_000)]))
    assert answer(fast, bytes(payload), period) == answer(reader(name), bytes(payload), period)


def test_each_profile_for_single_meters_has_its_own_shape() -> None:
    said, plaintext = SAMPLES["db_sc30"]
    sha256 = digest(parse_notification(plaintext).skeleton)
    definition = parse_definition(definition_for("db_sc30", said))
    twice = parse_definition({**definition_for("db_sc30", said), "factor": {"current_ratio": 2}})
    elsewhere = PushProfileRow(TITLE[:4], bytes(32), definition)  # of another form
    rows = [PushProfileRow(TITLE[:3], sha256, definition), PushProfileRow(TITLE, sha256, twice), elsewhere]
    reads = PushReader(Catalogue(REGISTERS, rows))
    titles = TITLE, TITLE[:7] + b"\x00", TITLE[:3] + bytes(5)
    for _ in range(2):  # by the general reader, then by shapes
        ours, near, far = (reads.read(plaintext, title, 30, ALWAYS) for title in titles)
        assert ours[0].value == 2 * near[0].value
        assert near == far
    assert len(shapes_of(reads)) == 3


def test_a_text_that_becomes_a_code_makes_another_form() -> None:
    sample = SAMPLES["dp_hdlc_iskra550"][1]
    fast = learned("dp_hdlc_iskra550")
    end = sample.index(bytes.fromhex("0000600101ff") + b"\x09\x06") + 6 + 2 + 6
    for last in (0x00, 0x7F, 0xFE, 0xFF):
        said = sample[: end - 1] + bytes((last,)) + sample[end:]
        found = answer(fast, said)
        assert found == answer(reader("dp_hdlc_iskra550"), said)
        assert ("unknown_profile" in found) == (last == 0xFF)


def test_a_shape_thins_as_the_general_reader_does() -> None:
    """Of notifications every minute one in a quarter of an hour is stored."""
    said, sample = SAMPLES["db_sc30"]
    definition = parse_definition({**definition_for("db_sc30", said), "thin_s": 900, "push_s": 60})
    row = PushProfileRow(TITLE[:3], digest(parse_notification(sample).skeleton), definition)
    fast = PushReader(Catalogue(REGISTERS, [row]))
    minute_at = 6 + 6  # 0f, invoke id (4), 0c; year (2), month, day, day of week, hour
    stored = 0
    for minute in range(60):
        payload = sample[:minute_at] + bytes((minute, 30)) + sample[minute_at + 2 :]
        period = PayloadTimes(0, 1_752_489_000) if minute % 2 else ALWAYS
        found = answer(fast, payload, period)
        assert found == answer(PushReader(Catalogue(REGISTERS, [row])), payload, period)
        stored += bool(found)
    assert stored == 4
    assert len(shapes_of(fast)) == 1


@given(number=st.integers(0, 2**32 - 1), lowest=st.integers(-5, 10**6), highest=st.integers(10**6, 2**40))
def test_bounds_of_a_register_hold_for_what_a_shape_reads(number: int, lowest: int, highest: int) -> None:
    """The register counts tenths, so that a number is ten of its steps."""
    sample = INTERVALS[:18] + bytes.fromhex("0201") + INTERVALS[20:]
    at = sample.index(bytes.fromhex("0100011d00ff")) + 7
    definition = parse_definition({"kind": "obis", "clock": {"from": "apdu"}})
    row = PushProfileRow(TITLE[:3], digest(parse_notification(sample).skeleton), definition)
    register = RegisterRow(1, "Wh", -1, False, False, lowest, highest)
    reads = PushReader(Catalogue({"1-0:1.29.0": register}, [row]))
    good = sample[:at] + (10**5).to_bytes(4, "big") + sample[at + 4 :]
    assert [one.value for one in reads.read(good, TITLE, 15, ALWAYS)] == [10**6]
    assert len(shapes_of(reads)) == 1
    said = sample[:at] + number.to_bytes(4, "big") + sample[at + 4 :]
    if lowest <= 10 * number <= highest:
        assert [one.value for one in reads.read(said, TITLE, 15, ALWAYS)] == [10 * number]
    else:
        with pytest.raises(PayloadError, match="the register takes"):
            reads.read(said, TITLE, 15, ALWAYS)


INTERVALS = bytes.fromhex(
    "0f000000010c07e9070e010a0f00ff0000000202" "020309060100011d00ff" "0600000000" "02020f00161e"
)  # fmt: skip


@pytest.mark.parametrize("ends", ["start", "end"])
@given(
    energy=st.integers(0, 2**32 - 1),
    minute=st.sampled_from([0, 15, 30, 45, 7]),
    lengths=st.sampled_from([None, Lengths([(1_752_490_000, 60)], 15)]),
    latest_s=st.sampled_from([2**40, 1_752_487_200, 1_752_488_100, 1_752_489_000]),
)
@settings(max_examples=40, deadline=None)
def test_intervals_are_read_by_shape_as_the_general_reader_reads_them(
    ends: str, energy: int, minute: int, lengths: Lengths | None, latest_s: int
) -> None:
    """1.29.0 of an interval, with the grid, the end of what is over, and a length that was another before."""
    definition = parse_definition({"kind": "obis", "clock": {"from": "apdu"}, "interval_time": ends})
    first = INTERVALS[:18] + b"\x02\x01" + INTERVALS[20:]
    row = PushProfileRow(TITLE[:3], digest(parse_notification(first).skeleton), definition)
    fast, general = (PushReader(Catalogue(REGISTERS, [row])) for _ in range(2))
    fast.read(first, TITLE, 15, ALWAYS)
    assert shapes_of(fast)
    said = first[:12] + bytes((minute,)) + first[13:]
    at = said.index(bytes.fromhex("0100011d00ff")) + 7
    said = said[:at] + energy.to_bytes(4, "big") + said[at + 4 :]
    found: list[list[Any]] = []
    for reads in (fast, general):
        try:
            found.append(reads.read(said, TITLE, 15, PayloadTimes(0, latest_s), lengths))
        except PayloadError as error:
            found.append([(error.reason.value, str(error))])
    assert found[0] == found[1]
