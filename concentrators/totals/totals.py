"""Totals per concentrator, register, interval length and interval: add, move, recompute, compare."""

from collections.abc import Collection, Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any, NamedTuple

from django.conf import settings
from django.db import connection, transaction

from ami_headend.core import locks
from ami_headend.core.sql import execute, int_array, select
from concentrators.models import IntervalTotal
from concentrators.totals.expected import COUNTS_TO
from keyvault.schemes.table import UNAUTHENTICATED
from meters.readings import partitions

LOCK = locks.TOTALS  # so that nothing is added under outdated assignments


class TotalKey(NamedTuple):
    """The key of a total; ``start_s`` is the interval's start in Unix seconds."""

    concentrator_id: int
    register_id: int
    interval_minutes: int
    start_s: int


class Difference(NamedTuple):
    """A total that differs from the readings: (sum, meters, masked) as stored and as recomputed; None if missing."""

    concentrator_id: int
    register_id: int
    interval_minutes: int
    interval_start: datetime
    kept: tuple[int, int, int] | None
    recomputed: tuple[int, int, int] | None


# Places at which concentrators say sums of their own are to be compared anew: only inserted, nobody waits for it.
_UNCOMPARED = """
    INSERT INTO concentrators_uncomparedsum (concentrator_id, register_id, interval_minutes, interval_start)
    SELECT concentrator_id, register_id, interval_minutes, interval_start FROM concentrators_reportedsum"""


def schemes_without_totals() -> frozenset[int]:
    """Return the numbers of schemes whose values are in no sum, but count as arrived: see UNAUTHENTICATED_TOTALS."""
    return frozenset() if settings.UNAUTHENTICATED_TOTALS else frozenset(n for n in UNAUTHENTICATED if n is not None)


def add(sums: Mapping[TotalKey, tuple[int, int]], masked: Mapping[TotalKey, int] = MappingProxyType({})) -> None:
    """Add (sum in the register's resolution, meters) to totals, in one statement and in key order.

    ``masked`` is how many meters sent a value that is in no sum: masked, or of a scheme without totals.
    If a concentrator reported a sum for a place, the place is marked for comparison.
    """
    keys = sorted(sums.keys() | masked.keys()) if masked else sorted(sums)
    nothing = 0, 0
    execute(
        f"""WITH n AS (
               SELECT concentrator_id, register_id, interval_minutes, to_timestamp(start_s) AS interval_start,
                      value_sum, meters, masked
               FROM unnest(%s::int[], %s::smallint[], %s::smallint[], %s::bigint[], %s::numeric[], %s::int[], %s::int[])
                    AS n(concentrator_id, register_id, interval_minutes, start_s, value_sum, meters, masked)
           ), uncompared AS (
               {_UNCOMPARED} JOIN n USING (concentrator_id, register_id, interval_minutes, interval_start)
           )
           INSERT INTO concentrators_intervaltotal AS t
               (concentrator_id, register_id, interval_minutes, interval_start, value_sum, meters_counted,
                meters_masked)
           SELECT * FROM n
           ON CONFLICT (concentrator_id, register_id, interval_minutes, interval_start) DO UPDATE
           SET value_sum = t.value_sum + excluded.value_sum,
               meters_counted = t.meters_counted + excluded.meters_counted,
               meters_masked = t.meters_masked + excluded.meters_masked""",
        int_array(key.concentrator_id for key in keys),
        int_array(key.register_id for key in keys),
        int_array(key.interval_minutes for key in keys),
        int_array(key.start_s for key in keys),
        int_array(sums.get(key, nothing)[0] for key in keys),
        int_array(sums.get(key, nothing)[1] for key in keys),
        int_array(masked.get(key, 0) for key in keys),
    )


def lock() -> None:
    """Block verification until the transaction ends, while assignments change."""
    locks.take(LOCK)


