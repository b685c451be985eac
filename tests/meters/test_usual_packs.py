"""A shape reads a pack as the general way does, whatever the pack, right or wrong."""

from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meters.contents.lines import Catalogue, RegisterRow
from meters.contents.plain import PackShape, PlainReader, read_pack
from meters.registry.interval_lengths import Lengths
from meters.values import PayloadError, PayloadTimes, Value
from tests.builders import KNOWN_TIME_S, head, pack

TITLE = bytes.fromhex("0024befffe804ff1")
PERIOD = PayloadTimes(KNOWN_TIME_S - 86_400, KNOWN_TIME_S + 86_400)
MINUTES = 30
ENERGY, INTERVAL, TAMPER, COARSE = "1-0:1.8.0", "1-0:1.29.0", "0-0:96.11.1", "1-0:2.8.0"


REGISTERS = Catalogue(
    {
        ENERGY: RegisterRow(1, "Wh", 0, False, False, -5, 10**12),
        INTERVAL: RegisterRow(2, "Wh", 0, True, False, 0, 999_999_999),
        TAMPER: RegisterRow(3, "count", 0, False, True, 0, 2**24 - 1),
        COARSE: RegisterRow(4, "Wh", 1, False, False, -(2**63), 2**63 - 1),
    }
)
# Another length held before the known time, and a longer one is announced from it on.
CHANGED = Lengths([(KNOWN_TIME_S - 3600, 60)], MINUTES, [(KNOWN_TIME_S, 15)])
SHAPES = [
    PackShape([(name, row) for name in names if (row := REGISTERS.get(name))])
    for names in ((ENERGY, INTERVAL), (TAMPER,), (ENERGY,), (INTERVAL, ENERGY, TAMPER))
]


def general(payload: bytes, lengths: Lengths | None = None) -> list[Value] | None:
    try:
        return read_pack(payload, TITLE, MINUTES, REGISTERS, PERIOD, lengths)[1]
    except PayloadError:
        return None


def usual(payload: bytes, lengths: Lengths | None = None) -> list[Value] | None:
    read = [values for shape in SHAPES if (values := shape.values(payload, MINUTES, PERIOD, lengths)) is not None]
    assert len(read) <= 1
    return read[0] if read else None


def agree(payload: bytes) -> None:
    """What a shape takes, the general way takes alike."""
    for lengths in (None, CHANGED):
        taken = usual(payload, lengths)
        assert taken is None or taken == general(payload, lengths)


def known(energy: int = 1_234_567, interval: int = 112, time_s: int = KNOWN_TIME_S) -> bytes:
    return pack({-1: 26, -3: time_s, 0: ENERGY, 1: "Wh", 2: energy}, {0: INTERVAL, 1: "Wh", 2: interval})


NAMES = st.sampled_from(
    [ENERGY, INTERVAL, TAMPER, COARSE, "1-0:99.0.0", "", "\x02", f"urn:dev:mac:{TITLE.hex()}:{ENERGY}"]
)
UNITS = st.sampled_from(["Wh", "count", "W", "", "\x01"])
VALUES = st.one_of(
    st.sampled_from([0, 23, 24, 255, 256, 65_535, 65_536, 2**32 - 1, 2**32, -1]), st.floats(), st.text(max_size=3)
)
TIMES = st.sampled_from(
    [
        KNOWN_TIME_S - 7200,
        KNOWN_TIME_S - 5400,
        KNOWN_TIME_S + 900,
        KNOWN_TIME_S,
        KNOWN_TIME_S + 1,
        KNOWN_TIME_S + 1800,
        PERIOD.earliest_s - 1800,
        PERIOD.latest_s + 1800,
        0,
        2**27,
        2**33,
    ]
)
RECORDS = st.lists(st.fixed_dictionaries({0: NAMES, 1: UNITS, 2: VALUES}), min_size=0, max_size=4)


@pytest.mark.parametrize("value", [0, 23, 24, 255, 256, 65_535, 65_536, 2**32 - 1])
def test_the_usual_pack_is_read_by_its_shape(value: int) -> None:
    payload = known(value, 23)
    assert (
        usual(payload)
        == general(payload)
        == [
            Value(KNOWN_TIME_S, 1, value, 0, False),
            Value(KNOWN_TIME_S, 2, 23, MINUTES, False),
        ]
    )


