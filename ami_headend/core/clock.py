"""Comparisons of stored times with the present clock, though the clock may have been wrong when they were stored.

A clock that ran ahead leaves times that lie in the future once it is right again. If a pause were added to such a time,
it would last as long as the clock was ahead; if its age were taken for 0, nobody would notice. So:

- a time in the future counts as never: its pause is over, and it is due at once;
- an age below zero stays below zero, and is reported;
- durations within one process are measured by ``time.monotonic``, which nobody sets.
"""

import math
from datetime import UTC, datetime, timedelta

from django.core.validators import MaxValueValidator, MinValueValidator

# Limits of times that callers may give. In every time zone, and some years on, they are dates that Python and
# PostgreSQL can represent. A time of year 1 or 9999 would fail later, wherever it is shown or counted from.
EARLIEST, LATEST = datetime(1970, 1, 1, tzinfo=UTC), datetime(9998, 1, 1, tzinfo=UTC)
WITHIN_TIMES = (
    MinValueValidator(EARLIEST, message="That is before the earliest time that can be stored."),
    MaxValueValidator(LATEST, message="That is after the latest time that can be stored."),
)
DIFFERENCE_MAX = timedelta(seconds=2)  # between the clocks of two hosts that both keep good time


def is_ahead(at: datetime, now: datetime) -> bool:
    """Whether a stored time lies further in the future than the clocks of two hosts may differ."""
    return at - now > DIFFERENCE_MAX


def age_s(at: datetime, now: datetime) -> float:
    """Return the age of a stored time in seconds: negative if it lies in the future."""
    return (now - at).total_seconds()


def seconds_since(at_s: float, now_s: float) -> float:
    """Return the seconds since a stored Unix time; infinity if it lies in the future, so that it counts as expired."""
    since_s = now_s - at_s
    return math.inf if since_s < -DIFFERENCE_MAX.total_seconds() else max(0.0, since_s)


def has_rested(last: datetime | None, rest: timedelta, now: datetime) -> bool:
    """Whether an action last done at ``last`` is due again. It is due at once if that is None or in the future."""
    return last is None or is_ahead(last, now) or last + rest <= now


def is_within(last: datetime | None, period: timedelta, now: datetime) -> bool:
    """Whether something happened within the period that ends now. A time in the future does not count."""
    return not has_rested(last, period, now)


def is_due(due_at: datetime, longest: timedelta, now: datetime) -> bool:
    """Whether something put off until ``due_at`` is due. It is also due if nobody could have put it off for so long."""
    return due_at <= now or is_ahead(due_at, now + longest)


def latest_due(longest: timedelta, now: datetime) -> datetime:
    """Return the latest time until which something can be put off now; a later one was set by a clock that ran ahead.

    ``is_due`` for SQL and querysets: ``due_at <= now OR due_at > latest_due(longest, now)``.
    """
    return now + longest + DIFFERENCE_MAX
