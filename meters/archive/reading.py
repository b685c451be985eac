"""Readings of archived months, in the order of pages: by time, meter and register.

A page reads the files of one day after the other, and of each the row groups of its meters. It holds no more rows than
it was asked for, and a block; an export reads AHEAD, since a page of all meters goes through the whole day.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
from django.db import connection, transaction
from django.db.models import QuerySet
from django.utils import timezone

from meters.archive import layout
from meters.archive.files import ArchiveError, Store, is_in_use, store
from meters.archive.layout import Part
from meters.archive_models import IN_FILES, ArchivedMonth
from meters.readings.partitions import month_after, month_start

_DAY = timedelta(days=1)
_LEAST_AGE = 84 * _DAY  # of archived readings: three whole months stay at least (ARCHIVE_LEAST_MONTHS)
KEY = ("captured_at", "meter_id", "register_id")
_ORDER = [(name, "ascending") for name in KEY]
_BLOCK = 131_072  # rows
AHEAD = 1_000_000  # rows, some 50 MB


@dataclass
class Ahead:
    """Rows that an export has read ahead: of which file, in order, and whether they are all that are left of it."""

    name: str = ""
    table: pa.Table | None = None
    is_last: bool = False


class Wanted(NamedTuple):
    """Readings in [start, end), of meters and registers (None: all), after a key.

    With ``ahead`` the next call asks for what follows the last row that was given.
    """

    start: datetime
    end: datetime
    meter_ids: Sequence[int] | None = None
    register_ids: Sequence[int] | None = None
    after: tuple[Any, ...] | None = None
    ahead: Ahead | None = None


class Stretch(NamedTuple):
    """A period whose readings are in the database (``month`` is None), or in the files of one month."""

    start: datetime
    end: datetime
    month: "Month | None"


class Month:
    """The files of an archived month."""

    def __init__(self, start: datetime, end: datetime, parts: Sequence[Part], place: Store) -> None:
        self.start, self.end = start, end
        self._parts, self._place = parts, place

    def rows(self, wanted: Wanted, limit: int | None) -> list[tuple[Any, ...]]:
        """Return the first readings, in order, as tuples of the columns of ``layout.SCHEMA``. ArchiveError."""
        found: list[tuple[Any, ...]] = []
        for part in self._parts:
            left = None if limit is None else limit - len(found)
            if left == 0:
                break
            if _overlaps(part, wanted):
                if left is None or wanted.ahead is None:
                    table = self._first(part, wanted, left)
                else:
                    table = self._ahead(part, wanted, left, wanted.ahead)
                found += zip(*(table[name].to_pylist() for name in layout.SCHEMA.names), strict=True)
        return found

    def count(self, wanted: Wanted, most: int) -> int:
        """Count readings, up to ``most``: then nothing else is read. ArchiveError."""
        found = 0
        for part in self._parts:
            if found >= most:
                break
            if _overlaps(part, wanted):
                for batch in self._batches(part, wanted, ["register_id"]):
                    found += batch.num_rows
                    if found >= most:
                        break
        return min(found, most)

    def _ahead(self, part: Part, wanted: Wanted, limit: int, ahead: Ahead) -> pa.Table:
        """Return the first readings of a day in order, and keep the next ones."""
        if ahead.table is None or ahead.name != part.name or (ahead.table.num_rows < limit and not ahead.is_last):
            most = max(AHEAD, limit)
            ahead.name, ahead.table = part.name, self._first(part, wanted, most)
            ahead.is_last = ahead.table.num_rows < most
        first, ahead.table = ahead.table.slice(0, limit), ahead.table.slice(limit)
        return first

    def _first(self, part: Part, wanted: Wanted, limit: int | None) -> pa.Table:
        """Return the first readings of a day in order.

        A file is in order of meters, so each block has all times; once ``limit`` rows are found, later ones are out.
        """
        kept = layout.SCHEMA.empty_table()
        waiting, rows = [], 0
        for batch in self._batches(part, wanted, layout.SCHEMA.names):
            is_full = 0 < kept.num_rows == limit
            may_be_in = batch.filter(pc.less_equal(batch[KEY[0]], kept[KEY[0]][-1])) if is_full else batch
            waiting.append(may_be_in)
            rows += may_be_in.num_rows
            if limit is not None and rows >= max(limit, _BLOCK):
                kept, waiting, rows = _sorted([kept, *map(_table, waiting)], limit), [], 0
        return _sorted([kept, *map(_table, waiting)], limit)

    def _batches(self, part: Part, wanted: Wanted, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        place, path = self._place, self._place.path(part.name)
        try:
            files = pads.dataset([path], schema=layout.SCHEMA, format="parquet", filesystem=place.filesystem)
            condition = _condition(wanted)
            for file in files.get_fragments():
                # One row group after the other: a scanner reads ahead without bound while rows are sorted.
                for group in file.split_by_row_group(condition, schema=layout.SCHEMA):
                    table = group.to_table(layout.SCHEMA, columns=list(columns), filter=condition, use_threads=False)
                    yield from table.to_batches()
        except (OSError, pa.ArrowInvalid) as error:
            raise ArchiveError(f"{part.name} cannot be read: {str(error).splitlines()[0]}") from None


@contextmanager
def stretches(start: datetime, end: datetime) -> Iterator[list[Stretch]]:
    """Give the stretches of a period in order. Until the block ends no month goes into the archive or comes back.

    One stretch, and no query, where all readings are younger than the archive may be; without an archive one query.
    ArchiveError if readings of the period are archived, and ARCHIVE_URL is gone.
    """
    if is_young(start) or not (is_in_use() or _archived(start, end).exists()):
        yield [Stretch(start, end, None)]
        return
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("LOCK TABLE meters_reading IN ACCESS SHARE MODE")  # against the drop of a partition
        yield list(_stretches(start, end))


def is_young(start: datetime) -> bool:
    """Whether no reading from ``start`` on may be archived yet."""
    return start > timezone.now() - _LEAST_AGE


def rows(
    found: Sequence[Stretch], meter_ids: Sequence[int], register_ids: Sequence[int] | None = None
) -> list[tuple[Any, ...]]:
    """Return all readings of meters in those stretches that are archived, as ``Month.rows`` does."""
    return [
        row
        for one in found
        if one.month is not None
        for row in one.month.rows(Wanted(one.start, one.end, meter_ids, register_ids), None)
    ]


def _stretches(start: datetime, end: datetime) -> Iterator[Stretch]:
    rows = _archived(start, end).order_by("month").values_list("month", "parts")
    at = start
    for month, parts in rows:
        month_end = month_after(month)
        first, last = max(month, start), min(month_end, end)
        if first >= last:
            continue
        if at < first:
            yield Stretch(at, first, None)
        yield Stretch(first, last, Month(month, month_end, [Part(**part) for part in parts], store()))
        at = last
    if at < end or at == start:
        yield Stretch(at, end, None)


def _archived(start: datetime, end: datetime) -> QuerySet[ArchivedMonth]:
    return ArchivedMonth.objects.filter(state__in=IN_FILES, month__gte=month_start(start), month__lt=end)


def _overlaps(part: Part, wanted: Wanted) -> bool:
    day = date.fromisoformat(part.day)
    start = datetime(day.year, day.month, day.day, tzinfo=UTC)
    first = max(wanted.start, wanted.after[0]) if wanted.after else wanted.start
    return start < wanted.end and first < start + _DAY


def _condition(wanted: Wanted) -> Any:
    time, meter, register = (pads.field(name) for name in KEY)
    condition = (time >= _at(wanted.start)) & (time < _at(wanted.end))
    if wanted.meter_ids is not None:
        condition &= meter.isin(pa.array(wanted.meter_ids, pa.int32()))
    if wanted.register_ids is not None:
        condition &= register.isin(pa.array(wanted.register_ids, pa.int16()))
    if wanted.after is not None:
        at, meter_id, register_id = wanted.after
        same_time, same_meter = time == _at(at), meter == meter_id
        condition &= (time > _at(at)) | (same_time & ((meter > meter_id) | (same_meter & (register > register_id))))
    return condition


def _at(instant: datetime) -> pa.Scalar:
    return pa.scalar(instant.astimezone(UTC), layout.SCHEMA.field("captured_at").type)


def _table(batch: pa.RecordBatch) -> pa.Table:
    return pa.Table.from_batches([batch], layout.SCHEMA)


def _sorted(tables: Sequence[pa.Table], limit: int | None) -> pa.Table:
    """Return the first rows of tables together, in order."""
    table = pa.concat_tables(tables)
    order = pc.sort_indices(table, sort_keys=_ORDER)
    return table.take(order if limit is None else order.slice(0, limit))
