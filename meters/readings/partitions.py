"""Monthly partitions of readings, for the whole retention period and some months ahead.

There is no default partition: a reading outside the period is rejected before it is stored (``too_old``,
``clock_skew``), so one without a partition is a fault of ours that must be noticed.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from django.conf import settings
from django.db import connection, transaction
from django.utils import timezone

from ami_headend.core import locks
from ami_headend.core.sql import select
from meters.archive_models import CLOSED, ArchivedMonth, MonthState

MONTHS_AHEAD = 4
# A month is dropped this long after it expired completely, so that a worker that just judged a reading to be within the
# retention period still finds its partition.
DROP_AFTER = timedelta(days=1)
# Creating and dropping partitions needs the table exclusively for a moment. Waiting behind a long export would stop all
# writers behind us, so we give up and come back.
LOCK_TIMEOUT = "3s"
_EVENT_BATCH = 10_000


class Maintenance(NamedTuple):
    """The names of created and dropped partitions."""

    created: list[str]
    dropped: list[str]


def month_start(time: datetime) -> datetime:
    """Return midnight of the first day of the month, UTC."""
    return time.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def retention_start(now: datetime) -> datetime:
    """Return the earliest ``captured_at`` that is stored; ``now`` is the time of storing, not of receiving."""
    return now - timedelta(days=settings.RETENTION_DAYS)


def month_after(start: datetime, months: int = 1) -> datetime:
    """Return the first of the month that is ``months`` (at most 20) after another first."""
    return month_start(start + months * timedelta(days=31))


def name_of(start: datetime) -> str:
    """Return the name of a month's partition, without the name of the table."""
    return f"{start.astimezone(UTC):%Y_%m}"


def maintain(now: datetime | None = None) -> Maintenance:
    """Create missing partitions of the period, then drop completely expired months; runs may overlap.

    OperationalError if the table was busy for longer than ``LOCK_TIMEOUT``: try again later. ProgrammingError if
    RETENTION_DAYS is less than the owner set (``set_retention``): nothing younger is dropped.
    """
    now = now or timezone.now()
    created = create_months(now)
    first = first_kept(now)
    return Maintenance(created, _apply("meters_drop_month", lambda there: {start for start in there if start < first}))


def first_kept(now: datetime) -> datetime:
    """Return the first month that is not dropped yet."""
    return month_start(retention_start(now) - DROP_AFTER)


def create_months(now: datetime) -> list[str]:
    """Create every missing month from the start of retention to ``MONTHS_AHEAD``; return their names.

    OperationalError as in ``maintain``.
    """
    wanted = set()
    start, last = month_start(retention_start(now)), month_after(month_start(now), MONTHS_AHEAD)
    while start <= last:
        wanted.add(start)
        start = month_after(start)
    return _apply("meters_create_month", lambda there: wanted - there - _moved())


def _moved() -> set[datetime]:
    """Return the months that are on their way into the archive, or there; ask under the lock PARTITIONS."""
    return set(ArchivedMonth.objects.exclude(state=MonthState.RESTORED).values_list("month", flat=True))


def first_stored(now: datetime) -> datetime:
    """Return the earliest ``captured_at`` that the database holds, or may."""
    return max(retention_start(now), stored_from() or retention_start(now))


class NotStoredError(ValueError):
    """Readings of the period are not in the database; the message says which are, and what to do."""


def require_stored(start: datetime, end: datetime) -> None:
    """NotStoredError if readings of [start, end) are archived, or about to be; none is until the transaction ends."""
    with connection.cursor() as cursor:
        cursor.execute("LOCK TABLE meters_reading IN ACCESS SHARE MODE")  # against the drop of a partition
    archived = ArchivedMonth.objects.filter(state__in=CLOSED, month__gte=month_start(start), month__lt=end)
    months = list(archived.order_by("month").values_list("month", flat=True))
    if months:
        span = f"{months[0]:%Y-%m}" + (f" to {months[-1]:%Y-%m}" if months[1:] else "")
        raise NotStoredError(
            f"readings of {span} are archived, and not in the database: begin at"
            f" {month_after(months[-1]):%Y-%m-%dT%H:%MZ}, or restore them (manage.py archive restore)"
        )


def stored_from() -> datetime | None:
    """Return the end of the last month that takes no readings any more, since it is archived or on its way; None if
    there is none.
    """
    last = ArchivedMonth.objects.filter(state__in=CLOSED).order_by("-month").values_list("month", flat=True).first()
    return None if last is None else month_after(last)


def set_retention() -> None:
    """Store RETENTION_DAYS and ARCHIVE_AFTER_MONTHS as the owner's limits: what workers drop or archive is older."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT to_regprocedure('meters_retention_days()')")
        if cursor.fetchone() != (None,):  # once the migration has run
            cursor.execute(
                "CREATE OR REPLACE FUNCTION meters_retention_days() RETURNS integer LANGUAGE sql IMMUTABLE"
                f" AS 'SELECT {int(settings.RETENTION_DAYS)}'"
            )
            cursor.execute(
                "CREATE OR REPLACE FUNCTION meters_archive_days() RETURNS integer LANGUAGE sql IMMUTABLE"
                f" AS 'SELECT {28 * int(settings.ARCHIVE_AFTER_MONTHS)}'"
            )


def retention_set() -> int:
    """Return the days of retention that the owner last set."""
    days: int = select("SELECT meters_retention_days()")[0][0]
    return days


def _apply(function: str, chosen: Callable[[set[datetime]], set[datetime]]) -> list[str]:
    """Call a function of the table's owner for months; what is chosen depends on those that are there.

    ``chosen`` is asked under the lock, which whoever archives or restores a month holds, too.
    """
    with transaction.atomic(), connection.cursor() as cursor:
        locks.take(locks.PARTITIONS)
        cursor.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
        cursor.execute(f"SELECT start FROM ({PARTITIONS}) AS p")
        months = sorted(chosen({start for (start,) in cursor.fetchall()}))
        for start in months:
            cursor.execute(f"SELECT {function}(%s)", [start])
    return [name_of(start) for start in months]


def covered(now: datetime | None = None) -> tuple[datetime, datetime] | None:
    """Return the unbroken period [from, to) around ``now`` that has partitions; None if now has none."""
    runs: list[tuple[datetime, datetime]] = select(_COVERED)
    now = now or timezone.now()
    return next(((start, end) for start, end in runs if start <= now < end), None)


PARTITIONS = r"""
SELECT bound[1]::timestamptz AS start, bound[2]::timestamptz AS following, pg_class.oid
FROM pg_inherits
JOIN pg_class ON pg_class.oid = inhrelid,
regexp_match(pg_get_expr(relpartbound, inhrelid), 'FROM \(''(.+)''\) TO \(''(.+)''\)') AS bound
WHERE inhparent = to_regclass('meters_reading')
"""
_COVERED = f"""
SELECT lower(run), upper(run)
FROM (SELECT unnest(range_agg(tstzrange(start, following))) AS run FROM ({PARTITIONS}) AS p) AS runs
ORDER BY 1
"""


def delete_expired_events(now: datetime | None = None) -> int:
    """Delete meter events from before the retention period, in batches of one transaction each; return their number."""
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
