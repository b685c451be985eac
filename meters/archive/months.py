"""A month of readings on its way into the archive, and out of it: one step after the other, each whole or not at all.

    open -> closed -> written -> archived -> forgotten      (restored: back in the database, to be closed again)

closed: the partition takes no row and no change any more. written: its files were made, and read again, and hold what
the partition holds. archived: the partition is gone. Whoever is killed between two steps goes on with the next one; a
step that was cut short is made again, and a file that it left behind has the name of its content, so that it is only
found again. One process takes a step at a time.
"""

import io
import math
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.csv as pa_csv
from django.conf import settings
from django.db import connection, transaction
from django.db.models import F

from ami_headend.core import locks
from ami_headend.core.sql import cursor, select
from meters.archive import layout
from meters.archive.files import ArchiveError, DamagedError, Store, store
from meters.archive.layout import NOTHING, Part, Sums
from meters.archive_models import ArchivedMonth, MonthState
from meters.readings import partitions

_DAY = timedelta(days=1)
_BLOCK = 32 * 2**20
_COLUMNS = ", ".join(layout.SCHEMA.names)
_COPY_OUT = """COPY (SELECT (extract(epoch FROM captured_at) * 1000000)::bigint, meter_id, register_id, value,
                     uplink_id, interval_minutes, scheme
              FROM meters_reading WHERE captured_at >= %s AND captured_at < %s
              ORDER BY meter_id, register_id, captured_at) TO STDOUT (FORMAT CSV)"""
_SUMS = """SELECT register_id, count(*), sum((extract(epoch FROM captured_at) * 1000000)::bigint), sum(meter_id),
                  sum(value), sum(uplink_id), sum(interval_minutes), coalesce(sum(scheme), 0), count(scheme)
           FROM meters_reading WHERE captured_at >= %s AND captured_at < %s GROUP BY 1"""


class Planned(NamedTuple):
    """A month that is old enough to be archived, or is on its way; ``state`` is None if it is neither closed nor back.

    ``octets`` of its partition, or of its files if it is archived. ``rows`` is None if nobody has counted them.
    """

    month: datetime
    state: MonthState | None
    octets: int
    rows: int | None
    checked_at: datetime | None


def plan(now: datetime) -> list[Planned]:
    """Return the months that are archived, on their way, or old enough, the oldest first. Three queries."""
    rows = {row.month: row for row in ArchivedMonth.objects.all()}
    octets = dict(select(_PARTITION_OCTETS))
    old = {month for month in octets if partitions.month_after(month) <= _archived_before(now)}
    empty = _empty(old - rows.keys())
    found = []
    for month in sorted(old | rows.keys()):
        row = rows.get(month)
        parts = [] if row is None else [Part(**part) for part in row.parts]
        in_files = row is not None and row.state in (MonthState.ARCHIVED, MonthState.FORGOTTEN)
        found.append(
            Planned(
                month,
                None if row is None else MonthState(row.state),
                sum(part.octets for part in parts) if in_files else octets.get(month, 0),
                sum(part.rows for part in parts) if parts else 0 if month in empty else None,
                None if row is None else row.checked_at,
            )
        )
    return found


def due(now: datetime) -> list[datetime]:
    """Return the months that are to be archived, the oldest first; not those that somebody restored, or that are
    empty: what was not read yet may come.
    """
    done = (MonthState.ARCHIVED, MonthState.FORGOTTEN, MonthState.RESTORED)
    return [one.month for one in plan(now) if one.state not in done and one.rows != 0]


def archive(month: datetime, now: datetime, until_s: float = math.inf) -> bool:
    """Take the steps of a month, from where it stands; return whether it is archived.

    After ``until_s`` (monotonic) no other file is begun: the next call goes on. ArchiveError; OperationalError if the
    table is busy for longer than some seconds.
    """
    place = store()
    _close(month, now)
    if not _write(place, month, now, until_s):
        return False
    _drop(month, now)
    return True


