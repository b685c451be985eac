"""Days of a zone, their deadlines, and whether a target was met: no database."""

from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from concentrators.totals.read_deadlines import DayStatus, Terms, bounds, due_at, due_days, status, zone_of

OSLO = ZoneInfo("Europe/Oslo")
SEVEN = Terms(OSLO, time(7), 1, Decimal(98))


@pytest.mark.parametrize(("day", "hours"), [(date(2026, 3, 28), 24), (date(2026, 3, 29), 23), (date(2026, 10, 25), 25)])
def test_a_day_is_as_long_as_its_zone_makes_it(day: date, hours: int) -> None:
    start, end = bounds(day, OSLO)
    assert end - start == timedelta(hours=hours)
    assert start.astimezone(OSLO).time() == time(0)


def test_the_deadline_is_a_time_of_day_whatever_clocks_do_in_the_night() -> None:
    assert due_at(date(2026, 3, 27), SEVEN) == datetime(2026, 3, 28, 6, tzinfo=UTC)
    assert due_at(date(2026, 3, 28), SEVEN) == datetime(2026, 3, 29, 5, tzinfo=UTC)
    assert due_at(date(2026, 10, 24), SEVEN) == datetime(2026, 10, 25, 6, tzinfo=UTC)
    assert due_at(date(2026, 10, 24), SEVEN._replace(days_after=5)) == datetime(2026, 10, 29, 6, tzinfo=UTC)


def test_a_time_that_clocks_skip_or_repeat() -> None:
    at_half_past_two = SEVEN._replace(due_time=time(2, 30))
    assert due_at(date(2026, 3, 28), at_half_past_two) == datetime(2026, 3, 29, 1, 30, tzinfo=UTC)
    assert due_at(date(2026, 10, 24), at_half_past_two) == datetime(2026, 10, 25, 0, 30, tzinfo=UTC)


def test_a_day_is_due_from_its_deadline_on() -> None:
    due = datetime(2026, 11, 30, 6, tzinfo=UTC)
    assert due_days(SEVEN, due - timedelta(microseconds=1), 1) == [date(2026, 11, 28)]
    assert due_days(SEVEN, due, 3) == [date(2026, 11, 29), date(2026, 11, 28), date(2026, 11, 27)]


@given(
    st.integers(0, 10 * 365 * 86_400).map(lambda s: datetime(2020, 1, 1, tzinfo=UTC) + timedelta(seconds=s)),
    st.sampled_from(["UTC", "Europe/Oslo", "America/St_Johns", "Australia/Lord_Howe", "Pacific/Apia"]),
    st.times(),
    st.integers(1, 31),
)
def test_the_newest_due_day_is_due_and_the_next_is_not(now: datetime, zone: str, at: time, after: int) -> None:
    terms = Terms(ZoneInfo(zone), at.replace(tzinfo=None), after, Decimal(98))
    (newest,) = due_days(terms, now, 1)
    assert due_at(newest, terms) <= now < due_at(newest + timedelta(days=1), terms)
    assert bounds(newest, terms.zone)[1] == bounds(newest + timedelta(days=1), terms.zone)[0]


def test_status() -> None:
    assert status(0, 0, Decimal(98)) is DayStatus.NOTHING
    assert status(1000, 980, Decimal(98)) is DayStatus.MET
    assert status(1000, 979, Decimal(98)) is DayStatus.MISSED
    assert status(3, 2, Decimal("66.67")) is DayStatus.MISSED
    assert status(3, 2, Decimal("66.66")) is DayStatus.MET


@pytest.mark.parametrize("name", ["", "Nowhere/Else", "../etc/passwd", "x" * 65, "a\0b"])
def test_a_zone_that_does_not_exist_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="no time zone"):
        zone_of(name)
