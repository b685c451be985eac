"""SenML packs: an independent resolver as the model, and only SenMLError for all that is wrong."""

import time
import tracemalloc
from decimal import Decimal
from fractions import Fraction
from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meters.readings.senml import SenMLError, SenmlRecord, parse_pack
from tests.builders import KNOWN_TIME_S, pack, senml_payload

BASE = {-1: 26, -3: KNOWN_TIME_S}
PLAIN = {0: "1-0:1.8.0", 1: "Wh", 2: 5}


# --- the model: fractions, a dict a field, nothing shared with the code -------------------------------------


def resolve(records: list[dict[Any, Any]]) -> list[tuple[str, str, Fraction, Fraction]] | None:
    """RFC 8428 section 4.6 by the letter, or None where docs/frame.md refuses the pack."""
    resolved = []
    base: dict[int, Any] = {-1: 10, -2: "", -3: 0, -4: None, -5: 0}
    for index, record in enumerate(records):
        if index and record.get(-1, base[-1]) != base[-1]:
            return None
        base |= {label: record[label] for label in base if label in record}
        unit = record.get(1, base[-4])
        if unit is None or 2 not in record or not base[-2] + record.get(0, ""):
            return None
        if base[-1] == 10 and unit not in ("W", "V", "A"):
            return None
        value = Fraction(record[2]) + Fraction(base[-5])
        seconds = Fraction(record.get(6, 0)) + Fraction(base[-3])
        if seconds.denominator != 1 or not 2**28 <= seconds < 2**38 or not -(2**63) <= value < 2**63:
            return None
        resolved.append((base[-2] + record.get(0, ""), unit, value, seconds))
    return resolved


def parsed(payload: bytes) -> list[SenmlRecord] | None:
    try:
        return parse_pack(payload)
    except SenMLError as error:
        sentence = str(error)
    assert sentence.strip()
    return None


NUMBERS = st.one_of(
    st.integers(-10, 10),
    st.integers(-(2**64), 2**64 - 1),
    st.floats(-1e20, 1e20),
    st.decimals(-(10**12), 10**12, places=3),
)
TIMES = st.one_of(st.integers(-100_000, 100_000), st.floats(-1e6, 1e6), st.integers(-(2**40), 2**40))
RECORDS = st.fixed_dictionaries(
    {2: NUMBERS},
    optional={
        -1: st.sampled_from([10, 26]),
        -2: st.sampled_from(["", "urn:dev:mac:0024befffe804ff1:"]),
        -3: st.one_of(st.just(KNOWN_TIME_S), TIMES),
        -4: st.sampled_from(["Wh", "W"]),
        -5: NUMBERS,
        0: st.sampled_from(["", "1-0:1.8.0"]),
        1: st.sampled_from(["Wh", "W", "V"]),
        6: TIMES,
        7: st.just(60),
        99: st.just("ignored"),
        "x": st.just([1]),
    },
)


USUAL_BASE = {-1: 26, -2: "n", -3: KNOWN_TIME_S, -4: "Wh"}


@given(st.lists(RECORDS, min_size=1, max_size=4), st.booleans())
def test_agrees_with_the_model(records: list[dict[Any, Any]], usual: bool) -> None:
    if usual:  # most draws lack a time or a unit: give the pack one, so that more are taken
        records[0] |= USUAL_BASE
        for record in records[1:]:
            record.pop(-1, None)
    got, expected = parsed(pack(*records)), resolve(records)
    assert (got is None) == (expected is None)
    if got is not None:
        assert [(r.name, r.unit, Fraction(r.value), Fraction(r.time_s)) for r in got] == expected


@given(st.binary(max_size=80))
def test_arbitrary_octets(payload: bytes) -> None:
    parsed(payload)


@given(st.integers(0, 500), st.binary(max_size=3))
def test_changed_octets(position: int, inserted: bytes) -> None:
    payload = senml_payload({"1-0:1.8.0": 1_234_567, "1-0:1.29.0": 112})
    position %= len(payload)
    parsed(payload[:position] + inserted + payload[position + 1 :])


def test_every_truncation_is_refused() -> None:
    payload = senml_payload({"1-0:1.8.0": 1_234_567, "1-0:1.29.0": 112})
    for end in range(len(payload)):
        with pytest.raises(SenMLError):
            parse_pack(payload[:end])