def shift(meter_ids: Collection[int], start: datetime, sign: int, end: datetime | None = None) -> None:
    """Add (+1) or subtract (-1) readings from ``start`` to ``end`` (None: no end), by the present assignments.

    Called under ``lock``, once before the assignments or lengths of the meters change, and once after.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            f"""INSERT INTO concentrators_intervaltotal AS t
                    (concentrator_id, register_id, interval_minutes, interval_start, value_sum, meters_counted,
                     meters_masked)
                SELECT concentrator_id, register_id, interval_minutes, captured_at,
                       %(sign)s * value_sum, %(sign)s * meters, %(sign)s * masked
                FROM ({_FROM_READINGS} AND r.meter_id = ANY(%(meters)s) GROUP BY 1, 2, 3, 4) AS n
                ORDER BY 1, 2, 3, 4
                ON CONFLICT (concentrator_id, register_id, interval_minutes, interval_start) DO UPDATE
                SET value_sum = t.value_sum + excluded.value_sum,
                    meters_counted = t.meters_counted + excluded.meters_counted,
                    meters_masked = t.meters_masked + excluded.meters_masked""",
            {
                "sign": sign,
                "meters": list(meter_ids),
                "start": start,
                "end": end,
                "without": sorted(schemes_without_totals()),
            },
        )
        cursor.execute(
            f"""{_UNCOMPARED}
                WHERE interval_start >= %(start)s AND (%(end)s::timestamptz IS NULL OR interval_start < %(end)s)
                  AND concentrator_id IN (
                      SELECT concentrator_id FROM concentrators_assignment WHERE meter_id = ANY(%(meters)s))""",
            {"meters": list(meter_ids), "start": start, "end": end},
        )
        # From ``start`` on, by the index, so that totals of years are not scanned while verification waits.
        cursor.execute(
            """DELETE FROM concentrators_intervaltotal
               WHERE interval_start >= %s AND (%s::timestamptz IS NULL OR interval_start < %s)
                     AND meters_counted = 0 AND meters_masked = 0""",
            [start, end, end],
        )


def compare(start: datetime, end: datetime) -> list[Difference]:
    """Return totals in [start, end) that differ from the sums of readings. One statement, so one snapshot.

    NotStoredError if readings of that time are archived: totals stay in the database.
    """
    with transaction.atomic():
        partitions.require_stored(start, end)
        return _compare(start, end)


def _compare(start: datetime, end: datetime) -> list[Difference]:
    rows = select(
        f"""SELECT concentrator_id, register_id, interval_minutes, captured_at,
                   t.value_sum, t.meters_counted, t.meters_masked, n.value_sum, n.meters, n.masked
            FROM (SELECT *, interval_start AS captured_at FROM concentrators_intervaltotal
                  WHERE interval_start >= %(start)s AND interval_start < %(end)s) AS t
            FULL JOIN ({_FROM_READINGS} GROUP BY 1, 2, 3, 4) AS n
                 USING (concentrator_id, register_id, interval_minutes, captured_at)
            WHERE t.value_sum IS DISTINCT FROM n.value_sum OR t.meters_counted IS DISTINCT FROM n.meters
                  OR t.meters_masked IS DISTINCT FROM n.masked
            ORDER BY 1, 2, 3, 4""",
        {"start": start, "end": end, "without": sorted(schemes_without_totals())},
    )
    return [Difference(row[0], row[1], row[2], row[3], _numbers(*row[4:7]), _numbers(*row[7:10])) for row in rows]


def recompute(start: datetime, end: datetime) -> list[Difference]:
    """Set totals in [start, end) to the sums of readings; return the differences. Blocks verification.

    NotStoredError, as ``compare``.
    """
    with transaction.atomic():
        lock()
        differences = compare(start, end)
        window = IntervalTotal.objects.filter(interval_start__gte=start, interval_start__lt=end)
        wrong = [d[:4] for d in differences]
        window.filter(pk__in=wrong).delete()
        IntervalTotal.objects.bulk_create(
            [
                IntervalTotal(
                    concentrator_id=difference.concentrator_id,
                    register_id=difference.register_id,
                    interval_minutes=difference.interval_minutes,
                    interval_start=difference.interval_start,
                    value_sum=difference.recomputed[0],
                    meters_counted=difference.recomputed[1],
                    meters_masked=difference.recomputed[2],
                )
                for difference in differences
                if difference.recomputed
            ],
            batch_size=1000,
        )
    return differences


# A reading counts for one assignment of its meter: meters/readings/expectation.py says which.
_FROM_READINGS = f"""
    SELECT a.concentrator_id, r.register_id, r.interval_minutes, r.captured_at,
           coalesce(sum(r.value), 0) AS value_sum, count(r.value)::int AS meters, sum(r.masked)::int AS masked
    FROM (SELECT meter_id, register_id, interval_minutes, captured_at,
                 CASE WHEN scheme = ANY(%(without)s::smallint[]) THEN NULL ELSE value END AS value,
                 (scheme IS NOT NULL AND scheme = ANY(%(without)s::smallint[]))::int AS masked
          FROM meters_reading
          UNION ALL
          SELECT meter_id, register_id, interval_minutes, captured_at, NULL, 1 FROM meters_maskedreading) AS r
    JOIN concentrators_assignment a ON a.meter_id = r.meter_id
         AND {COUNTS_TO.format(start="r.captured_at", minutes="r.interval_minutes")}
    WHERE r.interval_minutes > 0 AND r.captured_at >= %(start)s
          AND (%(end)s::timestamptz IS NULL OR r.captured_at < %(end)s)
"""


def _numbers(value_sum: Any, meters: Any, masked: Any) -> tuple[int, int, int] | None:
    return None if value_sum is None else (int(value_sum), int(meters), int(masked))
