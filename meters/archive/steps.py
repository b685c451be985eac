"""What the steps of a month share: one transaction of one process, and what database and files hold."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from django.db import connection, transaction

from ami_headend.core import locks
from ami_headend.core.sql import select
from meters.archive import layout
from meters.archive.files import ArchiveError, DamagedError, Store
from meters.archive.layout import NOTHING, Part, Sums
from meters.archive_models import ArchivedMonth
from meters.readings import partitions

DAY = timedelta(days=1)
_IDLE = "1h"  # that a file may take on its way to a bucket, while its transaction waits
_SUMS = """SELECT register_id, count(*), sum((extract(epoch FROM captured_at) * 1000000)::bigint), sum(meter_id),
                  sum(value), sum(uplink_id), sum(interval_minutes), coalesce(sum(scheme), 0), count(scheme)
           FROM meters_reading WHERE captured_at >= %s AND captured_at < %s GROUP BY 1"""
PARTITION_OCTETS = f"SELECT p.start, pg_total_relation_size(p.oid) FROM ({partitions.PARTITIONS}) AS p"


@contextmanager
def step(month: datetime) -> Iterator[ArchivedMonth | None]:
    """One transaction of one process, with the row of the month; no step waits for long behind readers."""
    with transaction.atomic():
        locks.take(locks.ARCHIVE)
        with connection.cursor() as one:
            one.execute(f"SET LOCAL lock_timeout = '{partitions.LOCK_TIMEOUT}'")
            one.execute("SET LOCAL statement_timeout = 0")
            one.execute(f"SET LOCAL idle_in_transaction_session_timeout = '{_IDLE}'")
        yield ArchivedMonth.objects.filter(month=month).first()


def hold_partitions() -> None:
    """Wait until no other process makes or drops partitions, and keep others from it until the step ends."""
    locks.take(locks.PARTITIONS)


def require_partition(month: datetime) -> None:
    """ArchiveError if a month on its way into the archive has no partition any more."""
    name = f"meters_reading_{partitions.name_of(month)}"
    if select("SELECT to_regclass(%s) IS NULL", [name])[0][0]:
        raise ArchiveError(f"readings of {month:%Y-%m} are not in the database any more: their retention is over")


def days(month: datetime) -> Iterator[datetime]:
    """Yield the days of a month, UTC."""
    start = month.astimezone(UTC)
    while start < partitions.month_after(month):
        yield start
        start += DAY


def parts_of(row: ArchivedMonth) -> list[Part]:
    return [Part(**part) for part in row.parts]


def sums_of(row: ArchivedMonth) -> dict[int, Sums]:
    return {int(register): Sums(*map(int, sums)) for register, sums in row.registers.items()}


def plus(one: dict[int, Sums], other: dict[int, Sums]) -> dict[int, Sums]:
    """Add sums by register."""
    return {key: one.get(key, NOTHING).plus(other.get(key, NOTHING)) for key in one.keys() | other.keys()}


def minus(one: dict[int, Sums], other: dict[int, Sums]) -> dict[int, Sums]:
    """Take sums by register off others; a register without rows is none."""
    left = plus(one, {key: Sums(*(-number for number in sums)) for key, sums in other.items()})
    return {key: sums for key, sums in left.items() if sums.rows}


def stored(start: datetime, end: datetime) -> dict[int, Sums]:
    """Return what the database holds of [start, end), by register; one query."""
    return {int(register): Sums(*map(int, sums)) for register, *sums in select(_SUMS, [start, end])}


def check_file(place: Store, part: Part) -> None:
    """Compare size and SHA-256 of a file. DamagedError; ArchiveError if the archive does not answer."""
    there = place.octets(part.name) == part.octets
    try:
        there = there and place.sha256(part.name) == part.sha256
    except ArchiveError as error:  # the archive answers, and does not give this file
        raise DamagedError(f"{error}: restore it from a backup of the archive") from None
    if not there:
        raise DamagedError(f"{part.name} is not there as it was written: restore it from a backup of the archive")


def read_again(place: Store, part: Part) -> dict[int, Sums]:
    """Return the sums of a stored file by register. OrderError, ArchiveError."""
    found: dict[int, Sums] = {}
    with place.reading(part.name) as source:
        for batch in layout.in_order(layout.read(source)):
            layout.add(found, batch)
    return found
