"""An archived month on its way back into the database, day by day.

    archived -> restoring -> restored

restoring: the partition is there again, and takes the readings of one file in each transaction; readers go on with the
files. The row of the month says how many files are in, in the same transaction as their readings, so whoever is killed
goes on with the next one. restored: the partition holds what was noted, and readers go there. The feed waits for one
day's readings at most.
"""

import io
from collections.abc import Iterator
from datetime import datetime, timedelta

import pyarrow as pa
import pyarrow.csv as pa_csv
from django.db import connection
from django.utils import timezone

from ami_headend.core import clock
from ami_headend.core.sql import cursor, select
from ami_headend.core.text import counted
from meters.archive import layout, steps
from meters.archive.files import ArchiveError, Store, store
from meters.archive_models import ArchivedMonth, MonthState
from meters.readings import partitions

_STANDS_STILL = timedelta(hours=1)  # without another file: each is the readings of a day
_COLUMNS = ", ".join(layout.SCHEMA.names)


def check(month: datetime, now: datetime) -> None:
    """ArchiveError if a month cannot be restored: ask before the act is recorded."""
    store()
    _check(month, ArchivedMonth.objects.filter(month=month).first(), now)


def restore(month: datetime, now: datetime) -> int:
    """Bring an archived month back into the database, from where an earlier call left it; return its rows.

    The files stay, for backups that are older. ArchiveError; OperationalError if the table is busy for longer than some
    seconds.
    """
    place = store()
    _begin(month, now)
    while _restore_file(place, month):
        pass
    return _end(month, now)


def interrupted(now: datetime) -> str:
    """Say which restore stands still, and how far it is; an empty text if none does."""
    for row in ArchivedMonth.objects.filter(state=MonthState.RESTORING).order_by("month"):
        said = row.under_way.get("at")
        last = row.changed_at if said is None else datetime.fromisoformat(said)
        if clock.has_rested(last, _STANDS_STILL, now):
            far = f"{row.under_way.get('files', 0)} of {counted(len(row.parts), 'file')}"
            return f"the restore of {row.month:%Y-%m} has stood still since {last:%Y-%m-%d %H:%M} UTC: {far}"
    return ""


def give_up(month: datetime, now: datetime) -> bool:
    """Drop the partition of a month that is being restored: it is archived as before. False if it is not."""
    with steps.step(month) as row:
        if row is None or row.state != MonthState.RESTORING:
            return False
        _drop(row, now)
    return True


def _check(month: datetime, row: ArchivedMonth | None, now: datetime) -> ArchivedMonth:
    if row is None or row.state not in (MonthState.ARCHIVED, MonthState.RESTORING):
        raise ArchiveError(f"{month:%Y-%m} is not archived")
    if month < partitions.first_kept(now):
        raise ArchiveError(f"{month:%Y-%m} would be deleted at once: its retention is over (RETENTION_DAYS)")
    return row


def _begin(month: datetime, now: datetime) -> None:
    with steps.step(month) as found:
        row = _check(month, found, now)
        if row.state == MonthState.ARCHIVED:
            steps.hold_partitions()
            select("SELECT meters_create_month(%s)", [month])
            row.state, row.changed_at, row.under_way = MonthState.RESTORING, now, {}
            row.save()


def _restore_file(place: Store, month: datetime) -> bool:
    """Store the readings of the next file; False if all are stored."""
    with steps.step(month) as row:
        if row is None or row.state != MonthState.RESTORING:
            raise ArchiveError(f"{month:%Y-%m} is not being restored any more")
        parts, done = steps.parts_of(row), row.under_way.get("files", 0)
        if done == len(parts):
            return False
        steps.check_file(place, parts[done])
        with place.reading(parts[done].name) as source:
            _copy_in(layout.read(source))
        row.under_way = {"files": done + 1, "at": timezone.now().isoformat()}
        row.save(update_fields=["under_way"])
    return True


def _end(month: datetime, now: datetime) -> int:
    """Compare the partition with what was noted, and send readers there. What differs is dropped, with ArchiveError."""
    with steps.step(month) as row:
        if row is None or row.state != MonthState.RESTORING:
            raise ArchiveError(f"{month:%Y-%m} is not being restored any more")
        if equal := steps.stored(month, partitions.month_after(month)) == steps.sums_of(row):
            row.state, row.changed_at, row.under_way = MonthState.RESTORED, now, {}
            row.save()
        else:
            _drop(row, now)
    if not equal:
        raise ArchiveError(f"{month:%Y-%m} would not hold what its files hold: nothing was restored")
    return sum(part.rows for part in steps.parts_of(row))


def _drop(row: ArchivedMonth, now: datetime) -> None:
    steps.hold_partitions()
    select("SELECT meters_close_month(%s)", [row.month])
    select("SELECT meters_archive_month(%s)", [row.month])
    row.state, row.changed_at, row.under_way = MonthState.ARCHIVED, now, {}
    row.save()


def _copy_in(batches: Iterator[pa.RecordBatch]) -> None:
    """Store readings."""
    statement = f"COPY meters_reading ({_COLUMNS}) FROM STDIN (FORMAT CSV)"
    with connection.wrap_database_errors, cursor() as target, target.copy(statement) as copy:
        for batch in batches:
            written = io.BytesIO()
            pa_csv.write_csv(batch, written, pa_csv.WriteOptions(include_header=False))
            copy.write(written.getvalue())
