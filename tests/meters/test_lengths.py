"""Which interval length holds when: a pure module."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meters.registry.interval_lengths import Lengths, LengthSpan, common_boundary, corrected

HOUR_S = 3600
NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)


def test_each_interval_is_of_the_length_that_held_at_its_start() -> None:
    lengths = Lengths([(10 * HOUR_S, 60), (20 * HOUR_S, 15)], 30)
    starts = (0, 10 * HOUR_S - 1, 10 * HOUR_S, 20 * HOUR_S - 900, 20 * HOUR_S, 99 * HOUR_S)
    assert [lengths.at(start) for start in starts] == [60, 60, 15, 15, 30, 30]


def test_off_the_grid_an_announced_length_shows_and_on_it_the_one_that_holds() -> None:
    lengths = Lengths([], 30, [(10 * HOUR_S, 15)])
    assert lengths.at(10 * HOUR_S + 900) == 15
    assert lengths.at(10 * HOUR_S) == 30  # either could be
    assert lengths.at(9 * HOUR_S + 900) == 30  # not before its time: refused as off the grid
    assert lengths.at(10 * HOUR_S + 60) == 30  # on neither grid


@pytest.mark.parametrize(
    ("at", "minutes", "expected"),
    [
        (NOON, (30, 15), NOON),
        (NOON + timedelta(seconds=1), (30, 15), NOON + timedelta(minutes=30)),
        (NOON + timedelta(minutes=30), (30, 60), NOON + timedelta(hours=1)),
        (NOON, (20, 15), NOON),
        (NOON + timedelta(minutes=1), (20, 15), NOON + timedelta(hours=1)),
        (NOON, (1440, 30), NOON.replace(hour=0) + timedelta(days=1)),
    ],
)
def test_the_next_common_boundary(at: datetime, minutes: tuple[int, ...], expected: datetime) -> None:
    assert common_boundary(at, *minutes) == expected


@given(st.datetimes(timezones=st.just(UTC)), st.integers(1, 1440), st.integers(1, 1440))
def test_intervals_of_both_begin_at_a_boundary_and_at_none_before(at: datetime, old: int, new: int) -> None:
    if at.year > 9000:
        return
    boundary = common_boundary(at, old, new)
    step = timedelta(minutes=old * new)
    assert at <= boundary < at + step
    for minutes in (old, new):
        assert int(boundary.timestamp()) % (minutes * 60) == 0


ENDS = st.one_of(st.none(), st.integers(0, 10).map(lambda hours: NOON + timedelta(hours=hours)))
CHANGES = st.lists(
    st.tuples(st.integers(0, 10), st.sampled_from([15, 30, 60])), max_size=4, unique_by=lambda one: one[0]
)


@given(CHANGES, st.sampled_from([15, 30, 60]), ENDS, ENDS, st.sampled_from([15, 30, 60]))
def test_a_correction_holds_in_its_span_and_nowhere_else(
    changes: list[tuple[int, int]], newest: int, start: datetime | None, end: datetime | None, minutes: int
) -> None:
    if start is not None and end is not None and start >= end:
        start, end = end, start + timedelta(hours=1)
    ends = [NOON + timedelta(hours=hours) for hours, _ in sorted(changes)]
    held = [minutes for _, minutes in sorted(changes)] + [newest]
    spans = [LengthSpan(*one) for one in zip([None, *ends], [*ends, None], held, strict=True)]
    after = corrected(spans, LengthSpan(start, end, minutes))
    assert (after[0].start, after[-1].end) == (None, None)
    assert all(one.end == following.start for one, following in pairwise(after))
    assert all(one.minutes != following.minutes for one, following in pairwise(after))
    for hours in range(-1, 13):
        at = NOON + timedelta(hours=hours, minutes=30)
        is_inside = (start is None or at >= start) and (end is None or at < end)
        assert _at(after, at) == (minutes if is_inside else _at(spans, at))


def _at(spans: list[LengthSpan], at: datetime) -> int:
    [minutes] = [
        one.minutes for one in spans if (one.start is None or one.start <= at) and (one.end is None or at < one.end)
    ]
    return minutes
