"""Meters and concentrators for their lists: last frames, open failures, and traffic."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from ami_headend.cached_answers import Question
from ami_headend.core.sql import int_array, select
from keyvault.device_keys import last_heard, schemes_in_use
from keyvault.enrolment import inventory as enrolment
from meters.models import MeterStatus
from meters.registry import groups
from meters.registry.search import Condition, meter_condition

TRAFFIC_PERIOD = timedelta(hours=24)


class MeterRow(NamedTuple):
    """A meter in the list; ``open_failures`` are stored ones that nobody acknowledged, ``scheme`` its active key's."""

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
    scheme: str | None
    may_enrol: bool


@dataclass(frozen=True)
class MeterSelection:
    """A selection of meters. ``heard`` is ``heard``, ``silent`` or ``never``, as of ``heard_since``. Empty selects
    all.

    ``ids`` restricts the search to a few meters that are known to contain all matches. Meters of ``group_ids`` are in
    order of their ids (``is_by_id``), as they stand in the group's index, and ``after`` is one.
    """

    search: str = ""
    system_title: bytes | None = None
    status: str = ""
    concentrator_id: int | None = None
    scheme: str = ""
    heard: str = ""
    heard_since: datetime | None = None
    may_enrol: bool = False
    ids: Sequence[int] | None = None
    group_ids: Sequence[int] | None = None
    after: str = ""

    @property
    def is_by_id(self) -> bool:
        """Whether its meters are in order of their ids, not of their serial numbers."""
        return self.group_ids is not None and self.concentrator_id is None and self.ids is None


class Traffic(NamedTuple):
    """The meters of a concentrator, and the frames that it posted in TRAFFIC_PERIOD."""

    meters: int = 0
    frames: int = 0
    rejected: int = 0


def meters(selection: MeterSelection, limit: int) -> tuple[list[MeterRow], tuple[str | int] | None]:
    """Return meters by serial number (of groups by id), and the key of the next page; one query.

    Meters of a concentrator and named meters are few, so they are found first and sorted: walking through all serial
    numbers until fifty of them turn up would take seconds. The last frame is looked up only for the rows shown.
    """
    found = _matching(selection, limit)
    order = "id" if selection.is_by_id else "serial_number"
    rows = select(
        f"""{found.before}
            SELECT m.id, m.serial_number, encode(m.system_title, 'hex'), m.name, m.status,
                   coalesce(l.interval_minutes, m.interval_minutes),
                   h.heard_at, c.id, c.name, coalesce(f.open, 0), u.scheme,
                   {enrolment.MAY.format(title="m.system_title")}
            FROM (SELECT m.* FROM {found.matching} ORDER BY m.{order} LIMIT %s) AS m
            {last_heard.LAST.format(title="m.system_title")}
            {schemes_in_use.OF.format(title="m.system_title")}
            LEFT JOIN meters_earlierlength l ON l.meter_id = m.id AND l.valid_to > now()
                AND (l.valid_from IS NULL OR l.valid_from <= now())
            LEFT JOIN concentrators_assignment a ON a.meter_id = m.id AND a.valid_to IS NULL
            LEFT JOIN concentrators_concentrator c ON c.id = a.concentrator_id
            LEFT JOIN LATERAL (
                SELECT sum(open)::bigint AS open FROM concentrators_failuregroup WHERE meter_id = m.id
            ) AS f ON true
            ORDER BY m.{order}""",
        [*found.params, limit],
    )
    shown = [MeterRow._make(row) for row in rows]
    return shown, (getattr(shown[-1], order),) if len(shown) == limit else None


def all_ids(selection: MeterSelection) -> Condition:
    """Return a statement that selects the ids of all meters of a selection, and its parameters."""
    found = _matching(selection, None)
    return f"{found.before} SELECT m.id FROM {found.matching}", found.params


def count(selection: MeterSelection, most: int) -> int:
    """Count the meters of a selection, up to ``most``."""
    statement, params = all_ids(selection)
    found: int = select(f"SELECT count(*) FROM ({statement} LIMIT %s) AS found", [*params, most])[0][0]
    return found


