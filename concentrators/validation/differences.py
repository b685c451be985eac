"""Queries of register differences: in pages by time, of one meter, and which intervals lie in one that is open."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from ami_headend.core import keyset
from ami_headend.core.sql import fetch_rows, int_array, select
from meters.readings.queries import exact_text
from meters.registry import groups


class DifferenceKey(NamedTuple):
    """The position of a difference in the order."""

    span_start: datetime
    id: int


class DifferenceRow(NamedTuple):
    """A difference for display: numbers are exact, in ``unit``. ``obis_code`` is that of the intervals.

    ``difference`` is ``advance`` of the cumulative register less ``interval_sum``. ``cleared_at``: it holds no longer.
    """

    id: int
    system_title: str
    serial_number: str
    obis_code: str
    span_start: datetime
    span_end: datetime
    advance: str
    interval_sum: str
    difference: str
    unit: str
    found_at: datetime
    cleared_at: datetime | None


class FlaggedSpan(NamedTuple):
    """The span of an open difference: its intervals begin in [start, end)."""

    meter_id: int
    register_id: int
    start: datetime
    end: datetime


@dataclass(frozen=True)
class DifferenceSelection:
    """Differences whose span overlaps [start, end), of meters, registers and groups (by id; None is all).

    ``is_open``: only those that hold still (True), or no longer (False).
    """

    start: datetime
    end: datetime
    meter_ids: Sequence[int] | None = None
    register_ids: Sequence[int] | None = None
    after: tuple[Any, ...] | None = None
    group_ids: Sequence[int] | None = None
    is_open: bool | None = None


def differences(selection: DifferenceSelection, limit: int) -> tuple[list[DifferenceRow], DifferenceKey | None]:
    """Return the first differences of a selection by the start of their span, and the next page's key; one query."""
    condition, params = _where(selection)
    rows = select(
        f"""SELECT d.id, m.system_title, m.serial_number, g.obis_code, d.span_start, d.span_end, d.advance,
                   d.interval_sum, d.scaler, d.unit, d.found_at, d.cleared_at
            FROM (SELECT * FROM concentrators_registerdifference WHERE {condition}
                  ORDER BY span_start, id LIMIT %s) AS d
            JOIN meters_meter m ON m.id = d.meter_id JOIN meters_register g ON g.id = d.register_id
            ORDER BY d.span_start, d.id""",
        [*params, limit],
    )
    found = [_shown(row) for row in rows]
    return found, DifferenceKey(found[-1].span_start, found[-1].id) if len(found) == limit else None


def count(selection: DifferenceSelection, most: int) -> int:
    """Count the differences of a selection, up to ``most``; one query."""
    condition, params = _where(selection)
    statement = f"SELECT 1 FROM concentrators_registerdifference WHERE {condition} LIMIT %s"
    return int(select(f"SELECT count(*) FROM ({statement}) AS found", [*params, most])[0][0])


def flagged(meter_ids: Collection[int], start: datetime, end: datetime) -> list[FlaggedSpan]:
    """Return the spans of open differences of meters that overlap [start, end); one query."""
    rows = fetch_rows(
        """SELECT meter_id, register_id, span_start, span_end FROM concentrators_registerdifference
           WHERE meter_id = ANY(%s::int[]) AND cleared_at IS NULL AND span_start < %s AND span_end > %s""",
        int_array(meter_ids),
        end,
        start,
    )
    return [FlaggedSpan._make(row) for row in rows]


def meters_that_differ(since: datetime, group_ids: Sequence[int] | None, named: int) -> tuple[int, list[str]]:
    """Return how many meters have open differences whose span began since, and some serial numbers; one query."""
    conditions, params = keyset.given(
        ("cleared_at IS NULL AND span_start >= %s", since), groups.one_of(group_ids, "d.meter_id")
    )
    rows = select(
        f"""SELECT m.serial_number, count(*) OVER ()
            FROM (SELECT meter_id, max(span_start) AS latest FROM concentrators_registerdifference d
                  WHERE {" AND ".join(conditions)} GROUP BY meter_id) AS found
            JOIN meters_meter m ON m.id = found.meter_id ORDER BY found.latest DESC, m.id LIMIT %s""",
        [*params, named],
    )
    return (rows[0][1] if rows else 0), [serial for serial, _ in rows]


def _where(selection: DifferenceSelection) -> tuple[str, list[Any]]:
    state = {None: None, True: (), False: ()}[selection.is_open]
    conditions, params = keyset.given(
        ("span_end > %s", selection.start),
        ("span_start < %s", selection.end),
        keyset.one_of("meter_id", selection.meter_ids),
        groups.one_of(selection.group_ids),
        keyset.one_of("register_id", selection.register_ids),
        ("cleared_at IS NULL" if selection.is_open else "cleared_at IS NOT NULL", state),
        keyset.after(DifferenceKey._fields, selection.after),
    )
    return " AND ".join(conditions), params


def _shown(row: Sequence[Any]) -> DifferenceRow:
    id_, title, serial, code, start, end, advance, interval_sum, scaler, unit, found_at, cleared_at = row
    own, added, less = (exact_text(int(one), scaler) for one in (advance, interval_sum, advance - interval_sum))
    return DifferenceRow(id_, title.hex(), serial, code, start, end, own, added, less, unit, found_at, cleared_at)
