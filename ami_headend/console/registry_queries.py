"""Meters and concentrators as their lists show them: with when they were heard, what is open, and what waits."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from django.db import connection

from meters.models import MeterStatus

_HEARD = """
    LEFT JOIN LATERAL (
        SELECT n.heard_at, n.heard_via FROM keyvault_devicekey k JOIN keyvault_invocationcounter n ON n.key_id = k.id
        WHERE k.system_title = m.system_title AND k.epoch > 0 ORDER BY n.heard_at DESC NULLS LAST LIMIT 1
    ) AS h ON true
"""


class MeterRow(NamedTuple):
    """A meter in the list; ``open_failures`` are kept ones that nobody acknowledged."""

    id: int
    serial_number: str
    system_title: str
    name: str
    status: str
    interval_minutes: int
    heard_at: datetime | None
    concentrator_id: int | None
    concentrator: str | None
    open_failures: int


@dataclass(frozen=True)
class MeterSelection:
    """Which meters; ``heard`` is ``heard``, ``silent`` or ``never``, as of ``heard_since``. Empty is all."""

    search: str = ""
    system_title: bytes | None = None
    status: str = ""
    concentrator_id: int | None = None
    heard: str = ""
    heard_since: datetime | None = None
    after: str = ""


class ConcentratorRow(NamedTuple):
    """A concentrator in the list, with its frames since a time; ``waiting`` are uplinks that are not verified."""

    id: int
    name: str
    is_active: bool
    heard_at: datetime | None
    meters: int
    frames: int
    rejected: int
    waiting: int
    oldest_waiting_at: datetime | None


def meters(selection: MeterSelection, limit: int) -> tuple[list[MeterRow], tuple[str] | None]:
    """Meters by serial number, and the key to go on after; one query."""
    conditions, params = _meter_conditions(selection)
    heard = _HEARD if selection.heard else ""
    rows = _fetch(
        f"""SELECT m.id, m.serial_number, encode(m.system_title, 'hex'), m.name, m.status,
                   coalesce(l.interval_minutes, m.interval_minutes),
                   h.heard_at, c.id, c.name, coalesce(f.open, 0)
            FROM (SELECT m.* FROM meters_meter m {heard} {conditions} ORDER BY m.serial_number LIMIT %s) AS m
            {_HEARD}
            LEFT JOIN meters_earlierlength l ON l.meter_id = m.id AND l.valid_to > now()
                AND (l.valid_from IS NULL OR l.valid_from <= now())
            LEFT JOIN concentrators_assignment a ON a.meter_id = m.id AND a.valid_to IS NULL
            LEFT JOIN concentrators_concentrator c ON c.id = a.concentrator_id
            LEFT JOIN LATERAL (
                SELECT sum(open)::bigint AS open FROM concentrators_failuregroup WHERE meter_id = m.id
            ) AS f ON true
            ORDER BY m.serial_number""",
        [*params, limit],
    )
    shown = [MeterRow._make(row) for row in rows]
    return shown, (shown[-1].serial_number,) if len(shown) == limit else None


def concentrators(
    search: str, is_active: bool | None, since: datetime, after: str, limit: int
) -> tuple[list[ConcentratorRow], tuple[str] | None]:
    """Concentrators by name, and the key to go on after; one query."""
    conditions, params = ["name > %s"], [after]
    if search:
        conditions.append("strpos(lower(name), lower(%s)) > 0")
        params.append(search)
    if is_active is not None:
        conditions.append("is_active" if is_active else "NOT is_active")
    rows = _fetch(
        f"""SELECT c.id, c.name, c.is_active, u.received_at, a.meters, t.frames, t.rejected, w.uplinks, w.oldest
            FROM (SELECT * FROM concentrators_concentrator WHERE {" AND ".join(conditions)}
                  ORDER BY name LIMIT %s) AS c
            LEFT JOIN LATERAL (
                SELECT received_at FROM concentrators_uplink WHERE concentrator_id = c.id
                ORDER BY received_at DESC LIMIT 1
            ) AS u ON true
            CROSS JOIN LATERAL (
                SELECT count(*) AS meters FROM concentrators_assignment
                WHERE concentrator_id = c.id AND valid_to IS NULL
            ) AS a
            CROSS JOIN LATERAL (
                SELECT coalesce(sum(frames), 0) AS frames, coalesce(sum(rejected), 0) AS rejected
                FROM concentrators_uplink WHERE concentrator_id = c.id AND received_at >= %s
            ) AS t
            CROSS JOIN LATERAL (
                SELECT count(*) AS uplinks, min(received_at) AS oldest
                FROM concentrators_uplink WHERE concentrator_id = c.id AND verified_at IS NULL
            ) AS w
            ORDER BY c.name""",
        [*params, limit, since],
    )
    shown = [ConcentratorRow._make(row) for row in rows]
    return shown, (shown[-1].name,) if len(shown) == limit else None


def _meter_conditions(selection: MeterSelection) -> tuple[str, list[Any]]:
    """The WHERE of a selection of meters; values never become part of the text."""
    conditions: list[str] = []
    params: list[Any] = []
    if selection.system_title is not None:
        conditions.append("m.system_title = %s")
        params.append(selection.system_title)
    elif selection.search:
        conditions.append("(starts_with(m.serial_number, %s) OR strpos(lower(m.name), lower(%s)) > 0)")
        params += [selection.search, selection.search]
    if selection.status:
        conditions.append("m.status = %s")
        params.append(selection.status)
    if selection.concentrator_id is not None:
        conditions.append(
            """m.id IN (SELECT meter_id FROM concentrators_assignment
                        WHERE concentrator_id = %s AND valid_to IS NULL)"""
        )
        params.append(selection.concentrator_id)
    if selection.heard:
        conditions.append("m.status = %s")
        params.append(MeterStatus.COMMISSIONED)
    if selection.heard == "never":
        conditions.append("h.heard_at IS NULL")
    elif selection.heard:
        conditions.append("h.heard_at >= %s" if selection.heard == "heard" else "h.heard_at < %s")
        params.append(selection.heard_since)
    if selection.after:
        conditions.append("m.serial_number > %s")
        params.append(selection.after)
    return ("WHERE " + " AND ".join(conditions)) if conditions else "", params


def _fetch(statement: str, params: list[Any]) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(statement, params)
        rows: list[tuple[Any, ...]] = cursor.fetchall()
    return rows
