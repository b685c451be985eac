"""Queries of totals: by concentrator, register and time, in pages by key, with the expected meters."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from django.db import connection

from ami_headend.core import keyset
from ami_headend.core.sql import cursor, select
from concentrators.totals.expected import EXPECTED, refresh


class TotalPosition(NamedTuple):
    """The position of a total in the order: time first."""

    interval_start: datetime
    concentrator_id: int
    register_id: int
    interval_minutes: int


class TotalRow(NamedTuple):
    """A total for display: the sum is ``value_sum`` x 10^``scaler`` ``unit``.

    ``meters_masked`` is how many sent a value that is not in the sum: masked, or unauthenticated. ``meters_expected``
    counts the meters that should send this interval (meters/readings/expectation.py). For an interval that an exchange
    cut, more may be counted.
    """

    concentrator: str
    obis_code: str
    interval_start: datetime
    interval_minutes: int
    value_sum: int
    scaler: int
    unit: str
    meters_counted: int
    meters_masked: int
    meters_expected: int


@dataclass(frozen=True)
class TotalSelection:
    """A selection of totals: intervals that start in [start, end), of concentrators and registers (ids; None
    is all).
    """

    start: datetime
    end: datetime
    concentrator_ids: Sequence[int] | None = None
    register_ids: Sequence[int] | None = None
    after: tuple[Any, ...] | None = None


def totals(selection: TotalSelection, limit: int) -> tuple[list[TotalRow], TotalPosition | None]:
    """Return the first totals of a selection, oldest first, and the key of the next page; two queries, unless meters
    changed.
    """
    refresh()
    condition, params = _condition(selection)
    with connection.wrap_database_errors, cursor() as batch:
        rows = batch.execute(
            f"""SELECT t.interval_start, t.concentrator_id, t.register_id, t.interval_minutes, c.name, g.obis_code,
                       t.value_sum, g.scaler, g.unit, t.meters_counted, t.meters_masked,
                       {EXPECTED.format(total="t")}
                FROM (SELECT * FROM concentrators_intervaltotal WHERE {condition}
                      ORDER BY {_ORDER} LIMIT %s) AS t
                JOIN concentrators_concentrator c ON c.id = t.concentrator_id
                JOIN meters_register g ON g.id = t.register_id
                ORDER BY t.interval_start, t.concentrator_id, t.register_id, t.interval_minutes""",
            [*params, limit],
            prepare=False,
        ).fetchall()
    # A value may be any int64, so a sum may exceed int64: it is numeric in SQL and int here.
    shown = [
        TotalRow(name, obis, at, minutes, int(value), scaler, unit, counted, masked, expected)
        for at, _, _, minutes, name, obis, value, scaler, unit, counted, masked, expected in rows
    ]
    return shown, TotalPosition(*rows[-1][:4]) if len(rows) == limit else None


def count(selection: TotalSelection, most: int) -> int:
    """Count the totals of a selection, up to ``most``; by the index alone."""
    condition, params = _condition(selection)
    statement = f"SELECT 1 FROM concentrators_intervaltotal WHERE {condition} LIMIT %s"
    found: int = select(f"SELECT count(*) FROM ({statement}) AS found", [*params, most])[0][0]
    return found


_ORDER = ", ".join(TotalPosition._fields)


def _condition(selection: TotalSelection) -> tuple[str, list[Any]]:
    """Return the WHERE clause of a selection."""
    conditions, params = keyset.given(
        ("interval_start >= %s", selection.start),
        ("interval_start < %s", selection.end),
        keyset.one_of("concentrator_id", selection.concentrator_ids),
        keyset.one_of("register_id", selection.register_ids),
        keyset.after(TotalPosition._fields, selection.after),
    )
    return " AND ".join(conditions), params
