"""Queries of readings by meter, register and time, in pages by key; ``event_queries.py`` has those of events.

Rows are in order of their key (time first), each page begins where the last one ended, and late pages cost no more than
early ones. Exports consist of pages too: no statement or snapshot stays open while a client reads slowly, so an export
delays neither vacuum nor the dropping of partitions.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple

from django.db import OperationalError, connection, transaction
from django.db.models import OuterRef, Q, QuerySet, Subquery
from django.db.models.functions import Coalesce
from psycopg.errors import QueryCanceled

from ami_headend.core import keyset
from ami_headend.core.sql import cursor
from keyvault.device_keys import schemes_in_use
from keyvault.schemes.table import scheme_numbered
from meters.archive import reading as archived
from meters.models import EarlierLength, Meter, MeterStatus, Register
from meters.registry import groups, search

# A page scans little more than it shows, unless almost nothing matches in years of readings.
STATEMENT_TIMEOUT_MS = 20_000
# Rows of the registry are in memory. As if each were sought on a turning disk (4), PostgreSQL would read all meters
# for one large page.
PAGE_COST = 1.1
LOOKED_AT = 200_000  # rows of the index for one page, in case few of them belong to the requested registers


class SelectionError(ValueError):
    """The selection would be too costly; the caller must narrow it."""


class ReadingKey(NamedTuple):
    """The primary key of a reading: its position in the order."""

    captured_at: datetime
    meter_id: int
    register_id: int


class ReadingRow(NamedTuple):
    """A reading for display: ``quantity`` = ``value`` x 10^``scaler`` ``unit``, exactly.

    ``scheme`` protected it; ``caveat`` says what end-to-end protection it lacks, or is empty.
    """

    system_title: str
    obis_code: str
    captured_at: datetime
    interval_minutes: int
    value: int
    scaler: int
    unit: str
    quantity: str
    uplink: int
    scheme: str
    caveat: str


_READING_KEY = ", ".join(ReadingKey._fields)


@dataclass(frozen=True)
class ReadingSelection:
    """A selection of readings: [start, end), of meters, registers and groups (by id; None is all), after a key."""

    start: datetime
    end: datetime
    meter_ids: Sequence[int] | None = None
    register_ids: Sequence[int] | None = None
    after: tuple[Any, ...] | None = None
    group_ids: Sequence[int] | None = None
    ahead: archived.Ahead | None = None  # for a caller that asks for all pages


def readings(selection: ReadingSelection, limit: int) -> tuple[list[ReadingRow], ReadingKey | None]:
    """Return the first readings of a selection in order of their key, and the key of the next page; one query.

    Where readings are archived, as every query here: two more, and a look into files. ArchiveError if those are away.
    """
    return _in_order(selection, limit, _readings, _named)


def _readings(selection: ReadingSelection, limit: int) -> tuple[list[ReadingRow], ReadingKey | None]:
    condition, params = _condition(selection, ReadingKey._fields)
    rows = fetch(
        # The limit first, by the index alone; then the names of the remaining rows.
        f"""SELECT m.system_title, g.obis_code, r.captured_at, r.interval_minutes, r.value, g.scaler, g.unit,
                   r.uplink_id, r.meter_id, r.register_id, r.scheme
            FROM (SELECT * FROM meters_reading WHERE {condition}
                  ORDER BY captured_at, meter_id, register_id LIMIT %s) r
            JOIN meters_meter m ON m.id = r.meter_id JOIN meters_register g ON g.id = r.register_id
            ORDER BY r.captured_at, r.meter_id, r.register_id""",
        [*params, limit],
    )
    return [_shown(row) for row in rows], _key_of(rows[-1]) if len(rows) == limit else None


class Stored(NamedTuple):
    """A reading or an event by ids, as it is stored; an event has the length 0."""

    captured_at: datetime
    meter_id: int
    register_id: int
    value: int
    uplink_id: int
    interval_minutes: int
    scheme: int | None


def stored_readings(selection: ReadingSelection, limit: int) -> tuple[list[Stored], ReadingKey | None]:
    """Return the first readings of a selection by ids, by their key, and the key of the next page; one query."""
    return _in_order(selection, limit, _stored_readings, list)


def _stored_readings(selection: ReadingSelection, limit: int) -> tuple[list[Stored], ReadingKey | None]:
    condition, params = _condition(selection, ReadingKey._fields)
    rows = fetch(
        f"""SELECT {", ".join(Stored._fields)} FROM meters_reading WHERE {condition}
            ORDER BY {_READING_KEY} LIMIT %s""",
        [*params, limit],
    )
    return [Stored._make(row) for row in rows], ReadingKey._make(rows[-1][:3]) if len(rows) == limit else None


def readings_page(selection: ReadingSelection, limit: int) -> tuple[list[ReadingRow], ReadingKey | None]:
    """Do the same, but for registers or groups of meters scan at most LOOKED_AT readings of all registers.

    Such a page may hold fewer rows than it could, or none, but still has a key to continue with: that of the last
    scanned reading. It reads one snapshot, so no row is missed or repeated. One query.
    """
    return _in_order(selection, limit, _readings_page, _named)


def _readings_page(selection: ReadingSelection, limit: int) -> tuple[list[ReadingRow], ReadingKey | None]:
    if selection.meter_ids is not None or (selection.register_ids, selection.group_ids) == (None, None):
        return _readings(selection, limit)  # the index leads to each row
    wanted, values = keyset.given(
        keyset.one_of("register_id", selection.register_ids), groups.one_of(selection.group_ids)
    )
    period, params = _condition(replace(selection, register_ids=None, group_ids=None), ReadingKey._fields)
    look = f"SELECT {_READING_KEY} FROM meters_reading WHERE {period}"
    rows = fetch(
        # By the index alone, row by row until the page is full; if it is not, the last scanned row is returned too.
        # The rows of a page are sought by their keys (OFFSET 0): of the newest readings PostgreSQL has no statistics,
        # expects none, and would compare each of the period with each of the page.
        f"""WITH found AS MATERIALIZED (
                SELECT * FROM ({look} ORDER BY {_READING_KEY} LIMIT %s) AS l WHERE {" AND ".join(wanted)}
                ORDER BY {_READING_KEY} LIMIT %s
            ), last AS MATERIALIZED (
                {look} AND (SELECT count(*) FROM found) < %s ORDER BY {_READING_KEY} OFFSET %s LIMIT 1
            )
            SELECT m.system_title, g.obis_code, r.captured_at, r.interval_minutes, r.value, g.scaler, g.unit,
                   r.uplink_id, r.meter_id, r.register_id, r.scheme, f.is_last
            FROM (SELECT *, false AS is_last FROM found UNION ALL SELECT *, true FROM last) AS f
            CROSS JOIN LATERAL (
                SELECT * FROM meters_reading
                WHERE ({_READING_KEY}) = (f.captured_at, f.meter_id, f.register_id)
                      AND captured_at >= %s AND captured_at < %s OFFSET 0
            ) r
            JOIN meters_meter m ON m.id = r.meter_id JOIN meters_register g ON g.id = r.register_id
            ORDER BY r.captured_at, r.meter_id, r.register_id, f.is_last""",
        [
            *(*params, LOOKED_AT, *values, limit),
            *(*params, limit, LOOKED_AT - 1),
            *params[:2],
        ],
    )
    shown = [_shown(row) for row in rows if not row[-1]]
    return shown, _key_of(rows[-1]) if len(shown) == limit or len(rows) > len(shown) else None


def count(selection: ReadingSelection, most: int) -> int:
    """Count the readings of a selection, up to ``most``; by the index alone. SelectionError if that takes too long."""
    found = 0
    with archived.stretches(selection.start, selection.end) as stretches:
        for stretch in stretches:
            part, left = replace(selection, start=stretch.start, end=stretch.end), most - found
            if left <= 0:
                break
            if stretch.month is not None:
                found += stretch.month.count(_wanted(part), left)
                continue
            condition, params = _condition(part, ReadingKey._fields)
            statement = f"SELECT 1 FROM meters_reading WHERE {condition} LIMIT %s"
            found += int(fetch(f"SELECT count(*) FROM ({statement}) AS found", [*params, left])[0][0])
    return found


def _in_order(
    selection: ReadingSelection, limit: int, of_database: Callable[..., Any], shown: Callable[[list[Stored]], list[Any]]
) -> tuple[list[Any], ReadingKey | None]:
    """Return a page of what the database and the archive hold, one stretch of time after the other."""
    found: list[Any] = []
    with archived.stretches(selection.start, selection.end) as stretches:
        for stretch in stretches:
            part, left = replace(selection, start=stretch.start, end=stretch.end), limit - len(found)
            if selection.after is not None and selection.after[0] >= stretch.end:
                continue
            if stretch.month is None:
                rows, key = of_database(part, left)
            else:
                stored = [Stored._make(row) for row in stretch.month.rows(_wanted(part), left)]
                rows, key = shown(stored), ReadingKey(*stored[-1][:3]) if len(stored) == left else None
            found += rows
            if key is not None:
                return found, key
    return found, None


def _wanted(selection: ReadingSelection) -> archived.Wanted:
    """Return a selection for the archive, which knows no groups; one query if there are some."""
    meters = selection.meter_ids
    if selection.group_ids is not None:
        members = Meter.objects.filter(groups.meters_in_order(selection.group_ids))
        meters = list((members if meters is None else members.filter(pk__in=meters)).values_list("pk", flat=True))
    return archived.Wanted(
        selection.start, selection.end, meters, selection.register_ids, selection.after, selection.ahead
    )


def _named(rows: list[Stored]) -> list[ReadingRow]:
    """Return stored readings for display; two queries, or none."""
    if not rows:
        return []
    titles = dict(Meter.objects.filter(pk__in={row.meter_id for row in rows}).values_list("pk", "system_title"))
    registers = {one.pk: one for one in Register.objects.filter(pk__in={row.register_id for row in rows})}
    return [
        _shown(
            (
                bytes(titles[row.meter_id]),
                (register := registers[row.register_id]).obis_code,
                row.captured_at,
                row.interval_minutes,
                row.value,
                register.scaler,
                register.unit,
                row.uplink_id,
                row.meter_id,
                row.register_id,
                row.scheme,
            )
        )
        for row in rows
    ]


def _shown(row: tuple[Any, ...]) -> ReadingRow:
    title, obis, at, minutes, value, scaler, unit, uplink, _, _, number, *_ = row
    scheme = scheme_numbered(number)
    quantity = exact_text(value, scaler)
    return ReadingRow(title.hex(), obis, at, minutes, value, scaler, unit, quantity, uplink, scheme.name, scheme.caveat)


def _key_of(row: tuple[Any, ...]) -> ReadingKey:
    return ReadingKey(row[2], row[8], row[9])


class Interval(NamedTuple):
    """One value of an interval register, in the register's resolution; ``scheme`` is the number of its scheme."""

    start: datetime
    interval_minutes: int
    value: int
    scheme: int | None = None


