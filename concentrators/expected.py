"""Which intervals are expected of the meters of concentrators: the rule of ``meters/expectation.py`` in SQL.

For many meters at a time, counted by concentrator. A test holds both together over zones, lengths and exchanges.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Collection, Iterable
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from typing import Any, NamedTuple

from django.db import connection

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Whether the interval [{start}, {start} + {minutes}) of a meter counts to its assignment ``a``.
COUNTS_TO = """(
    a.valid_from < {start} + make_interval(mins => {minutes}) AND (a.valid_to IS NULL OR a.valid_to > {start})
    AND (a.valid_from <= {start} OR NOT EXISTS (
        SELECT 1 FROM concentrators_assignment p
        WHERE p.meter_id = a.meter_id AND p.valid_to > {start} AND p.valid_to <= a.valid_from)))"""
# Who is expected, meter by meter: the intervals of one length that begin in [first, last), both cut to such beginnings.
SPANS = """
    WITH mine AS MATERIALIZED (
        SELECT * FROM concentrators_assignment
        WHERE valid_from < %(end)s::timestamptz + interval '1 day' AND (valid_to IS NULL OR valid_to > %(start)s)
          AND (%(concentrators)s::int[] IS NULL OR concentrator_id = ANY(%(concentrators)s))
    ), before AS (
        SELECT a.id, max(p.valid_to) AS ended FROM mine a
        JOIN concentrators_assignment p ON p.meter_id = a.meter_id AND p.valid_to <= a.valid_from GROUP BY a.id
    ), length AS (
        SELECT m.id AS meter_id, m.interval_minutes AS minutes, e.since AS first, NULL::timestamptz AS last
        FROM meters_meter m
        LEFT JOIN (SELECT meter_id, max(valid_to) AS since FROM meters_earlierlength GROUP BY meter_id) e
             ON e.meter_id = m.id
        UNION ALL SELECT meter_id, interval_minutes, valid_from, valid_to FROM meters_earlierlength
    ), exact AS (
        SELECT a.concentrator_id, a.meter_id, l.minutes, make_interval(mins => l.minutes) AS step,
               greatest(m.commissioned_at, h.installed_at, l.first, b.ended, %(start)s,
                        a.valid_from - make_interval(mins => l.minutes) + interval '1 us') AS first,
               least(a.valid_to, %(end)s, least(m.retired_at, h.removed_at, l.last, %(over_by)s)
                     - make_interval(mins => l.minutes) + interval '1 us') AS last
        FROM mine a
        JOIN meters_meter m ON m.id = a.meter_id
        JOIN length l ON l.meter_id = a.meter_id
        LEFT JOIN before b ON b.id = a.id
        LEFT JOIN meters_installation h ON h.meter_id = a.meter_id
    ), span AS (
        SELECT concentrator_id, meter_id, minutes, step,
               date_bin(step, first + step - interval '1 us', timestamptz '1970-01-01 00:00Z') AS first,
               date_bin(step, last + step - interval '1 us', timestamptz '1970-01-01 00:00Z') AS last
        FROM exact
    )
"""


class Span(NamedTuple):
    """So many meters of a concentrator were expected in [first, last), in intervals of one length."""

    concentrator_id: int
    interval_minutes: int
    first: datetime
    last: datetime
    meters: int

    def intervals(self, start: datetime, end: datetime) -> int:
        """How many intervals of these meters begin in [start, end)."""
        step = timedelta(minutes=self.interval_minutes)
        first, last = max(self.first, start), min(self.last, end)
        return self.meters * max(0, _steps_before(last, step) - _steps_before(first, step))


def spans(
    start: datetime, end: datetime, over_by: datetime | None = None, concentrator_ids: Collection[int] | None = None
) -> list[Span]:
    """Who is expected to have sent intervals that begin in [start, end) and are over by an instant (``end``).

    One query over the assignments of these concentrators, or of all; few rows unless many meters changed.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            f"""{SPANS}
               SELECT concentrator_id, minutes, first, last, count(*) FROM span WHERE first < last
               GROUP BY concentrator_id, minutes, first, last""",
            parameters(start, end, over_by, concentrator_ids),
        )
        return [Span(*row) for row in cursor.fetchall()]


def parameters(
    start: datetime, end: datetime, over_by: datetime | None, concentrator_ids: Collection[int] | None
) -> dict[str, Any]:
    """The parameters of ``SPANS``."""
    ids = None if concentrator_ids is None else list(concentrator_ids)
    return {"start": start, "end": end, "over_by": over_by or end, "concentrators": ids}


class Counted:
    """How many meters are expected at the beginning of an interval, from spans."""

    def __init__(self, found: Iterable[Span]) -> None:
        changes: defaultdict[tuple[int, int], defaultdict[datetime, int]] = defaultdict(lambda: defaultdict(int))
        for span in found:
            of_length = changes[span.concentrator_id, span.interval_minutes]
            of_length[span.first] += span.meters
            of_length[span.last] -= span.meters
        self._steps = {
            of: ([at for at, _ in steps], list(accumulate(change for _, change in steps)))
            for of, steps in ((of, sorted(one.items())) for of, one in changes.items())
        }

    def at(self, concentrator_id: int, interval_minutes: int, start: datetime) -> int:
        """How many meters of a concentrator are expected in the interval that begins at ``start``."""
        times, counts = self._steps.get((concentrator_id, interval_minutes), ((), ()))
        at = bisect_right(times, start)
        return counts[at - 1] if at else 0


def _steps_before(at: datetime, step: timedelta) -> int:
    """How many multiples of ``step`` since 1970 lie before an instant."""
    return -((_EPOCH - at) // step)
