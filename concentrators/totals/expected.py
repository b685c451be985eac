"""Expected intervals of the meters of concentrators: the rule of ``meters/readings/expectation.py`` in SQL.

For many meters at a time, counted by concentrator. A test compares both over zones, lengths and exchanges. The counts
are stored as steps, which triggers mark as stale (docs/adr/0019-expected-steps.md).
"""

from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from django.db import connection, transaction

from ami_headend.core import locks
from ami_headend.core.sql import select
from concentrators.models import StaleSteps

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_BEGINNING, _END = _EPOCH, datetime(9000, 1, 1, tzinfo=UTC)
_AT_A_TIME = 50  # concentrators
# The number of meters expected in the interval of {total}, a row with concentrator, length and start.
EXPECTED = """coalesce((
    SELECT s.meters FROM concentrators_expectedstep s WHERE s.concentrator_id = {total}.concentrator_id
        AND s.interval_minutes = {total}.interval_minutes AND s.at <= {total}.interval_start
    ORDER BY s.at DESC LIMIT 1), 0)"""
# Whether the interval [{start}, {start} + {minutes}) of a meter counts for its assignment ``a``.
COUNTS_TO = """(
    a.valid_from < {start} + make_interval(mins => {minutes}) AND (a.valid_to IS NULL OR a.valid_to > {start})
    AND (a.valid_from <= {start} OR NOT EXISTS (
        SELECT 1 FROM concentrators_assignment p
        WHERE p.meter_id = a.meter_id AND p.valid_to > {start} AND p.valid_to <= a.valid_from)))"""
# Whether the meter ``m`` was taken down and hangs nowhere now: nothing is expected of it, and it is not silent.
TAKEN_DOWN = """EXISTS (
    SELECT 1 FROM meters_installation i WHERE i.meter_id = m.id AND i.removed_at <= now() AND NOT EXISTS (
        SELECT 1 FROM meters_installation j
        WHERE j.meter_id = m.id AND (j.removed_at IS NULL OR j.removed_at > now())))"""
# Expected intervals meter by meter: those of one length that begin in [first, last), both rounded up to such starts.
SPANS = """
    WITH mine AS MATERIALIZED (
        SELECT * FROM concentrators_assignment
        WHERE valid_from < %(end)s::timestamptz + interval '1 day' AND (valid_to IS NULL OR valid_to > %(start)s)
          AND concentrator_id = ANY(%(concentrators)s)
    ), before AS (
        SELECT a.id, max(p.valid_to) AS ended FROM mine a
        JOIN concentrators_assignment p ON p.meter_id = a.meter_id AND p.valid_to <= a.valid_from GROUP BY a.id
    ), length AS (
        SELECT a.*, m.commissioned_at, m.retired_at, m.interval_minutes AS minutes,
               (SELECT max(e.valid_to) FROM meters_earlierlength e WHERE e.meter_id = m.id) AS begun,
               NULL::timestamptz AS changed
        FROM mine a JOIN meters_meter m ON m.id = a.meter_id
        UNION ALL
        SELECT a.*, m.commissioned_at, m.retired_at, e.interval_minutes, e.valid_from, e.valid_to
        FROM mine a JOIN meters_meter m ON m.id = a.meter_id JOIN meters_earlierlength e ON e.meter_id = m.id
    ), exact AS (
        SELECT l.concentrator_id, l.meter_id, l.minutes, make_interval(mins => l.minutes) AS step,
               greatest(l.commissioned_at, h.installed_at, l.begun, b.ended, %(start)s,
                        l.valid_from - make_interval(mins => l.minutes) + interval '1 us') AS first,
               least(l.valid_to, %(end)s, least(l.retired_at, h.removed_at, l.changed, %(over_by)s)
                     - make_interval(mins => l.minutes) + interval '1 us') AS last
        FROM length l
        LEFT JOIN before b ON b.id = l.id
        LEFT JOIN meters_installation h ON h.meter_id = l.meter_id
    ), span AS (
        SELECT concentrator_id, meter_id, minutes, step,
               date_bin(step, first + step - interval '1 us', timestamptz '1970-01-01 00:00Z') AS first,
               date_bin(step, last + step - interval '1 us', timestamptz '1970-01-01 00:00Z') AS last
        FROM exact
    )
"""


