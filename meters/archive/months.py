"""A month of readings on its way into the archive: one step after the other, each whole or not at all.

    open -> closed -> written -> archived -> forgotten      (``restoring`` says how a month comes back)

closed: the partition takes no row and no change any more. written: its files were made, and read again, and hold what
the partition holds. archived: the files were read once more, and the partition is gone. Whoever is killed between two
steps goes on with the next one; a step that was cut short is made again, and a file that it left behind has the name of
its content, so that it is only found again. One process takes a step at a time.
"""

import io
import logging
import math
import time
from collections.abc import Collection, Iterator, Sequence
from datetime import UTC, date, datetime
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.csv as pa_csv
from django.conf import settings
from django.db import connection

from ami_headend.core.sql import cursor, select
from meters.archive import layout, restoring, steps, verification
from meters.archive.files import ArchiveError, Store, store
from meters.archive.layout import Part, Sums
from meters.archive_models import IN_FILES, ArchivedMonth, MonthState
from meters.readings import partitions

logger = logging.getLogger(__name__)

_BLOCK = 32 * 2**20
_TRIES = 3  # to write files that can be read again
_COPY_OUT = """COPY (SELECT (extract(epoch FROM captured_at) * 1000000)::bigint, meter_id, register_id, value,
                     uplink_id, interval_minutes, scheme
              FROM meters_reading WHERE captured_at >= %s AND captured_at < %s
              ORDER BY meter_id, register_id, captured_at) TO STDOUT (FORMAT CSV)"""


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
    octets = dict(select(steps.PARTITION_OCTETS))
    old = {month for month in octets if partitions.month_after(month) <= _archived_before(now)}
    empty = _empty(old - rows.keys())
    found = []
    for month in sorted(old | rows.keys()):
        row = rows.get(month)
        parts = [] if row is None else [Part(**part) for part in row.parts]
        in_files = row is not None and row.state in (*IN_FILES, MonthState.FORGOTTEN)
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
    empty: what was not read yet may come. Nor those whose retention is over.
    """
    steps_left = (None, MonthState.CLOSED, MonthState.WRITTEN)
    first = partitions.first_kept(now)
    return [one.month for one in plan(now) if one.state in steps_left and one.rows != 0 and one.month >= first]


def archive(month: datetime, now: datetime, until_s: float = math.inf) -> bool:
    """Take the steps of a month, from where it stands; return whether it is archived.

    After ``until_s`` (monotonic) no other file is begun: the next call goes on. A file that was damaged since it was
    written is made again from the partition, which is dropped only after each file was read. A month that is being
    restored becomes archived again. ArchiveError; OperationalError if the table is busy for longer than some seconds.
    """
    place = store()
    if restoring.give_up(month, now):
        return True
    verification.require_files(place, month)
    _close(month, now)
    for _ in range(_TRIES):
        if not _write(place, month, now, until_s):
            return False
        row = ArchivedMonth.objects.filter(month=month, state=MonthState.WRITTEN).first()
        damaged = [] if row is None else verification.damaged_files(place, row, now, until_s)
        if damaged is None:
            return False
        if damaged:
            _take_back(month, damaged, now)
        elif _drop(place, month, now):
            return True
    raise ArchiveError(f"the files of {month:%Y-%m} do not stay as they were written: it stays in the database")


def forget_expired(now: datetime) -> list[str]:
    """Delete the files of months whose retention is over; return the months. Retention is that of partitions.

    ArchiveError if the archive seems to be another one: what it has would stay for ever.
    """
    if not ArchivedMonth.objects.exists():
        return []
    first = partitions.first_kept(now)
    forgotten = []
    for month in ArchivedMonth.objects.filter(month__lt=first).values_list("month", flat=True).order_by("month"):
        with steps.step(month) as row:
            if row is not None and row.state != MonthState.FORGOTTEN:
                steps.hold_partitions()
                select("SELECT meters_drop_month(%s)", [month])
                row.state, row.changed_at = MonthState.FORGOTTEN, now
                row.save()
        place = store()
        verification.require_files(place, month)
        for name in place.names(f"readings-{month:%Y-%m}"):
            place.delete(name)
        ArchivedMonth.objects.filter(month=month, state=MonthState.FORGOTTEN).delete()
        forgotten.append(partitions.name_of(month))
    return forgotten


def _close(month: datetime, now: datetime) -> None:
    with steps.step(month) as row:
        if row is not None and row.state == MonthState.FORGOTTEN:
            raise ArchiveError(f"the files of {month:%Y-%m} are being deleted: its retention is over")
        if row is None or row.state == MonthState.RESTORED:
            if partitions.month_after(month) > _archived_before(now):
                raise ArchiveError(f"{month:%Y-%m} is not ARCHIVE_AFTER_MONTHS old yet")
            if month not in dict(select(steps.PARTITION_OCTETS)) or (row is None and _empty({month})):
                raise ArchiveError(f"there are no readings of {month:%Y-%m}")
            steps.hold_partitions()
            select("SELECT meters_close_month(%s)", [month])
            ArchivedMonth(month=month, state=MonthState.CLOSED, changed_at=now).save()


def _write(place: Store, month: datetime, now: datetime, until_s: float) -> bool:
    """Write the files of a closed month, each in a step of its own; return whether all are there."""
    for start in steps.days(month):
        with steps.step(month) as row:
            if row is None or row.state != MonthState.CLOSED:
                return row is not None
            if start.date().isoformat() not in {part.day for part in steps.parts_of(row)}:
                _add_day(place, row, start)
        if time.monotonic() > until_s:
            return False
    with steps.step(month) as row:
        if row is not None and row.state == MonthState.CLOSED:
            said = layout.manifest(month, steps.parts_of(row), steps.sums_of(row))
            with place.spool() as folder:
                (folder / "manifest").write_bytes(said)
                place.put(folder / "manifest", layout.manifest_name(month, sha256(said).hexdigest()))
            row.state, row.changed_at, row.under_way = MonthState.WRITTEN, now, {}
            row.save()
    return True


def _add_day(place: Store, row: ArchivedMonth, start: datetime) -> None:
    """Write the file of a day, read it again, and compare it with the partition."""
    steps.require_partition(row.month)
    sums = steps.stored(start, start + steps.DAY)
    if not sums:
        return
    part = _write_day(place, row.month, start)
    if steps.read_again(place, part) != sums or place.sha256(part.name) != part.sha256:
        raise ArchiveError(f"{part.name} does not hold what the database holds: it stays in the database")
    row.parts = sorted([*row.parts, part._asdict()], key=lambda one: str(one["day"]))
    row.registers = _noted(steps.plus(steps.sums_of(row), sums))
    row.save(update_fields=["parts", "registers"])


def _take_back(month: datetime, damaged: Sequence[Part], now: datetime) -> None:
    """Forget files that are damaged, so that they are written again from the closed partition."""
    with steps.step(month) as row:
        if row is None or row.state != MonthState.WRITTEN:
            return
        sums = steps.sums_of(row)
        for start in (datetime.combine(date.fromisoformat(part.day), datetime.min.time(), UTC) for part in damaged):
            sums = steps.minus(sums, steps.stored(start, start + steps.DAY))
        row.parts = [part._asdict() for part in steps.parts_of(row) if part not in damaged]
        row.registers = _noted(sums)
        row.state, row.changed_at, row.under_way = MonthState.CLOSED, now, {}
        row.save()
    logger.error("files of %s were damaged, and are made again: %s", f"{month:%Y-%m}", [one.name for one in damaged])


def _drop(place: Store, month: datetime, now: datetime) -> bool:
    """Drop the partition of a written month; False if its files have to be read again first."""
    with steps.step(month) as row:
        if row is not None and row.state == MonthState.WRITTEN:
            if not verification.may_be_dropped(place, row, now):
                row.under_way = {}
                row.save(update_fields=["under_way"])
                return False
            steps.hold_partitions()
            steps.require_partition(month)
            select("SELECT meters_archive_month(%s)", [month])
            row.state, row.changed_at, row.under_way = MonthState.ARCHIVED, now, {}
            row.checked_at, row.fault = now, ""
            row.save()
    return True


def _noted(sums: dict[int, Sums]) -> dict[str, list[int]]:
    return {str(register): list(one) for register, one in sums.items()}


def _empty(months: Collection[datetime]) -> set[datetime]:
    """Return those of the months of which the database has no reading; one query."""
    starts = sorted(months)
    rows = select(_EMPTY, [starts, [partitions.month_after(start) for start in starts]]) if starts else []
    return {start for (start,) in rows}


def _archived_before(now: datetime) -> datetime:
    """Return the instant up to which months are archived."""
    month = partitions.month_start(now)
    for _ in range(settings.ARCHIVE_AFTER_MONTHS):
        month = partitions.month_start(month - steps.DAY)
    return month


def month_of(text: str) -> datetime:
    """Return the month that is written 2025-03. ArchiveError for another text."""
    try:
        return datetime.combine(date.fromisoformat(f"{text}-01"), datetime.min.time(), UTC)
    except ValueError:
        raise ArchiveError(f"{text!r} is no month: write it as 2025-03") from None


def _write_day(place: Store, month: datetime, start: datetime) -> Part:
    with place.spool() as folder:
        made = folder / "part.parquet"
        sums = layout.write(made, _copy_out(start, start + steps.DAY))
        octets = made.stat().st_size
        digest = _digest(made)
        name = layout.part_name(month, start.date(), digest)
        if place.octets(name) != octets or place.sha256(name) != digest:  # an equal one is not touched
            place.put(made, name)
    return Part(name, start.date().isoformat(), sum(one.rows for one in sums.values()), octets, digest)


def _digest(made: Path) -> str:
    digest = sha256()
    with made.open("rb") as source:
        while block := source.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


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


_NAMES = layout.SCHEMA.names
_EMPTY = """SELECT m.start FROM unnest(%s::timestamptz[], %s::timestamptz[]) AS m (start, following)
            WHERE NOT EXISTS (SELECT FROM meters_reading WHERE captured_at >= m.start AND captured_at < m.following)"""