def test_events_and_single_records_too() -> None:
    payload = pack({-1: 26, -3: KNOWN_TIME_S + 7, 0: TAMPER, 1: "count", 2: 3})
    assert usual(payload) == [Value(KNOWN_TIME_S + 7, 3, 3, 0, True)] == general(payload)


@pytest.mark.parametrize(
    "payload",
    [
        known() + b"\x00",
        known() + b"\xa3",
        known()[:-1],
        b"\x81" + known()[1:],
        b"\x83" + known()[1:],
        known(time_s=KNOWN_TIME_S + 60),
        known(time_s=PERIOD.latest_s + 1800),
        known(2**32),
        pack({-1: 26, -3: KNOWN_TIME_S, 0: ENERGY, 1: "Wh", 2: 1}, {0: ENERGY, 1: "Wh", 2: 1}),
        pack({-1: 26, -3: KNOWN_TIME_S, 0: COARSE, 1: "Wh", 2: 10}),
        pack({-1: 26, -3: KNOWN_TIME_S, 0: ENERGY, 1: "W", 2: 10}),
        b"",
    ],
)  # fmt: skip
def test_whatever_is_not_usual_is_left_to_the_general_way(payload: bytes) -> None:
    assert usual(payload) is None


@given(RECORDS, TIMES, st.sampled_from([26, 10, 27]))
def test_both_ways_agree_on_packs(records: list[dict[int, Any]], time_s: int, version: int) -> None:
    agree(cbor2.dumps([{-1: version, -3: time_s} | record if n == 0 else record for n, record in enumerate(records)]))


@given(st.data())
def test_both_ways_agree_on_damaged_packs(data: st.DataObject) -> None:
    octets = bytearray(known(data.draw(st.integers(0, 2**32 - 1)), data.draw(st.integers(0, 300))))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(octets) - 1))
        kind = data.draw(st.sampled_from(["change", "remove", "insert"]))
        if kind == "insert" or len(octets) < 2:
            octets.insert(place, data.draw(st.integers(0, 255)))
        elif kind == "remove":
            del octets[place]
        else:
            octets[place] = data.draw(st.integers(0, 255))
    agree(bytes(octets))


@pytest.mark.parametrize("octets", [1, 2, 4])
def test_longer_forms_of_an_integer_mean_the_same(octets: int) -> None:
    payload = known(5)[: -len(cbor2.dumps(112))] + head(0, 112, octets)
    assert usual(payload) == general(payload) == general(known(5))


def test_shapes_are_learned_from_good_packs_and_kept_bounded() -> None:
    reader = PlainReader(REGISTERS)
    payload = known()
    assert reader.read(payload, TITLE, MINUTES, PERIOD) == general(payload)
    assert len(reader.shapes) == 1
    for n in range(300):  # in another order of labels: good, and of no shape; or refused
        other = pack({0: ENERGY, 1: "Wh", 2: n, -1: 26, -3: KNOWN_TIME_S}, *[{0: TAMPER, 1: "count", 2: 1}] * (n % 2))
        assert reader.read(other, TITLE, MINUTES, PERIOD) == general(other)
        with pytest.raises(PayloadError):
            reader.read(pack({-1: 26, -3: KNOWN_TIME_S, 0: f"1-0:{n}.8.9", 1: "Wh", 2: 1}), TITLE, MINUTES, PERIOD)
    assert len(reader.shapes) == 1


@pytest.mark.parametrize(
    ("time_s", "minutes"),
    [
        (KNOWN_TIME_S - 7200, 60),
        (KNOWN_TIME_S - 5400, None),
        (KNOWN_TIME_S - 1800, MINUTES),
        (KNOWN_TIME_S + 900, 15),
        (KNOWN_TIME_S + 60, None),
    ],
)
def test_a_shape_knows_that_interval_lengths_changed(time_s: int, minutes: int | None) -> None:
    values = usual(known(time_s=time_s), CHANGED)
    assert values == general(known(time_s=time_s), CHANGED)
    assert (None if values is None else values[1].interval_minutes) == minutes


def test_a_time_below_2_to_the_28_is_relative_and_left_to_the_general_way() -> None:
    early = PayloadTimes(0, PERIOD.latest_s)
    assert SHAPES[0].values(known(time_s=2**28 - 2**28 % 1800), MINUTES, early) is None
    assert SHAPES[0].values(known(time_s=2**28 + 1800 - 2**28 % 1800), MINUTES, early) is not None
