"""Queries of integrity failures: lists in pages by key, newest first, and counts by meter and kind.

A list by kind, severity, meter, concentrator or state reads the first rows of one short index range for each kind and
state, and merges them: a page costs the same even during a flood of other failures.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from django.db import connection

from ami_headend.core import keyset
from ami_headend.core.sql import cursor, int_array
from concentrators.failures.kinds import FailureKind, Severity
from concentrators.failures.reasons import without_values
from concentrators.fleet.groups import concentrator_condition, concentrator_ids
from meters.registry.groups import meter_condition


class FailureKey(NamedTuple):
    """The position of a failure, or of a group of them, in the order: newest first."""

    at: datetime
    id: int


class FailureRow(NamedTuple):
    """A failure in a list, without its octets. ``kid`` is the frame's claim, in hex.

    ``detail`` has no values of readings: the failure's page shows those to users who may see them.
    """

    id: int
    received_at: datetime
    kind: str
    severity: int
    meter_id: int | None
    meter: str | None
    concentrator_id: int
    concentrator: str
    uplink_id: int
    frame_index: int
    kid: str | None
    invocation_counter: int | None
    detail: str
    acknowledged_by: str | None
    acknowledged_at: datetime | None
    note: str | None


class FailureGroupRow(NamedTuple):
    """The stored failures of a meter and kind; ``meter`` is None for frames of no known meter.

    ``concentrator`` is the one that posted them, or None if there were several: ``concentrators`` counts them.
    """

    id: int
    last_at: datetime
    first_at: datetime
    kind: str
    severity: int
    meter_id: int | None
    meter: str | None
    concentrator_id: int | None
    concentrator: str | None
    concentrators: int
    failures: int
    open: int


@dataclass(frozen=True)
class FailureSelection:
    """A selection of failures received in [start, end), by kind, severity, meter, concentrator and state; None is all.

    ``system_title`` (8 octets) finds frames that claim a device which is not a meter here; ``ids`` are single failures.
    ``group_ids`` finds those of meters in these fleet groups; of no known meter, those of concentrators in them.
    For groups of failures, the period is that of their last failure.
    """

    kinds: Sequence[FailureKind] | None = None
    severity: Severity | None = None
    meter_id: int | None = None
    concentrator_id: int | None = None
    uplink_id: int | None = None
    system_title: bytes | None = None
    ids: Sequence[int] | None = None
    group_ids: Sequence[int] | None = None
    is_open: bool | None = None
    start: datetime | None = None
    end: datetime | None = None
    after: FailureKey | None = None

    def chosen_kinds(self) -> list[FailureKind]:
        """Return the selected kinds; every kind has one severity."""
        return [kind for kind in self.kinds or FailureKind if self.severity is None or kind.severity is self.severity]


def failures(selection: FailureSelection, limit: int) -> tuple[list[FailureRow], FailureKey | None]:
    """Return the newest failures of a selection, and the key of the next page; one query."""
    found, params = newest(selection, limit)
    rows = _fetch(
        f"""SELECT f.id, f.received_at, f.kind, f.severity, f.meter_id, m.serial_number, f.concentrator_id, c.name,
                   f.uplink_id, f.frame_index, encode(f.kid, 'hex'), f.invocation_counter, f.detail, a.by, a.at, a.note
            FROM ({found}) AS page
            JOIN concentrators_integrityfailure f ON f.id = page.id
            JOIN concentrators_concentrator c ON c.id = f.concentrator_id
            LEFT JOIN meters_meter m ON m.id = f.meter_id
            LEFT JOIN concentrators_acknowledgement a ON a.id = f.acknowledgement_id
            ORDER BY f.received_at DESC, f.id DESC""",
        params,
    )
    found_rows = (FailureRow._make(row) for row in rows)
    shown = [row._replace(detail=without_values(row.detail)) for row in found_rows]
    return shown, FailureKey(shown[-1].received_at, shown[-1].id) if len(shown) == limit else None


def failure_groups(selection: FailureSelection, limit: int) -> tuple[list[FailureGroupRow], FailureKey | None]:
    """Return the groups with the newest failures, and the key of the next page; one query.

    It merges the first rows of a short index range for each kind and state. For a concentrator, it reads the groups
    that only it posted, and all of the few that others posted too.
    """
    found, params = _newest_groups(selection, limit)
    rows = _fetch(
        f"""SELECT g.id, g.last_at, g.first_at, g.kind, g.severity, g.meter_id, m.serial_number, c.id, c.name,
                   cardinality(g.concentrators), g.failures, g.open
            FROM (SELECT * FROM ({found}) AS found ORDER BY last_at DESC, id DESC LIMIT %s) AS g
            LEFT JOIN meters_meter m ON m.id = g.meter_id
            LEFT JOIN concentrators_concentrator c
                ON cardinality(g.concentrators) = 1 AND c.id = g.concentrators[1]
            ORDER BY g.last_at DESC, g.id DESC""",
        [*params, limit],
    )
    shown = [FailureGroupRow._make(row) for row in rows]
    return shown, FailureKey(shown[-1].last_at, shown[-1].id) if len(shown) == limit else None


def _newest_groups(selection: FailureSelection, limit: int) -> tuple[str, list[Any]]:
    """Return SQL of the newest groups of a selection, in any order and perhaps more than ``limit``, with its
    parameters.
    """
    conditions, params = keyset.given(
        ("meter_id = %s", selection.meter_id),
        ("last_at >= %s", selection.start),
        ("last_at < %s", selection.end),
        keyset.after(("last_at", "id"), selection.after, newest_first=True),
    )
    kinds = [kind.value for kind in selection.chosen_kinds()]
    states = [state for state, is_open in _GROUP_STATES.items() if selection.is_open in (None, is_open)]
    table = "SELECT * FROM concentrators_failuregroup WHERE "
    if selection.group_ids is not None:
        of_meters, values = meter_condition(selection.group_ids, "meter_id")
        conditions.append(f"({of_meters} OR meter_id IS NULL AND concentrators && %s::int[])")
        params += [*values, int_array(concentrator_ids(selection.group_ids))]
    if selection.meter_id is not None or selection.concentrator_id is not None:
        chosen = [*conditions, "kind = ANY(%s::text[])", f"({' OR '.join(states)})"]
        if selection.concentrator_id is None:
            return table + " AND ".join(chosen), [*params, kinds]
        alone, among = ("concentrators[1] = %s AND cardinality(concentrators) = 1", "concentrators @> ARRAY[%s::int]")
        return (
            f"""({table}{" AND ".join([alone, *chosen])} ORDER BY last_at DESC, id DESC LIMIT %s)
                UNION ALL
                ({table}{" AND ".join([among, "cardinality(concentrators) > 1", *chosen])})""",
            [selection.concentrator_id, *params, kinds, limit, selection.concentrator_id, *params, kinds],
        )
    parts = [
        f"""SELECT g.* FROM unnest(%s::text[]) AS k(kind) CROSS JOIN LATERAL (
                {table}{" AND ".join(["kind = k.kind", state, *conditions])} ORDER BY last_at DESC, id DESC LIMIT %s
            ) AS g"""
        for state in states
    ]
    return " UNION ALL ".join(parts), [*[kinds, *params, limit] * len(states)]


_GROUP_STATES = {"open > 0": True, "open <= 0": False}  # exactly the conditions of the two indexes


def open_by_severity() -> dict[Severity, int]:
    """Count stored failures that nobody has acknowledged, by severity; from the groups, so that no failure is read."""
    counted = dict.fromkeys(sorted(Severity, reverse=True), 0)
    for severity, open_ in _fetch(
        "SELECT severity, sum(open)::bigint FROM concentrators_failuregroup GROUP BY severity", []
    ):
        counted[Severity(severity)] = open_
    return counted


def open_of_meter(meter_id: int) -> int:
    """Count stored failures of a meter that nobody has acknowledged; one query."""
    rows = _fetch("SELECT sum(open)::bigint FROM concentrators_failuregroup WHERE meter_id = %s", [meter_id])
    return rows[0][0] or 0


def count(selection: FailureSelection, most: int) -> int:
    """Count the failures of a selection, up to ``most``."""
    found, params = newest(selection, most)
    ((counted,),) = _fetch(f"SELECT count(*) FROM ({found}) AS found", params)
    return int(counted)


def count_groups(selection: FailureSelection, most: int) -> int:
    """Count the groups of a selection, up to ``most``."""
    found, params = _newest_groups(selection, most)
    ((counted,),) = _fetch(f"SELECT count(*) FROM (SELECT 1 FROM ({found}) AS f LIMIT %s) AS found", [*params, most])
    return int(counted)


def newest(selection: FailureSelection, limit: int) -> tuple[str, list[Any]]:
    """Return SQL of the ids of the newest failures of a selection, and its parameters."""
    conditions, params = _conditions(selection)
    kinds = selection.chosen_kinds()
    states = [True, False] if selection.is_open is None else [selection.is_open]
    # Either few rows by an index of their own, or all by time: then kinds and states are ordinary conditions.
    if selection.group_ids is not None:
        return _newest_of_groups(selection, limit)
    is_narrow = selection.uplink_id is not None or selection.system_title is not None or selection.ids is not None
    is_all = len(kinds) == len(FailureKind) and len(states) == 2
    if is_narrow or (is_all and selection.meter_id is None and selection.concentrator_id is None):
        if not is_all:
            conditions += ["kind = ANY(%s::text[])", "is_open = ANY(%s::bool[])"]
            params += [[kind.value for kind in kinds], states]
        return (
            f"""SELECT id FROM concentrators_integrityfailure {_where(conditions)}
                ORDER BY received_at DESC, id DESC LIMIT %s""",
            [*params, limit],
        )
    return (
        f"""SELECT f.id FROM unnest(%s::text[]) AS k(kind) CROSS JOIN unnest(%s::bool[]) AS s(state)
            CROSS JOIN LATERAL (
                SELECT id, received_at FROM concentrators_integrityfailure
                {_where(["kind = k.kind", "is_open = s.state", *conditions])}
                ORDER BY received_at DESC, id DESC LIMIT %s
            ) AS f ORDER BY f.received_at DESC, f.id DESC LIMIT %s""",
        [[kind.value for kind in kinds], states, *params, limit, limit],
    )


def _newest_of_groups(selection: FailureSelection, limit: int) -> tuple[str, list[Any]]:
    """Do the same for fleet groups: of their meters, and of their concentrators where no known meter is claimed."""
    conditions, params = _conditions(selection)
    kinds, states = [kind.value for kind in selection.chosen_kinds()], selection.is_open
    conditions += ["kind = ANY(%s::text[])"] + (["is_open = %s"] if states is not None else [])
    params += [kinds, *([] if states is None else [states])]
    of_meters, values = meter_condition(selection.group_ids or (), "meter_id")
    of_concentrators, others = concentrator_condition(selection.group_ids or (), "concentrator_id")
    branches = [([of_meters], values), (["meter_id IS NULL", of_concentrators], others)]
    found = " UNION ALL ".join(
        f"""(SELECT id, received_at FROM concentrators_integrityfailure {_where([*conditions, *more])}
             ORDER BY received_at DESC, id DESC LIMIT %s)"""
        for more, _ in branches
    )
    each = [value for _, values in branches for value in (*params, *values, limit)]
    return f"SELECT id FROM ({found}) AS f ORDER BY received_at DESC, id DESC LIMIT %s", [*each, limit]


def _conditions(selection: FailureSelection) -> tuple[list[str], list[Any]]:
    """Return the WHERE clause except kind and state."""
    title = selection.system_title
    return keyset.given(
        ("meter_id = %s", selection.meter_id),
        ("concentrator_id = %s", selection.concentrator_id),
        ("uplink_id = %s", selection.uplink_id),
        ("received_at >= %s", selection.start),
        ("received_at < %s", selection.end),
        ("kid >= %s", title),
        ("kid <= %s", None if title is None else title + b"\xff\xff"),
        keyset.one_of("id", selection.ids, "bigint"),
        keyset.after(("received_at", "id"), selection.after, newest_first=True),
    )


def _where(conditions: Iterable[str]) -> str:
    text = " AND ".join(conditions)
    return f"WHERE {text}" if text else ""


def _fetch(statement: str, params: list[Any]) -> list[tuple[Any, ...]]:
    """Return all rows, planned anew each time, since the best plan depends on the selection."""
    with connection.wrap_database_errors, cursor() as batch:
        return batch.execute(statement, params, prepare=False).fetchall()
