"""Registers against intervals: known cases, and random ones against a computation minute by minute in fractions."""

import itertools
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meters.readings.obis import RegisterKind
from meters.readings.register_check import Comparison, Counter, Entry, Measured, Pair, compare, pairs

HOUR = 3600
CUMULATIVE, INTERVAL = RegisterKind.CUMULATIVE, RegisterKind.INTERVAL
TOTAL = Counter(1, 0, None)
PAIR = Pair(9, "Wh", 0, TOTAL, (Counter(2, 0, None), Counter(3, 0, None)))


def hours(*values: int | None) -> list[Measured]:
    """Intervals of an hour from 0 on; None is missing."""
    return [Measured(n * HOUR, 60, value) for n, value in enumerate(values) if value is not None]


def judged(pair: Pair, readings: dict[int, dict[int, int]], intervals: list[Measured]) -> list[tuple[int, bool]]:
    return [(one.end_s // HOUR, one.differs) for one in compare(pair, readings, intervals)]


def test_equal_resolutions_allow_no_step() -> None:
    readings = {1: {0: 1000, 2 * HOUR: 1030, 4 * HOUR: 1071}}
    assert list(compare(PAIR, readings, hours(10, 20, 20, 20))) == [
        Comparison(0, 2 * HOUR, 0, 30, 30, 0),
        Comparison(2 * HOUR, 4 * HOUR, 0, 41, 40, 0),
    ]
    assert judged(PAIR, readings, hours(10, 20, 20, 20)) == [(2, False), (4, True)]


@pytest.mark.parametrize(
    ("intervals", "why"),
    [
        (hours(10, None, 20), "one is missing"),
        (hours(10, 20), "the last is missing"),
        ([*hours(10, 20, 30), Measured(1800, 30, 1)], "two overlap"),
        ([*hours(10, 20, 30), Measured(-1800, 60, 1)], "one that began before overlaps"),
        ([Measured(0, 60, 1), Measured(HOUR, 60, 1), Measured(2 * HOUR, 30, 1)], "the last is too short"),
        ([Measured(1800, 60, 1), Measured(5400, 60, 1)], "none begins where the register was read"),
    ],
)
def test_what_is_not_whole_is_not_judged(intervals: list[Measured], why: str) -> None:
    assert judged(PAIR, {1: {0: 0, 3 * HOUR: 999}}, intervals) == [], why


def test_a_reading_within_an_interval_divides_no_span() -> None:
    readings = {1: {0: 0, 2 * HOUR + 600: 47, 3 * HOUR: 60}}
    assert judged(PAIR, readings, hours(10, 20, 30)) == [(3, False)]


def test_a_change_of_length_is_no_hole() -> None:
    intervals = [*hours(10, 20), Measured(2 * HOUR, 30, 5), Measured(2 * HOUR + 1800, 30, 6)]
    assert judged(PAIR, {1: {0: 0, 3 * HOUR: 41}}, intervals) == [(3, False)]


@pytest.mark.parametrize(("maximum", "differs"), [(999, False), (None, True), (998, True), (9999, True)])
def test_a_counter_begins_again_at_0_after_its_nines(maximum: int | None, differs: bool) -> None:
    (pair,) = pairs(
        [
            Entry(1, "1-0:1.8.0", CUMULATIVE, "Wh", 0, maximum),
            Entry(9, "1-0:1.29.0", INTERVAL, "Wh", 0, None),
        ]
    )
    assert judged(pair, {1: {0: 990, HOUR: 5}}, hours(15)) == [(1, differs)]


def test_a_register_that_goes_back_differs() -> None:
    assert judged(PAIR, {1: {0: 990, HOUR: 980}}, hours(10)) == [(1, True)]


@pytest.mark.parametrize(
    ("steps", "wh", "differs"), [(1, 1, False), (1, 1999, False), (1, 0, True), (1, 2000, True), (0, 999, False)]
)
def test_a_coarser_register_may_lie_less_than_one_step_apart(steps: int, wh: int, differs: bool) -> None:
    """A register in kWh: at both times it hides up to 999 Wh."""
    pair = Pair(9, "Wh", 0, Counter(1, 3, None), ())
    assert judged(pair, {1: {0: 7, HOUR: 7 + steps}}, hours(wh)) == [(1, differs)]


def test_rates_are_added_up_where_the_meter_sends_no_register_of_all() -> None:
    rates = {2: {0: 100, HOUR: 110, 2 * HOUR: 110}, 3: {0: 5, 2 * HOUR: 25}}
    assert judged(PAIR, rates, hours(10, 20)) == [(2, False)]
    assert judged(PAIR, rates, hours(10, 22)) == [(2, True)]
    assert judged(PAIR, {**rates, 1: {0: 0, HOUR: 10}}, hours(10, 22)) == [(1, False)]
    assert judged(PAIR, {}, hours(10)) == []


def test_pairs_of_the_catalogue() -> None:
    found = pairs(
        [
            Entry(1, "1-0:1.8.0", CUMULATIVE, "kWh", 0, None),
            Entry(2, "1-0:1.8.2", CUMULATIVE, "Wh", 0, None),
            Entry(3, "1-0:2.8.0", CUMULATIVE, "Wh", 0, None),
            Entry(4, "1-0:1.29.0", INTERVAL, "Wh", -1, None),
            Entry(5, "1-0:1.29.2", INTERVAL, "Wh", 0, None),
            Entry(6, "1-0:3.29.0", INTERVAL, "varh", 0, None),
            Entry(7, "1-0:3.8.0", CUMULATIVE, "Wh", 0, None),
            Entry(8, "1-0:1.7.0", RegisterKind.INSTANTANEOUS, "W", 0, None),
            Entry(10, "1-0:2.29.0", INTERVAL, "Wh", 40, None),
        ]
    )
    assert found == [
        Pair(4, "Wh", -1, Counter(1, 3, None), (Counter(2, 0, None),)),
        Pair(5, "Wh", 0, Counter(2, 0, None), ()),
    ]


def slowly(pair: Pair, readings: dict[int, dict[int, int]], intervals: list[Measured]) -> list[tuple[int, int, bool]]:
    """The same in another way: every minute is asked which intervals have it, and energies are fractions of a unit."""
    chosen = [1] if readings.get(1) else [one for one in (2, 3) if readings.get(one)]
    if not chosen:
        return []
    by_id = {one.register_id: one for one in pair.counters}
    unit = {one: Fraction(10) ** by_id[one].scaler for one in chosen}
    own = Fraction(10) ** pair.scaler
    marks = {at for one in intervals for at in (one.start_s, one.start_s + one.minutes * 60)}
    times = [at for at in range(0, 20 * 60, 60) if at in marks and all(at in readings[one] for one in chosen)]
    found = []
    for before, after in itertools.pairwise(times):
        having = [
            [one for one in intervals if one.start_s <= at < one.start_s + one.minutes * 60]
            for at in range(before, after, 60)
        ]
        if any(len(those) != 1 for those in having):
            continue
        inside = {those[0] for those in having}
        if any(one.start_s < before or one.start_s + one.minutes * 60 > after for one in inside):
            continue
        advance = Fraction(0)
        for one in chosen:
            value = readings[one][after] - readings[one][before]
            modulus = by_id[one].modulus
            advance += (value + modulus if value < 0 and modulus else value) * unit[one]
        # Each display hides less than one step of its own, at both times: so the two may differ by less than all
        # steps together; and as all are multiples of the finest, by two of those less at most.
        room = sum(unit.values()) + own - 2 * min([*unit.values(), own])
        found.append((before, after, abs(advance - sum(one.value for one in inside) * own) > room))
    return found


VALUES = st.integers(0, 60)
SCALERS = st.integers(-1, 1)
COUNTERS = st.dictionaries(st.integers(0, 16).map(lambda minute: minute * 60), VALUES, max_size=6)


@settings(max_examples=150, deadline=None)
@given(
    st.tuples(SCALERS, SCALERS, SCALERS, SCALERS),
    st.sampled_from([None, 100]),
    st.fixed_dictionaries({1: COUNTERS, 2: COUNTERS, 3: COUNTERS}),
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4), VALUES), max_size=9),
)
def test_it_agrees_with_a_computation_minute_by_minute(
    scalers: tuple[int, int, int, int],
    modulus: int | None,
    readings: dict[int, dict[int, int]],
    runs: list[tuple[int, int, int]],
) -> None:
    pair = Pair(
        9,
        "Wh",
        scalers[0],
        *(Counter(1, scalers[1], modulus), (Counter(2, scalers[2], None), Counter(3, scalers[3], modulus))),
    )
    intervals: dict[int, Measured] = {}
    at = 0
    for skip, minutes, value in runs:  # mostly one after the other; 3 goes back by a minute: an overlap
        at = max(0, at + (0 if skip < 2 else 60 if skip == 2 else -60))
        intervals[at] = Measured(at, minutes, value)
        at += minutes * 60
    found = [(one.start_s, one.end_s, one.differs) for one in compare(pair, readings, list(intervals.values()))]
    assert found == slowly(pair, readings, list(intervals.values()))
