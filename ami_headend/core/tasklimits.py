"""How long a task, and a statement in it, may run."""

from typing import TypedDict


class TimeLimits(TypedDict):
    """The time limits in a task's decorator, in seconds."""

    soft_time_limit: int
    time_limit: int


# A task that takes longer gets SoftTimeLimitExceeded; if that does not end it, its process is killed.
SOFT_TIME_LIMIT_S = 120
TIME_LIMIT_S = 150
# For tasks that walk through whole tables and commit in batches: the next run continues where this one stopped.
LONG_SOFT_TIME_LIMIT_S = 900
LONG: TimeLimits = {"soft_time_limit": LONG_SOFT_TIME_LIMIT_S, "time_limit": LONG_SOFT_TIME_LIMIT_S + 60}

# For one statement, and for one wait for a lock, in a worker. Below the limit above, so that the database reports it.
STATEMENT_TIMEOUT_S = 100
LOCK_TIMEOUT_S = 30
CLIENT_CHECK_S = 2  # the database notices within this time that a worker was killed, and ends its statement