def with_length(meters: QuerySet[Meter], now: datetime) -> QuerySet[Meter]:
    """Annotate meters with ``length_minutes``: the interval length in force at an instant, not a future one."""
    begun = Q(valid_from=None) | Q(valid_from__lte=now)
    earlier = EarlierLength.objects.filter(begun, meter=OuterRef("pk"), valid_to__gt=now)
    return meters.annotate(length_minutes=Coalesce(Subquery(earlier.values("interval_minutes")), "interval_minutes"))


def load_curve(meter_id: int, register_id: int, start: datetime, end: datetime) -> list[Interval]:
    """Return a meter's values of an interval register in [start, end), oldest first, without missing ones. One
    query.
    """
    rows = of_meters(ReadingSelection(start, end, [meter_id], [register_id]))
    return [Interval(row.captured_at, row.interval_minutes, row.value, row.scheme) for row in rows]


def of_meters(selection: ReadingSelection) -> list[Stored]:
    """Return all readings of a selection, which names meters, by ids and in order of their key; one query."""
    found: list[Stored] = []
    with archived.stretches(selection.start, selection.end) as stretches:
        for stretch in stretches:
            part = replace(selection, start=stretch.start, end=stretch.end)
            if stretch.month is not None:
                found += map(Stored._make, stretch.month.rows(_wanted(part), None))
                continue
            condition, params = _condition(part, ReadingKey._fields)
            columns = ", ".join(Stored._fields)
            rows = fetch(f"SELECT {columns} FROM meters_reading WHERE {condition} ORDER BY {_READING_KEY}", params)
            found += map(Stored._make, rows)
    return found