# --- what is refused, and how it is said ---------------------------------------------------------------------


def one(**changes: Any) -> bytes:
    return pack(BASE | PLAIN | {int(label.strip("_")): value for label, value in changes.items()})


def with_value(octets: str) -> bytes:
    """A pack whose value is these octets."""
    return pack(BASE | PLAIN)[:-1] + bytes.fromhex(octets)


REFUSED = {
    "no octets": (b"", "not a CBOR item"),
    "trailing octets": (pack(BASE | PLAIN) + b"\x00", "octets follow|not a CBOR item"),
    "two packs": (pack(BASE | PLAIN) * 2, "octets follow|not a CBOR item"),
    "a map": (cbor2.dumps(BASE | PLAIN), "not an array"),
    "no record": (b"\x80", "1 to 256 records"),
    "257 records": (pack(BASE | PLAIN, *[PLAIN] * 256), "1 to 256 records"),
    "record is a number": (b"\x81\x01", "a record is not a map"),
    "record is an array": (b"\x81\x85\x01\x02\x03\x04\x05", "a record is not a map"),
    "no time": (pack({-1: 26} | PLAIN), "relative, missing"),
    "relative time": (pack({-1: 26, -3: -60} | PLAIN), "relative, missing"),
    "time at 2^28 - 1": (pack({-1: 26, -3: 2**28 - 1} | PLAIN), "relative, missing"),
    "time past 2^38": (pack({-1: 26, -3: 2**38} | PLAIN), "past the year"),
    "fractional time": (pack({-1: 26, -3: KNOWN_TIME_S + 0.5} | PLAIN), "not a whole second"),
    "fractional record time": (pack(BASE | PLAIN | {6: 0.25}), "not a whole second"),
    "time as text": (pack({-1: 26, -3: "now"} | PLAIN), "base time is missing or not"),
    "time true": (pack(BASE | PLAIN | {6: True}), "the time is missing or not"),
    "NaN": (with_value("f97e00"), "not a finite number"),
    "infinity": (with_value("f97c00"), "not a finite number"),
    "minus infinity": (with_value("fbfff0000000000000"), "not a finite number"),
    "exponent 2^32": (with_value("c4821affffffff01"), "not a finite number|not a CBOR item"),
    "exponent 2^64": (with_value("c4821bffffffffffffffff01"), "not a CBOR item"),
    "exponent -2^64": (with_value("c4823bffffffffffffffff01"), "not a CBOR item"),
    "1E+40": (with_value("c482182801"), "not a finite number"),
    "bignum": (with_value("c24101"), "a CBOR tag other than 4"),
    "date tag": (with_value("c101"), "a CBOR tag other than 4"),
    "unknown tag": (with_value("d9ffff01"), "a CBOR tag other than 4"),
    "self-described": (b"\xd9\xd9\xf7" + pack(BASE | PLAIN), "a CBOR tag other than 4"),
    "2^63": (with_value("1b8000000000000000"), "64 bits"),
    "-2^63 - 1": (with_value("3b8000000000000000"), "64 bits"),
    "2^63 by a base value": (pack(BASE | PLAIN | {-5: 2**63 - 5}), "64 bits"),
    "value null": (with_value("f6"), "the value is missing"),
    "value true": (with_value("f5"), "the value is missing"),
    "value as text": (one(_2="5"), "the value is missing"),
    "value missing": (pack(BASE | {0: "1-0:1.8.0", 1: "Wh"}), "the value is missing"),
    "base value as text": (pack(BASE | PLAIN | {-5: "1"}), "base value is missing or not"),
    "string value": (pack(BASE | {0: "n", 1: "Wh", 3: "x"}), "label 3"),
    "boolean value": (pack(BASE | {0: "n", 1: "Wh", 4: True}), "label 4"),
    "data value": (pack(BASE | {0: "n", 1: "Wh", 8: b"x"}), "label 8"),
    "sum": (pack(BASE | PLAIN | {5: 1}), "label 5"),
    "base sum": (pack(BASE | PLAIN | {-6: 1}), "label -6"),
    "must be understood": (pack(BASE | PLAIN | {"new_": 1}), "must be understood"),
    "label as octets": (pack(BASE | PLAIN | {b"x": 1}), "neither an integer nor text"),
    "label false for 0": (pack(BASE | {False: "n", 1: "Wh", 2: 5}), "neither an integer nor text"),
    "label 0.0 for 0": (pack(BASE | {0.0: "n", 1: "Wh", 2: 5}), "neither an integer nor text"),
    "duplicate labels": (b"\x81\xa2\x02\x01\x02\x01", "Duplicate"),
    "no name": (pack(BASE | {1: "Wh", 2: 5}), "needs a name and a unit"),
    "no unit": (pack(BASE | {0: "n", 2: 5}), "needs a name and a unit"),
    "name as octets": (pack(BASE | {0: b"n", 1: "Wh", 2: 5}), "the name is not text"),
    "base name as number": (pack(BASE | PLAIN | {-2: 5}), "the base name is not text"),
    "unit as number": (pack(BASE | {0: "n", 1: 7, 2: 5}), "the unit is not text"),
    "base unit as number": (pack(BASE | {-4: 7, 0: "n", 2: 5}), "the unit is not text"),
    "secondary unit in version 10": (pack({-3: KNOWN_TIME_S} | PLAIN), "secondary unit"),
    "no unit of ours": (pack({-3: KNOWN_TIME_S, 0: "n", 1: "%RH", 2: 5}), "unit '%RH' belongs to no register"),
    "varh is secondary": (pack({-3: KNOWN_TIME_S, 0: "n", 1: "varh", 2: 5}), "secondary unit"),
    "version 11": (pack({-1: 11, -3: KNOWN_TIME_S} | PLAIN), "version 11"),
    "version 26.0": (pack({-1: 26.0, -3: KNOWN_TIME_S} | PLAIN), "version 26.0"),
    "version as array": (pack({-1: [], -3: KNOWN_TIME_S} | PLAIN), "SenML version"),
    "two versions": (pack(BASE | PLAIN, {-1: 10} | PLAIN), "differ in version"),
    "nested": (with_value("81" * 70 + "01"), "nesting depth"),
    "nested deep": (b"\x81" * 100_000, "nesting depth"),
    "text not UTF-8": (b"\x81\xa1\x00\x61\xff", "not a CBOR item"),
}


