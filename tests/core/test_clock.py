"""A clock that was ahead leaves times in the future: they count as never."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ami_headend.core import clock

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


@pytest.mark.parametrize(
    ("last", "is_due"),
    [
        (None, True),
        (NOW - MINUTE, True),
        (NOW - MINUTE / 2, False),
        (NOW, False),
        (NOW + clock.DIFFERENCE_MAX, False),  # another host's clock
        (NOW + timedelta(hours=2), True),
    ],
)
def test_what_lies_in_the_future_has_rested(last: datetime | None, is_due: bool) -> None:
    assert clock.has_rested(last, MINUTE, NOW) is is_due
    assert clock.is_within(last, MINUTE, NOW) is not is_due


def test_an_age_below_zero_stays_below_zero() -> None:
    assert clock.age_s(NOW + timedelta(seconds=3418), NOW) == -3418
    assert clock.is_ahead(NOW + timedelta(seconds=3), NOW)
    assert not clock.is_ahead(NOW + timedelta(seconds=1), NOW)


@given(
    last=st.timedeltas(timedelta(days=-400), timedelta(days=400)),
    rest=st.timedeltas(timedelta(0), timedelta(days=30)),
)
def test_nothing_waits_longer_than_its_rest(last: timedelta, rest: timedelta) -> None:
    """Wherever the clock was when it was done last, it is due again after its rest and two clocks' difference."""
    later = NOW + rest + clock.DIFFERENCE_MAX
    assert clock.has_rested(NOW + last, rest, NOW) or clock.has_rested(NOW + last, rest, later)
    assert clock.is_due(NOW + last, rest, NOW) or clock.is_due(NOW + last, rest, later)


def test_the_longest_put_off_bounds_what_is_due() -> None:
    hour = timedelta(hours=1)
    assert not clock.is_due(NOW + hour, hour, NOW)
    assert clock.is_due(NOW + 2 * hour, hour, NOW)
    assert clock.is_due(NOW, hour, NOW)
    assert clock.latest_due(hour, NOW) < NOW + 2 * hour
