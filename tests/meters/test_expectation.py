"""Which intervals are expected, against the rule said interval by interval; in every zone each belongs to one day."""

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from django.utils import timezone
from hypothesis import given
from hypothesis import strategies as st

from ami_headend.console import profiles
from ami_headend.console.periods import day_of, midnight, period_of
from meters.readings.expectation import Terms, assignment_of, expected
from meters.readings.queries import Interval

START = datetime(2026, 3, 27, tzinfo=UTC)
END = START + timedelta(days=4)
LENGTHS = [1, 5, 7, 15, 30, 60, 90, 240, 1440]
ZONES = ["Asia/Kolkata", "Asia/Kathmandu", "Europe/Berlin", "Australia/Lord_Howe", "America/St_Johns", "UTC"]

instants = st.integers(0, 4 * 24 * 60).map(lambda minutes: START + timedelta(minutes=minutes))


@st.composite
def terms(draw: st.DrawFn) -> Terms:
    """A meter with whatever may happen to it within four days; lengths change where both begin."""
    change = draw(st.none() | st.integers(0, 4).map(lambda days: START + timedelta(days=days)))
    old, new = draw(st.sampled_from(LENGTHS)), draw(st.sampled_from(LENGTHS))
    if 7 in (old, new) and old != new:
        change = None
    times = sorted(draw(st.lists(instants, max_size=4, unique=True)))
    hung = [(at, times[n + 1] if n + 1 < len(times) else None) for n, at in enumerate(times) if n % 2 == 0]
    return Terms(
        1,
        draw(instants),
        draw(st.none() | instants),
        hung,
        [(None, None, new)] if change is None else [(None, change, old), (change, None, new)],
    )


def is_expected(of: Terms, begun: datetime, minutes: int, over_by: datetime) -> bool:
    """The rule, of one interval."""
    end = begun + timedelta(minutes=minutes)
    of_then = next(
        length for since, until, length in of.lengths if (not since or since <= begun) and (not until or begun < until)
    )
    in_service = of.commissioned_at <= begun and (of.retired_at is None or end <= of.retired_at)
    hangs = not of.hung or any(since <= begun and (until is None or end <= until) for since, until in of.hung)
    return minutes == of_then and in_service and hangs and end <= over_by


@given(terms(), instants, instants, instants)
def test_expected_is_the_rule_of_each_interval(of: Terms, start: datetime, end: datetime, over_by: datetime) -> None:
    found = {
        (at, period.interval_minutes)
        for period in expected(of, start, end, over_by)
        for at in period.starts(period.start, period.end)
    }
    every = {
        (datetime.fromtimestamp(minute * 60, UTC), minutes)
        for minutes in {length for _, _, length in of.lengths}
        for minute in range(int(start.timestamp()) // 60, int(end.timestamp()) // 60)
        if minute % minutes == 0
    }
    assert found == {(at, minutes) for at, minutes in every if is_expected(of, at, minutes, over_by)}


@given(terms(), st.sampled_from(ZONES))
def test_each_interval_belongs_to_one_day_as_a_reading_and_as_expected(of: Terms, zone: str) -> None:
    with timezone.override(ZoneInfo(zone)):
        periods = list(expected(of, START, END, END))
        starts = [(at, period.interval_minutes) for period in periods for at in period.starts(period.start, period.end)]
        days = [day_of(START) + timedelta(days=n) for n in range(6)]
        curve = [Interval(at, minutes, 1) for at, minutes in starts]
        shares = profiles.by_day(days, curve, periods)
        assert [share.counted for share in shares] == [share.expected for share in shares]
        assert sum(share.expected for share in shares) == len(starts)


@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [
        ("Asia/Kolkata", date(2026, 3, 28), 24),
        ("Europe/Berlin", date(2026, 3, 29), 23),
        ("Europe/Berlin", date(2026, 10, 25), 25),
    ],
)
def test_an_hour_that_is_missing_is_missing_on_its_day_alone(zone: str, day: date, hours: int) -> None:
    """Of India's 28 March the last hour begins at 18:00 UTC, half an hour before its midnight."""
    with timezone.override(ZoneInfo(zone)):
        shown = period_of("day", day)
        of = Terms(1, datetime(2026, 1, 1, tzinfo=UTC), None, [], [(None, None, 60)])
        now = shown.end + timedelta(days=3)
        periods = list(expected(of, shown.start - timedelta(days=2), now, now))
        due = periods[0].starts(shown.start, shown.end)
        assert len(due) == hours
        curve = [
            Interval(at, 60, 1) for at in periods[0].starts(midnight(day - timedelta(days=1)), now) if at != due[-1]
        ]
        near = [day - timedelta(days=1), day, day + timedelta(days=1)]
        assert [share.expected - share.counted for share in profiles.by_day(near, curve, periods)] == [0, 1, 0]


def test_an_interval_counts_to_the_first_assignment_that_overlaps_it() -> None:
    assignments = [(1, 100, 200), (2, 210, 215), (3, 215, None)]
    for start, whom in ((0, None), (80, 1), (100, 1), (190, 1), (200, 2), (209, 2), (214, 2), (215, 3), (900, 3)):
        assert assignment_of(assignments, start, start + 30) == whom
    assert assignment_of(assignments[:1], 200, 230) is None
