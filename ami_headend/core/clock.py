"""Stored times beside the clock of now, which may have been wrong when they were stored.

A clock that was ahead leaves times that lie in the future once it is right again. Whoever adds a rest to such a time
and waits for the sum waits for as long as the clock was ahead, and an age that is taken for 0 hides it. So:

- what lies in the future counts as never: its rest is over, it is due at once;
- an age below zero stays below zero, and is a finding;
- lengths of time within one process are taken from ``time.monotonic``, which nobody sets.
"""

import math
from datetime import UTC, datetime, timedelta

from django.core.validators import MaxValueValidator, MinValueValidator

# Times that somebody may give: in every zone of the earth, and some years on, they are dates of Python's and of
# PostgreSQL's. One of year 1 or 9999 fails later, wherever it is shown or counted from.
EARLIEST, LATEST = datetime(1970, 1, 1, tzinfo=UTC), datetime(9998, 1, 1, tzinfo=UTC)
WITHIN_TIMES = (
    MinValueValidator(EARLIEST, message="That is before all times that stand here."),
    MaxValueValidator(LATEST, message="That is after all times that can stand here."),
)
DIFFERENCE_MAX = timedelta(seconds=2)  # between the clocks of two hosts that are both well


def is_ahead(at: datetime, now: datetime) -> bool:
    """Whether a stored time lies in the future by more than two hosts' clocks differ: the clock was ahead then."""
    return at - now > DIFFERENCE_MAX


def age_s(at: datetime, now: datetime) -> float:
    """How long ago a stored time is, in seconds: below zero where it lies in the future."""
    return (now - at).total_seconds()


def seconds_since(at_s: float, now_s: float) -> float:
    """How long ago a stored Unix time is; for ever where it lies in the future. For what holds only for a while."""
    since_s = now_s - at_s
    return math.inf if since_s < -DIFFERENCE_MAX.total_seconds() else max(0.0, since_s)


def has_rested(last: datetime | None, rest: timedelta, now: datetime) -> bool:
    """Whether something that was done last at a time is due again. Never, and in the future, are due at once."""
    return last is None or is_ahead(last, now) or last + rest <= now


def is_within(last: datetime | None, period: timedelta, now: datetime) -> bool:
    """Whether something happened within the period that ends now. In the future it did not happen."""
    return not has_rested(last, period, now)


def is_due(due_at: datetime, longest: timedelta, now: datetime) -> bool:
    """Whether what was put off until a time is due: also where nobody could have put it off for so long."""
    return due_at <= now or is_ahead(due_at, now + longest)


def latest_due(longest: timedelta, now: datetime) -> datetime:
    """The last time until which something can have been put off by now: a later one was set by a clock ahead.

    ``is_due`` for SQL and querysets: ``due_at <= now OR due_at > latest_due(longest, now)``.
    """
    return now + longest + DIFFERENCE_MAX
