"""For how long a task may run, and a statement in it."""

from typing import TypedDict


class TimeLimits(TypedDict):
    """What a task is decorated with, in seconds."""

    soft_time_limit: int
    time_limit: int


# A task that takes longer gets SoftTimeLimitExceeded, and its process is killed where that does not end it.
SOFT_TIME_LIMIT_S = 120
TIME_LIMIT_S = 150
# What walks through whole tables, in batches that are committed: what was not done in the time, the next turn does.
LONG_SOFT_TIME_LIMIT_S = 900
LONG: TimeLimits = {"soft_time_limit": LONG_SOFT_TIME_LIMIT_S, "time_limit": LONG_SOFT_TIME_LIMIT_S + 60}

# Of one statement, and of one wait for a lock, in a worker: below the limit, so that the database says what it was.
STATEMENT_TIMEOUT_S = 100
LOCK_TIMEOUT_S = 30
CLIENT_CHECK_S = 2  # by then the database ends the statement of a worker process that was killed
