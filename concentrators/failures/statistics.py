"""Rejected frames in numbers: how many of each kind, when, and through which concentrators and meters.

Tallies count every rejected frame by concentrator, kind and hour. Questions that they cannot answer (about a meter, an
uplink, open or acknowledged failures) are answered from the newest stored failures.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from ami_headend.core.sql import select
from concentrators.failures.kinds import FailureKind
from concentrators.failures.queries import FailureSelection, newest

KEPT_MOST = 20_000
_TALLIES = """SELECT t.concentrator_id, t.kind, t.hour AS at, t.failures FROM concentrators_failuretally t
              WHERE t.kind = ANY(%s::text[]) AND t.hour >= %s AND t.hour < %s
              AND (t.concentrator_id = %s OR %s::int IS NULL)"""
_KEPT = """SELECT f.concentrator_id, f.kind, f.received_at AS at, 1 AS failures
           FROM ({found}) AS page JOIN concentrators_integrityfailure f ON f.id = page.id"""


class ConcentratorCount(NamedTuple):
    """Rejected frames through one concentrator."""

    id: int
    name: str
    failures: int


class MeterCount(NamedTuple):
    """Rejected frames that claim to be from one meter; without ``id``, from no known meter."""

    id: int | None
    serial_number: str | None
    failures: int


class Numbers(NamedTuple):
    """Rejected frames by step of time and kind, and by concentrator, most first.

    ``by_step`` has one count by kind for each requested start.
    """

    by_step: list[dict[FailureKind, int]]
    by_concentrator: list[ConcentratorCount]

    @property
    def by_kind(self) -> dict[FailureKind, int]:
        """The counts over all steps, most first."""
        sums: dict[FailureKind, int] = {}
        for counts in self.by_step:
            for kind, failures in counts.items():
                sums[kind] = sums.get(kind, 0) + failures
        return dict(sorted(sums.items(), key=lambda pair: -pair[1]))


def is_counted_by_tallies(selection: FailureSelection) -> bool:
    """Whether tallies can answer for a selection: only kind, severity, concentrator and period are chosen."""
    chosen = (selection.meter_id, selection.uplink_id, selection.system_title, selection.ids, selection.is_open)
    return all(value is None for value in chosen)


def numbers(selection: FailureSelection, starts: Sequence[datetime], end: datetime, most: int) -> Numbers:
    """Count rejected frames from the first of ``starts`` (sorted) to ``end``; at most ``most`` concentrators; one
    query.

    Tallies cover whole hours: those that begin in the period count.
    """
    if is_counted_by_tallies(selection):
        found, params = _TALLIES, _of_tallies(selection, starts[0], end)
    else:
        ids, params = newest(selection, KEPT_MOST)
        found = _KEPT.format(found=ids)
    rows = select(
        f"""WITH found AS MATERIALIZED ({found}), counted AS (
                SELECT width_bucket(at, %s::timestamptz[]) AS step, kind, concentrator_id, sum(failures)::bigint AS n
                FROM found GROUP BY GROUPING SETS ((1, 2), (3))
            )
            (SELECT step, kind, NULL::int, NULL, n FROM counted WHERE concentrator_id IS NULL AND step > 0)
            UNION ALL
            (SELECT NULL, NULL, c.id, c.name, n FROM counted
             JOIN concentrators_concentrator c ON c.id = concentrator_id ORDER BY n DESC, c.name LIMIT %s)""",
        [*params, list(starts), most],
    )
    by_step: list[dict[FailureKind, int]] = [{} for _ in starts]
    for step, kind, _, _, failures in rows:
        if step is not None:
            by_step[step - 1][FailureKind(kind)] = failures
    through = [ConcentratorCount(row[2], row[3], row[4]) for row in rows if row[0] is None]
    return Numbers(by_step, through)


def by_meter(selection: FailureSelection, most: int) -> list[MeterCount]:
    """Return the meters that the newest stored failures of a selection claim, most failures first; one query."""
    ids, params = newest(selection, KEPT_MOST)
    rows = select(
        f"""SELECT f.meter_id, m.serial_number, f.n
            FROM (SELECT meter_id, count(*) AS n FROM ({ids}) AS page
                  JOIN concentrators_integrityfailure USING (id) GROUP BY meter_id ORDER BY 2 DESC, 1 LIMIT %s) AS f
            LEFT JOIN meters_meter m ON m.id = f.meter_id ORDER BY f.n DESC, m.serial_number""",
        [*params, most],
    )
    return [MeterCount(*row) for row in rows]


def _of_tallies(selection: FailureSelection, start: datetime, end: datetime) -> list[Any]:
    kinds = [kind.value for kind in selection.chosen_kinds()]
    return [kinds, start, end, selection.concentrator_id, selection.concentrator_id]