def batches(query: Any, selection: Any, size: int) -> Iterator[list[Any]]:
    """Yield all rows of a paged query such as ``readings`` for its selection, in lists of at most ``size``."""
    if isinstance(selection, ReadingSelection):
        selection = replace(selection, ahead=archived.Ahead())
    while True:
        rows, key = query(selection, size)
        if rows:
            yield rows
        if key is None:
            return
        selection = replace(selection, after=key)


def fetch(statement: str, params: Sequence[Any] | Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """Return all rows, planned anew each time: one plan for any period and limit would be bad for most."""
    try:
        with transaction.atomic(), connection.wrap_database_errors, cursor() as batch:
            batch.execute(
                "SELECT set_config('statement_timeout', %s, true), set_config('random_page_cost', %s, true)",
                [str(STATEMENT_TIMEOUT_MS), str(PAGE_COST)],
            )
            return batch.execute(statement, params, prepare=False).fetchall()
    except OperationalError as error:
        if isinstance(error.__cause__, QueryCanceled):
            raise SelectionError("too long a period for so few rows: choose a shorter one") from None
        raise


def _condition(selection: ReadingSelection, key: Sequence[str]) -> tuple[str, list[Any]]:
    """Return the WHERE clause of a selection."""
    conditions, params = keyset.given(
        ("captured_at >= %s", max(selection.start, selection.after[0]) if selection.after else selection.start),
        ("captured_at < %s", selection.end),
        keyset.one_of("meter_id", selection.meter_ids),
        groups.one_of(selection.group_ids),
        keyset.one_of("register_id", selection.register_ids),
        keyset.after(key, selection.after),
    )
    return " AND ".join(conditions), params


def exact_text(value: int, scaler: int) -> str:
    """Write an exact decimal: 2345 with scaler -1 gives 234.5."""
    return str(value) if scaler == 0 else format(Decimal(value).scaleb(scaler), "f")


def meters(
    term: str = "",
    status: MeterStatus | None = None,
    scheme: str | None = None,
    group_ids: Collection[int] | None = None,
) -> QuerySet[Meter]:
    """Return meters of a status, a scheme and any of the groups that match a search term (``search.py``)."""
    found = Meter.objects.all()
    if group_ids is not None:
        found = found.filter(groups.meters_in_order(group_ids))
    if term:
        found = found.filter(search.as_q(search.meter_condition(term)))
    if scheme is not None:
        found = found.filter(schemes_in_use.are("system_title", scheme))
    return found if status is None else found.filter(status=status)