def restore(month: datetime, now: datetime) -> int:
    """Bring an archived month back into the database, in one transaction; return its rows. ArchiveError.

    The feed tells nothing new while that transaction runs. The files stay, for backups that are older.
    """
    place = store()
    with _step(month) as row:
        if row is None or row.state != MonthState.ARCHIVED:
            raise ArchiveError(f"{month:%Y-%m} is not archived")
        select("SELECT meters_create_month(%s)", [month])
        rows = 0
        for part in _parts(row):
            _check_file(place, part)
            with place.open(part.name) as source:
                rows += _copy_in(layout.read(source))
        if _stored(month, partitions.month_after(month)) != _sums(row):
            raise ArchiveError(f"{month:%Y-%m} would not hold what its files hold: nothing was restored")
        row.state, row.changed_at = MonthState.RESTORED, now
        row.save()
    return rows


def forget_expired(now: datetime) -> list[str]:
    """Delete the files of months whose retention is over; return the months. Retention is that of partitions."""
    if not ArchivedMonth.objects.exists():
        return []
    first = partitions.first_kept(now)
    forgotten = []
    for month in ArchivedMonth.objects.filter(month__lt=first).values_list("month", flat=True).order_by("month"):
        with _step(month) as row:
            if row is not None and row.state != MonthState.FORGOTTEN:
                select("SELECT meters_drop_month(%s)", [month])
                row.state, row.changed_at = MonthState.FORGOTTEN, now
                row.save()
        place = store()
        for name in place.names(f"readings-{month:%Y-%m}"):
            place.delete(name)
        ArchivedMonth.objects.filter(month=month, state=MonthState.FORGOTTEN).delete()
        forgotten.append(partitions.name_of(month))
    return forgotten


def verify(month: datetime, now: datetime) -> int:
    """Read the files of an archived month again and compare them with what was noted; return the rows. ArchiveError.

    The row says when, and what was wrong.
    """
    row = ArchivedMonth.objects.filter(month=month, state__in=[MonthState.WRITTEN, MonthState.ARCHIVED]).first()
    if row is None:
        raise ArchiveError(f"{month:%Y-%m} has no files")
    place, found = store(), dict[int, Sums]()
    with _noted(row, now):
        for part in _parts(row):
            _check_file(place, part)
            found = _plus(found, _read_again(place, part))
        if found != _sums(row):
            raise DamagedError(f"the files of {month:%Y-%m} do not hold what was noted of them: restore them")
    return sum(part.rows for part in _parts(row))


def verify_next(now: datetime) -> datetime | None:
    """Compare size and SHA-256 of the files of the archived month that was verified longest ago; return the month.

    None if no month is archived. DamagedError, which the row has too; ArchiveError.
    """
    archived = ArchivedMonth.objects.filter(state=MonthState.ARCHIVED)
    row = archived.order_by(F("checked_at").asc(nulls_first=True), "month").first()
    if row is None:
        return None
    place = store()
    with _noted(row, now):
        for part in _parts(row):
            _check_file(place, part)
    return row.month


def fault() -> str | None:
    """Return what keeps readings of archived months from being read, as the last month shows; None if nothing does."""
    archived = ArchivedMonth.objects.filter(state=MonthState.ARCHIVED).order_by("-month")
    last = archived.first()
    if last is None:
        return None
    try:
        place = store()
        missing = [part.name for part in _parts(last) if place.octets(part.name) != part.octets]
    except ArchiveError as error:
        return f"readings before {partitions.month_after(last.month):%Y-%m} are archived, and cannot be read: {error}"
    if missing:
        return f"{missing[0]} is not in the archive as it was written"
    damaged = archived.exclude(fault="").first()
    if damaged is None:
        return None
    return f"{damaged.fault} (once that is done, manage.py archive verify {damaged.month:%Y-%m})"


