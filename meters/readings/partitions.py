"""Monthly partitions of the readings, over the whole retention window and some months ahead.

There is no default partition: a reading outside of the window is refused before it is stored
(``too_old``, ``clock_skew``), so one without a partition is a fault here, and must be loud.
"""

from collections.abc import Generator
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from dateutil.relativedelta import relativedelta
from django.conf import settings
from django.db import connection, transaction
from django.utils import timezone
from psqlextra.partitioning import (
    PostgresPartitioningConfig,
    PostgresPartitioningManager,
    PostgresPartitioningPlan,
    PostgresRangePartition,
    PostgresRangePartitioningStrategy,
)

from ami_headend.core import locks
from meters.models import Reading

MONTHS_AHEAD = 4
# A month is dropped this long after all of it expired: a worker that just now judged a reading
# to be inside the retention still finds its partition.
DROP_AFTER = timedelta(days=1)
# New and dropped partitions need the table alone for a moment. Waiting for it behind a long export
# would stop the writers that queue up behind us, so we give up and come back.
LOCK_TIMEOUT = "3s"
_MONTH = relativedelta(months=1)
_EVENT_BATCH = 10_000


class Maintenance(NamedTuple):
    """Names of the partitions that were created and dropped."""

    created: list[str]
    dropped: list[str]


class MonthPartition(PostgresRangePartition):
    """One calendar month, UTC. (The library's time partition has no zone, and names that follow the locale.)"""

    def __init__(self, start: datetime) -> None:
        super().__init__(from_values=start.isoformat(), to_values=(start + _MONTH).isoformat())
        self.start = start

    def name(self) -> str:
        return f"{self.start:%Y_%m}"

    # By functions of the table's owner: the role that workers act in may not.

    def create(self, model: type[Any], schema_editor: Any, comment: str | None = None) -> None:
        schema_editor.execute("SELECT meters_create_month(%s)", [self.start])

    def delete(self, model: type[Any], schema_editor: Any) -> None:
        schema_editor.execute("SELECT meters_drop_month(%s)", [self.start])


class RetentionStrategy(PostgresRangePartitioningStrategy):
    """Every month from the start of retention to ``MONTHS_AHEAD``; months that expired whole go."""

    def __init__(self, now: datetime | None = None) -> None:
        self._now = now

    @property
    def now(self) -> datetime:
        return self._now or timezone.now()

    def to_create(self) -> Generator[MonthPartition, None, None]:
        start = month_start(retention_start(self.now))
        last = month_start(self.now) + MONTHS_AHEAD * _MONTH
        while start <= last:
            yield MonthPartition(start)
            start += _MONTH

    def to_delete(self) -> Generator[MonthPartition, None, None]:
        """Expired months, newest first; the manager stops asking at the first that does not exist."""
        start = month_start(retention_start(self.now) - DROP_AFTER) - _MONTH
        while start.year > 1970:
            yield MonthPartition(start)
            start -= _MONTH


def _manager(now: datetime | None = None) -> PostgresPartitioningManager:
    return PostgresPartitioningManager([PostgresPartitioningConfig(model=Reading, strategy=RetentionStrategy(now))])


manager = _manager()  # PSQLEXTRA_PARTITIONING_MANAGER, for `manage.py pgpartition`


def month_start(time: datetime) -> datetime:
    """Midnight of the first of that month, UTC."""
    return time.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def retention_start(now: datetime) -> datetime:
    """The earliest ``captured_at`` that is stored; ``now`` is the time of storing, not of receiving."""
    return now - timedelta(days=settings.RETENTION_DAYS)


def maintain(now: datetime | None = None) -> Maintenance:
    """Creates the partitions that the window needs, then drops whole expired months; runs may overlap.

    OperationalError where the table was busy for longer than ``LOCK_TIMEOUT``: try again later. ProgrammingError
    where RETENTION_DAYS is less than what the owner set (``set_retention``): nothing younger is dropped.
    """
    wanted = _manager(now or timezone.now())
    created = _apply(wanted, skip_delete=True)
    dropped = _apply(wanted, skip_create=True)
    return Maintenance(created, dropped)


def set_retention() -> None:
    """The owner's word on what may be dropped by the role that workers act in: what is past RETENTION_DAYS now."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT to_regprocedure('meters_retention_days()')")
        if cursor.fetchone() != (None,):  # migrated so far
            cursor.execute(
                "CREATE OR REPLACE FUNCTION meters_retention_days() RETURNS integer LANGUAGE sql IMMUTABLE"
                f" AS 'SELECT {int(settings.RETENTION_DAYS)}'"
            )


def retention_set() -> int:
    """The days of retention that the owner last set."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT meters_retention_days()")
        days: int = cursor.fetchone()[0]
    return days


def _apply(wanted: PostgresPartitioningManager, *, skip_create: bool = False, skip_delete: bool = False) -> list[str]:
    with transaction.atomic(), connection.cursor() as cursor:
        locks.take(locks.PARTITIONS)
        cursor.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
        plan: PostgresPartitioningPlan = wanted.plan(skip_create=skip_create, skip_delete=skip_delete)
        plan.apply()
    return [partition.name() for partition in (*plan.creations, *plan.deletions)]


def covered(now: datetime | None = None) -> tuple[datetime, datetime] | None:
    """The unbroken period [from, to) around ``now`` that has partitions; None where now has none."""
    with connection.cursor() as cursor:
        cursor.execute(_BOUNDS, [Reading._meta.db_table])
        runs: list[tuple[datetime, datetime]] = cursor.fetchall()
    now = now or timezone.now()
    return next(((start, end) for start, end in runs if start <= now < end), None)


_BOUNDS = r"""
SELECT lower(run), upper(run)
FROM (
    SELECT unnest(range_agg(tstzrange(bound[1]::timestamptz, bound[2]::timestamptz))) AS run
    FROM pg_inherits
    JOIN pg_class ON pg_class.oid = inhrelid,
    regexp_match(pg_get_expr(relpartbound, inhrelid), 'FROM \(''(.+)''\) TO \(''(.+)''\)') AS bound
    WHERE inhparent = to_regclass(%s)
) AS runs
ORDER BY 1
"""


def delete_expired_events(now: datetime | None = None) -> int:
    """Deletes the meter events from before the retention, in batches of their own transaction; how many."""
    before = retention_start(now or timezone.now())
    deleted = 0
    while True:
        with connection.cursor() as cursor:
            cursor.execute(_DELETE_EVENTS, [before, _EVENT_BATCH])
            batch: int = cursor.rowcount
        deleted += batch
        if batch < _EVENT_BATCH:
            return deleted


_DELETE_EVENTS = """
DELETE FROM meters_meterevent
WHERE id IN (SELECT id FROM meters_meterevent WHERE captured_at < %s ORDER BY captured_at LIMIT %s)
"""