@pytest.mark.parametrize(("payload", "sentence"), REFUSED.values(), ids=REFUSED)
def test_refused(payload: bytes, sentence: str) -> None:
    with pytest.raises(SenMLError, match=sentence):
        parse_pack(payload)


@pytest.mark.parametrize("label", [-1, -2, -3, -4, -5, 0, 1, 2, 6])
@pytest.mark.parametrize("value", [None, True, b"x", [], {}, [1], {1: 1}, "\x00", float("nan"), Decimal("1e-300")])
def test_odd_values_at_every_label(label: int, value: Any) -> None:
    parsed(pack(BASE | PLAIN | {label: value}))


@pytest.mark.parametrize(
    ("octets", "value"),
    [
        ("1b7fffffffffffffff", 2**63 - 1),
        ("3b7fffffffffffffff", -(2**63)),
        ("f94500", 5),
        ("f98000", 0),
        ("fb4016000000000000", Decimal("5.5")),
        ("c48220190" + "8fa", Decimal("229.8")),
        ("c4820205", 500),
        ("c4821a000fffff00", 0),
    ],
)
def test_exact_values(octets: str, value: int | Decimal) -> None:
    (record,) = parse_pack(with_value(octets))
    assert record.value == value
    assert type(record.value) is type(value)


def test_sums_do_not_round() -> None:
    (record,) = parse_pack(pack(BASE | PLAIN | {-5: 2**62, 2: Decimal("0.000000000001")}))
    assert Fraction(record.value) == 2**62 + Fraction(1, 10**12)


HOSTILE = [
    "c4821b7fffffffffffffff01",
    "c4823b7fffffffffffffff01",
    "9bffffffffffffffff",
    "bbffffffffffffffff",
    "5bffffffffffffffff",
    "7bffffffffffffffff",
    "fb0000000000000001",
    "fb7fefffffffffffff",
]


@pytest.mark.parametrize("octets", HOSTILE)
def test_hostile_sizes_cost_nothing(octets: str) -> None:
    """A few octets that announce much: bounded in time and memory."""
    tracemalloc.start()
    started = time.perf_counter()
    parsed(with_value(octets))
    elapsed_s = time.perf_counter() - started
    _, peak_octets = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert elapsed_s < 0.5
    assert peak_octets < 2_000_000