def _close(month: datetime, now: datetime) -> None:
    with _step(month) as row:
        if row is None or row.state == MonthState.RESTORED:
            if partitions.month_after(month) > _archived_before(now):
                raise ArchiveError(f"{month:%Y-%m} is not ARCHIVE_AFTER_MONTHS old yet")
            if month not in dict(select(_PARTITION_OCTETS)) or (row is None and _empty({month})):
                raise ArchiveError(f"there are no readings of {month:%Y-%m}")
            select("SELECT meters_close_month(%s)", [month])
            ArchivedMonth(month=month, state=MonthState.CLOSED, changed_at=now).save()


def _write(place: Store, month: datetime, now: datetime, until_s: float) -> bool:
    """Write the files of a closed month, each in a step of its own; return whether all are there."""
    for start in _days(month):
        with _step(month) as row:
            if row is None or row.state != MonthState.CLOSED:
                return row is not None
            if start.date().isoformat() not in {part.day for part in _parts(row)}:
                _add_day(place, row, start)
        if time.monotonic() > until_s:
            return False
    with _step(month) as row:
        if row is not None and row.state == MonthState.CLOSED:
            said = layout.manifest(month, _parts(row), _sums(row))
            with place.spool() as folder:
                (folder / "manifest").write_bytes(said)
                place.put(folder / "manifest", layout.manifest_name(month, sha256(said).hexdigest()))
            row.state, row.changed_at = MonthState.WRITTEN, now
            row.save()
    return True


def _add_day(place: Store, row: ArchivedMonth, start: datetime) -> None:
    """Write the file of a day, read it again, and compare it with the partition."""
    sums = _stored(start, start + _DAY)
    if not sums:
        return
    part = _write_day(place, row.month, start)
    if _read_again(place, part) != sums or place.sha256(part.name) != part.sha256:
        raise ArchiveError(f"{part.name} does not hold what the database holds: it stays in the database")
    row.parts = [*row.parts, part._asdict()]
    row.registers = {str(register): list(one) for register, one in _plus(_sums(row), sums).items()}
    row.save()


def _drop(month: datetime, now: datetime) -> None:
    with _step(month) as row:
        if row is not None and row.state == MonthState.WRITTEN:
            select("SELECT meters_archive_month(%s)", [month])
            row.state, row.changed_at = MonthState.ARCHIVED, now
            row.save()


@contextmanager
def _noted(row: ArchivedMonth, now: datetime) -> Iterator[None]:
    """Note when the files of a month were verified, and what was damaged; nothing if the archive does not answer."""
    verified = ArchivedMonth.objects.filter(month=row.month, changed_at=row.changed_at)
    try:
        yield
    except DamagedError as error:
        verified.update(checked_at=now, fault=str(error))
        raise
    verified.update(checked_at=now, fault="")


@contextmanager
def _step(month: datetime) -> Iterator[ArchivedMonth | None]:
    """One transaction of one process, with the row of the month; no step waits for long behind readers."""
    with transaction.atomic():
        locks.take(locks.ARCHIVE)
        with connection.cursor() as one:
            one.execute(f"SET LOCAL lock_timeout = '{partitions.LOCK_TIMEOUT}'")
            one.execute("SET LOCAL statement_timeout = 0")
        yield ArchivedMonth.objects.filter(month=month).first()


def _write_day(place: Store, month: datetime, start: datetime) -> Part:
    with place.spool() as folder:
        made = folder / "part.parquet"
        sums = layout.write(made, _copy_out(start, start + _DAY))
        octets = made.stat().st_size
        digest = _digest(made)
        name = layout.part_name(month, start.date(), digest)
        place.put(made, name)
    return Part(name, start.date().isoformat(), sum(one.rows for one in sums.values()), octets, digest)


def _digest(made: Path) -> str:
    digest = sha256()
    with made.open("rb") as source:
        while block := source.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _read_again(place: Store, part: Part) -> dict[int, Sums]:
    """Return the sums of a stored file by register. OrderError, ArchiveError."""
    found: dict[int, Sums] = {}
    with place.open(part.name) as source:
        for batch in layout.in_order(layout.read(source)):
            layout.add(found, batch)
    return found


def _check_file(place: Store, part: Part) -> None:
    if place.octets(part.name) != part.octets or place.sha256(part.name) != part.sha256:
        raise DamagedError(f"{part.name} is not there as it was written: restore it from a backup of the archive")