class ExpectedSpan(NamedTuple):
    """A number of meters of a concentrator, expected in [first, last) with intervals of one length."""

    concentrator_id: int
    interval_minutes: int
    first: datetime
    last: datetime
    meters: int

    def intervals(self, start: datetime, end: datetime) -> int:
        """Return how many intervals of these meters begin in [start, end)."""
        step = timedelta(minutes=self.interval_minutes)
        first, last = max(self.first, start), min(self.last, end)
        return self.meters * max(0, _steps_before(last, step) - _steps_before(first, step))


def spans(
    start: datetime, end: datetime, over_by: datetime | None = None, concentrator_ids: Collection[int] | None = None
) -> list[ExpectedSpan]:
    """Return the spans of intervals that begin in [start, end) and have ended at ``over_by`` (default: ``end``).

    They come from the stored steps: one row for each change within the period, and one for each concentrator and
    length.
    """
    refresh()
    rows = select(
        """WITH pair AS (
               SELECT DISTINCT concentrator_id, interval_minutes FROM concentrators_expectedstep
               WHERE %(concentrators)s::int[] IS NULL OR concentrator_id = ANY(%(concentrators)s)
           ), step AS (
               SELECT p.concentrator_id, p.interval_minutes, %(start)s AS at, s.meters
               FROM pair p CROSS JOIN LATERAL (
                   SELECT meters FROM concentrators_expectedstep s WHERE s.concentrator_id = p.concentrator_id
                       AND s.interval_minutes = p.interval_minutes AND s.at <= %(start)s
                   ORDER BY s.at DESC LIMIT 1) AS s
               UNION ALL
               SELECT concentrator_id, interval_minutes, at, meters FROM concentrators_expectedstep
               WHERE at > %(start)s AND at < %(end)s
                   AND (%(concentrators)s::int[] IS NULL OR concentrator_id = ANY(%(concentrators)s))
           ), span AS (
               SELECT concentrator_id, interval_minutes, meters, at AS first,
                      least(%(end)s, %(over_by)s - make_interval(mins => interval_minutes) + interval '1 us',
                            lead(at) OVER (PARTITION BY concentrator_id, interval_minutes ORDER BY at)) AS last
               FROM step
           )
           SELECT concentrator_id, interval_minutes, first, last, meters FROM span
           WHERE first < last AND meters > 0""",
        parameters(start, end, over_by, concentrator_ids),
    )
    return [ExpectedSpan(*row) for row in rows]


def refresh() -> int:
    """Recompute the steps of concentrators with changed meters; return their number. One query if nothing changed.

    Each transaction recomputes some concentrators, so an interrupted run has done a part. A change that is committed
    meanwhile makes its concentrators stale again.
    """
    made = 0
    while StaleSteps.objects.exists():
        made += _refresh_some()
    return made


def _refresh_some() -> int:
    with transaction.atomic(), connection.cursor() as cursor:
        locks.take(locks.EXPECTED_STEPS)
        cursor.execute(
            """DELETE FROM concentrators_stalesteps WHERE concentrator_id IN (
                   SELECT DISTINCT concentrator_id FROM concentrators_stalesteps ORDER BY 1 LIMIT %s)
               RETURNING concentrator_id""",
            [_AT_A_TIME],
        )
        stale = sorted({row[0] for row in cursor.fetchall()})
        cursor.execute("DELETE FROM concentrators_expectedstep WHERE concentrator_id = ANY(%s)", [stale])
        cursor.execute(
            f"""{SPANS}, change AS (
                    SELECT concentrator_id, minutes, first AS at, 1 AS meters FROM span WHERE first < last
                    UNION ALL SELECT concentrator_id, minutes, last, -1 FROM span WHERE first < last
                )
                INSERT INTO concentrators_expectedstep (concentrator_id, interval_minutes, at, meters)
                SELECT concentrator_id, minutes, at,
                       sum(sum(meters)) OVER (PARTITION BY concentrator_id, minutes ORDER BY at)
                FROM change WHERE EXISTS (SELECT 1 FROM concentrators_concentrator c WHERE c.id = concentrator_id)
                GROUP BY concentrator_id, minutes, at HAVING sum(meters) <> 0""",
            parameters(_BEGINNING, _END, None, stale),
        )
    return len(stale)


def parameters(
    start: datetime, end: datetime, over_by: datetime | None, concentrator_ids: Collection[int] | None
) -> dict[str, Any]:
    """Return the parameters of ``SPANS``."""
    ids = None if concentrator_ids is None else list(concentrator_ids)
    return {"start": start, "end": end, "over_by": over_by or end, "concentrators": ids}


def _steps_before(at: datetime, step: timedelta) -> int:
    """Count the multiples of ``step`` since 1970 that lie before an instant."""
    return -((_EPOCH - at) // step)
