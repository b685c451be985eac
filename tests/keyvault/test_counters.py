"""Counter sets against a plain set as the model, and their text against PostgreSQL's own."""

import pytest
from django.db import connection
from hypothesis import given
from hypothesis import strategies as st

from keyvault.replay_window import CounterSet, Take, format_gaps, parse_gaps

COUNTERS = st.lists(st.one_of(st.integers(0, 40), st.integers(0, 2**40 - 1)), max_size=60)


def runs_of(counters: CounterSet) -> set[int]:
    return {counter for first, last in counters.gaps for counter in range(first, last + 1)}


def check_shape(counters: CounterSet, max_gap_runs: int) -> None:
    """Runs ascend, stand apart, lie between floor and highest, and are not too many."""
    assert len(counters.gaps) <= max_gap_runs
    previous_last = counters.floor - 2
    for first, last in counters.gaps:
        assert previous_last + 1 < first <= last < counters.highest
        previous_last = last


@given(COUNTERS, st.integers(1, 6))
def test_never_twice_never_guessed(sequence: list[int], max_gap_runs: int) -> None:
    counters, taken, given_up = CounterSet(max_gap_runs), set(), 0
    for counter in sequence:
        looked = counters.look(counter)
        result = counters.take(counter)
        assert looked is result
        if result is Take.TAKEN:
            assert counter not in taken
            taken.add(counter)
        elif result is Take.SEEN:
            assert counter in taken
        else:
            assert counter < counters.floor  # seen or not: nobody can tell
        assert counters.highest == max(taken)
        assert counters.floor >= given_up  # a floor never sinks
        given_up = counters.floor
        check_shape(counters, max_gap_runs)


@given(st.permutations(range(25)), st.data())
def test_any_order_is_taken_once_while_gaps_are_kept(order: list[int], data: st.DataObject) -> None:
    """With room for every gap no counter is too old: the set as a whole is the model."""
    counters, taken = CounterSet(1_024), set()
    for counter in data.draw(st.lists(st.sampled_from(order), max_size=60)) + order:
        assert counters.take(counter) is (Take.SEEN if counter in taken else Take.TAKEN)
        taken.add(counter)
        assert runs_of(counters) == set(range(counters.highest)) - taken
        assert counters.floor == 0
    assert counters.gaps == []


def test_in_order_nothing_is_kept() -> None:
    counters = CounterSet(1_024)
    for counter in range(1_000):
        assert counters.take(counter) is Take.TAKEN
    assert (counters.highest, counters.gaps, counters.gaps_changed) == (999, [], False)


def test_exactly_the_runs_promised_are_kept() -> None:
    """Every second counter missing: 1,024 runs stay open, the 1,025th gives up the oldest."""
    counters = CounterSet(1_024)
    for counter in range(1, 2 * 1_024, 2):
        counters.take(counter)
    assert (len(counters.gaps), counters.floor) == (1_024, 0)
    counters.take(2 * 1_024 + 1)
    assert (len(counters.gaps), counters.floor) == (1_024, 1)
    assert counters.take(0) is Take.TOO_OLD
    assert counters.take(1) is Take.SEEN
    assert counters.take(2) is Take.TAKEN


GAPS = st.lists(st.integers(0, 2**40), max_size=40, unique=True).map(
    lambda ends: [(first, last) for first, last in zip(*[iter(sorted(ends))] * 2, strict=False)]
)
APART = GAPS.map(lambda runs: [(4 * first, 4 * last + 1) for first, last in runs])  # never adjacent


@given(APART)
def test_text_round_trip(gaps: list[tuple[int, int]]) -> None:
    assert parse_gaps(format_gaps(gaps)) == gaps


@pytest.mark.django_db
@pytest.mark.parametrize(
    "gaps", [[], [(0, 0)], [(3, 4), (9, 9)], [(0, 2**40 - 2)], [(n * 3, n * 3 + 1) for n in range(1_024)]]
)
def test_text_is_postgresqls_own(gaps: list[tuple[int, int]]) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT %s::int8multirange::text", [format_gaps(gaps)])
        (text,) = cursor.fetchone()
    assert text == format_gaps(gaps)
    assert parse_gaps(text) == gaps