def _copy_out(start: datetime, end: datetime) -> Iterator[pa.RecordBatch]:
    """Yield the readings of [start, end) in the order of a file, some hundred thousand at a time."""
    with connection.wrap_database_errors, cursor() as batch, batch.copy(_COPY_OUT, (start, end)) as copy:
        kept = bytearray()
        for block in copy:
            kept += block
            if len(kept) >= _BLOCK:
                whole = kept.rfind(b"\n") + 1
                yield from _parsed(bytes(kept[:whole]))
                del kept[:whole]
        yield from _parsed(bytes(kept))


def _parsed(text: bytes) -> Iterator[pa.RecordBatch]:
    if text:
        types = {name: pa.int64() if name == "captured_at" else layout.SCHEMA.field(name).type for name in _NAMES}
        table = pa_csv.read_csv(
            io.BytesIO(text),
            read_options=pa_csv.ReadOptions(column_names=_NAMES, use_threads=False, block_size=2 * _BLOCK),
            convert_options=pa_csv.ConvertOptions(column_types=types, null_values=[""]),
        )
        yield from table.cast(layout.SCHEMA).combine_chunks().to_batches()


def _copy_in(batches: Iterator[pa.RecordBatch]) -> int:
    """Store readings; return how many."""
    rows = 0
    statement = f"COPY meters_reading ({_COLUMNS}) FROM STDIN (FORMAT CSV)"
    with connection.wrap_database_errors, cursor() as target, target.copy(statement) as copy:
        for batch in batches:
            written = io.BytesIO()
            pa_csv.write_csv(batch, written, pa_csv.WriteOptions(include_header=False))
            copy.write(written.getvalue())
            rows += batch.num_rows
    return rows


def _stored(start: datetime, end: datetime) -> dict[int, Sums]:
    """Return what the database holds of [start, end), by register; one query."""
    return {int(register): Sums(*map(int, sums)) for register, *sums in select(_SUMS, [start, end])}


def _empty(months: Collection[datetime]) -> set[datetime]:
    """Return those of the months of which the database has no reading; one query."""
    starts = sorted(months)
    rows = select(_EMPTY, [starts, [partitions.month_after(start) for start in starts]]) if starts else []
    return {start for (start,) in rows}


def _plus(one: dict[int, Sums], other: dict[int, Sums]) -> dict[int, Sums]:
    return {key: one.get(key, NOTHING).plus(other.get(key, NOTHING)) for key in one.keys() | other.keys()}


def _parts(row: ArchivedMonth) -> list[Part]:
    return [Part(**part) for part in row.parts]


def _sums(row: ArchivedMonth) -> dict[int, Sums]:
    return {int(register): Sums(*map(int, sums)) for register, sums in row.registers.items()}


def _days(month: datetime) -> Iterator[datetime]:
    start = month.astimezone(UTC)
    while start < partitions.month_after(month):
        yield start
        start += _DAY


def _archived_before(now: datetime) -> datetime:
    """Return the instant up to which months are archived."""
    month = partitions.month_start(now)
    for _ in range(settings.ARCHIVE_AFTER_MONTHS):
        month = partitions.month_start(month - _DAY)
    return month


def month_of(text: str) -> datetime:
    """Return the month that is written 2025-03. ArchiveError for another text."""
    try:
        return datetime.combine(date.fromisoformat(f"{text}-01"), datetime.min.time(), UTC)
    except ValueError:
        raise ArchiveError(f"{text!r} is no month: write it as 2025-03") from None


_NAMES = layout.SCHEMA.names
_EMPTY = """SELECT m.start FROM unnest(%s::timestamptz[], %s::timestamptz[]) AS m (start, following)
            WHERE NOT EXISTS (SELECT FROM meters_reading WHERE captured_at >= m.start AND captured_at < m.following)"""
_PARTITION_OCTETS = f"""SELECT p.start, pg_total_relation_size(p.oid) FROM ({partitions.PARTITIONS}) AS p"""