class _Matching(NamedTuple):
    """What comes before a statement and what it selects from, with ``m``; and the parameters of both."""

    before: str
    matching: str
    params: list[Any]


def _matching(selection: MeterSelection, limit: int | None) -> _Matching:
    conditions, params = _meter_conditions(selection, limit)
    first_heard = last_heard.LAST.format(title="m.system_title") if selection.heard else ""
    before, table = "", "meters_meter m"
    first: list[Any] = []
    if selection.concentrator_id is not None:
        before = """WITH mine AS MATERIALIZED (
                      SELECT m.* FROM concentrators_assignment a JOIN meters_meter m ON m.id = a.meter_id
                      WHERE a.concentrator_id = %s AND a.valid_to IS NULL ORDER BY m.serial_number)"""
        first = [selection.concentrator_id]
    elif selection.ids is not None:
        before = """WITH mine AS MATERIALIZED (
                      SELECT m.* FROM meters_meter m WHERE m.id = ANY(%s::int[]) ORDER BY m.serial_number)"""
        first = [int_array(selection.ids)]
    elif selection.group_ids is not None:
        rows, first = groups.in_order(selection.group_ids)
        table = f"{rows} AS g JOIN meters_meter m ON m.id = g.meter_id"
    return _Matching(before, f"{'mine m' if before else table} {first_heard} {conditions}", [*first, *params])


def _traffic(now: datetime) -> dict[int, Traffic]:
    rows = select(
        """SELECT coalesce(t.concentrator_id, a.concentrator_id), coalesce(meters, 0), coalesce(frames, 0),
                  coalesce(rejected, 0)
           FROM (SELECT concentrator_id, sum(frames)::bigint AS frames, sum(rejected)::bigint AS rejected
                 FROM concentrators_uplink WHERE received_at >= %s GROUP BY 1) AS t
           FULL JOIN (SELECT concentrator_id, count(*) AS meters
                      FROM concentrators_assignment WHERE valid_to IS NULL GROUP BY 1) AS a USING (concentrator_id)""",
        [now - TRAFFIC_PERIOD],
    )
    return {row[0]: Traffic(*row[1:]) for row in rows}


TRAFFIC = Question("traffic", _traffic, dict[int, Traffic])


def _meter_conditions(selection: MeterSelection, limit: int | None) -> tuple[str, list[Any]]:
    """Return the WHERE clause of a selection of meters; values never become part of the text."""
    conditions: list[str] = []
    params: list[Any] = []
    if selection.system_title is not None:
        conditions.append("m.system_title = %s")
        params.append(selection.system_title)
    elif selection.search:
        # With other filters, all meters that the term matches; otherwise only as many as are shown.
        others = (
            selection.status
            or selection.scheme
            or selection.heard
            or selection.may_enrol
            or (selection.concentrator_id, selection.ids, selection.group_ids) != (None, None, None)
        )
        condition, values = meter_condition(
            selection.search, "m", limit=None if others else limit, after=selection.after
        )
        conditions.append(condition)
        params += values
    if selection.status:
        conditions.append("m.status = %s")
        params.append(selection.status)
    if selection.scheme:
        conditions.append(schemes_in_use.IS.format(title="m.system_title"))
        params.append(selection.scheme)
    if selection.may_enrol:
        conditions.append(enrolment.MAY.format(title="m.system_title"))
    if selection.ids is not None:
        conditions.append("m.id = ANY(%s::int[])")
        params.append(int_array(selection.ids))
    if selection.heard:
        conditions.append("m.status = %s")
        params.append(MeterStatus.COMMISSIONED)
    if selection.heard == "never":
        conditions.append("h.heard_at IS NULL")
    elif selection.heard:
        conditions.append("h.heard_at >= %s" if selection.heard == "heard" else "h.heard_at < %s")
        params.append(selection.heard_since)
    if selection.group_ids is not None and not selection.is_by_id:
        condition, values = groups.meter_condition(selection.group_ids, "m.id")
        conditions.append(condition)
        params += values
    if selection.after:
        conditions.append("m.id > %s" if selection.is_by_id else "m.serial_number > %s")
        params.append(int(selection.after) if selection.is_by_id else selection.after)
    return ("WHERE " + " AND ".join(conditions)) if conditions else "", params
