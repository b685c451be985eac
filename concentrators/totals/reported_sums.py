"""Sums that concentrators report, compared with those of the head-end.

A sum covers the meters of schemes hop and mac that were assigned to the concentrator when the interval began
(docs/schemes.md). It finds faults, not fraud: a lying concentrator can change both the readings and their sum.
"""

from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from typing import NamedTuple

from django.db import connection, transaction

from ami_headend.core import locks
from ami_headend.core.sql import execute, fetch_rows, int_array
from concentrators.ingest.facts import SumInterval, SumPlace, SumSaid
from keyvault.schemes.table import SCHEMES

_AT_A_TIME = 200  # sums; each needs a look-up for every meter of its concentrator
_AGAIN = 1_000  # of the differing sums, which are compared again each time
COMPARED_FOR = timedelta(days=35)  # differing sums are compared again for this long
# Schemes whose readings the concentrator can see: mac is readable for everybody on the way, hop only for it.
_SEEN = [scheme.number for name in ("mac", "hop") if (scheme := SCHEMES.get(name)) is not None and scheme.number]
_PLACES = """unnest(%s::int[], %s::smallint[], %s::smallint[], %s::bigint[])
    AS n(concentrator_id, register_id, interval_minutes, start_s)"""


class DifferingSum(NamedTuple):
    """A concentrator and interval where the reported sum or number of meters differs from ours."""

    concentrator_id: int
    obis_code: str
    interval_minutes: int
    interval_start: datetime
    said: tuple[int, int]
    own: tuple[int, int]
    since: datetime


def standing(places: Collection[SumPlace]) -> dict[SumPlace, SumSaid]:
    """Return the stored sums of some places; one query."""
    rows = fetch_rows(
        f"""SELECT s.concentrator_id, s.register_id, s.interval_minutes, n.start_s,
                   s.epoch, s.invocation_counter, s.value_sum, s.meters_counted, s.uplink_id
            FROM {_PLACES} JOIN concentrators_reportedsum s
                 ON s.concentrator_id = n.concentrator_id AND s.register_id = n.register_id
                 AND s.interval_minutes = n.interval_minutes AND s.interval_start = to_timestamp(n.start_s)""",
        *_columns(places),
    )
    return {row[:4]: SumSaid((row[4], row[5]), *row[6:]) for row in rows}


def without_meters(intervals: Collection[SumInterval]) -> set[SumInterval]:
    """Return the intervals for which a concentrator had no meter of that length, from the start to a day later.

    Sums of those are refused: a concentrator cannot fill the table with invented places. One query.
    """
    rows = fetch_rows(
        """SELECT n.concentrator_id, n.minutes, n.start_s
           FROM unnest(%s::int[], %s::int[], %s::bigint[]) AS n(concentrator_id, minutes, start_s)
           WHERE NOT EXISTS (
               SELECT FROM concentrators_assignment a JOIN meters_meter m ON m.id = a.meter_id
               WHERE a.concentrator_id = n.concentrator_id
                     AND a.valid_from <= to_timestamp(n.start_s) + interval '1 day'
                     AND (a.valid_to IS NULL OR a.valid_to > to_timestamp(n.start_s))
                     AND (m.interval_minutes = n.minutes
                          OR EXISTS (SELECT FROM meters_earlierlength e
                                     WHERE e.meter_id = m.id AND e.interval_minutes = n.minutes)))""",
        *(int_array(one[n] for one in intervals) for n in range(3)),
    )
    return set(rows)


def store(said: Mapping[SumPlace, SumSaid]) -> None:
    """Store sums unless one with a higher epoch and counter is stored, and mark them for comparison. One statement."""
    places = sorted(said)
    sums = [said[place] for place in places]
    execute(
        """WITH n AS (
               SELECT concentrator_id, register_id, interval_minutes, to_timestamp(start_s) AS interval_start,
                      epoch, counter, value_sum, meters, uplink_id
               FROM unnest(%s::int[], %s::smallint[], %s::smallint[], %s::bigint[], %s::int[], %s::bigint[],
                           %s::bigint[], %s::int[], %s::bigint[])
                    AS n(concentrator_id, register_id, interval_minutes, start_s, epoch, counter, value_sum, meters,
                         uplink_id)
           ), uncompared AS (
               INSERT INTO concentrators_uncomparedsum (concentrator_id, register_id, interval_minutes, interval_start)
               SELECT concentrator_id, register_id, interval_minutes, interval_start FROM n
           )
           INSERT INTO concentrators_reportedsum AS s (concentrator_id, register_id, interval_minutes, interval_start,
               epoch, invocation_counter, value_sum, meters_counted, uplink_id)
           SELECT * FROM n ORDER BY 1, 2, 3, 4
           ON CONFLICT (concentrator_id, register_id, interval_minutes, interval_start) DO UPDATE
           SET epoch = excluded.epoch, invocation_counter = excluded.invocation_counter,
               value_sum = excluded.value_sum, meters_counted = excluded.meters_counted, uplink_id = excluded.uplink_id
           WHERE (s.epoch, s.invocation_counter) < (excluded.epoch, excluded.invocation_counter)""",
        *_columns(places),
        int_array(one.counter[0] for one in sums),
        int_array(one.counter[1] for one in sums),
        int_array(one.value for one in sums),
        int_array(one.meters for one in sums),
        int_array(one.uplink_id for one in sums),
    )


def compare(now: datetime) -> int:
    """Compare sums that were reported or may have changed, and those that differed; return how many. In small parts."""
    compared = 0
    with transaction.atomic():
        locks.take(locks.REPORTED_SUMS)
        differing = fetch_rows(
            """SELECT concentrator_id, register_id, interval_minutes, extract(epoch FROM interval_start)::bigint
               FROM concentrators_reportedsum WHERE differs_since IS NOT NULL AND interval_start >= %s
               ORDER BY compared_at LIMIT %s""",
            now - COMPARED_FOR,
            _AGAIN,
        )
        _compare(differing, now)
    while True:
        with transaction.atomic():
            locks.take(locks.REPORTED_SUMS)
            places = fetch_rows(
                """WITH gone AS (
                       DELETE FROM concentrators_uncomparedsum
                       WHERE id IN (SELECT id FROM concentrators_uncomparedsum ORDER BY id LIMIT %s) RETURNING *
                   )
                   SELECT DISTINCT concentrator_id, register_id, interval_minutes,
                          extract(epoch FROM interval_start)::bigint FROM gone""",
                _AT_A_TIME,
            )
            _compare(places, now)
        if not places:
            return compared + len(differing)
        compared += len(places)


def _compare(places: Collection[SumPlace], now: datetime) -> None:
    if not places:
        return
    with connection.cursor() as cursor:
        cursor.execute(
            """UPDATE concentrators_reportedsum s
               SET own_sum = own.value_sum, own_meters = own.meters, compared_at = %s,
                   differs_since = CASE WHEN (own.value_sum, own.meters) = (s.value_sum, s.meters_counted) THEN NULL
                                        ELSE coalesce(s.differs_since, %s) END
               FROM unnest(%s::int[], %s::smallint[], %s::smallint[], %s::bigint[])
                        AS n(concentrator_id, register_id, interval_minutes, start_s),
                    LATERAL (
                        SELECT coalesce(sum(r.value), 0) AS value_sum, count(r.value)::int AS meters
                        FROM concentrators_assignment a
                        JOIN meters_reading r ON r.captured_at = to_timestamp(n.start_s) AND r.meter_id = a.meter_id
                             AND r.register_id = n.register_id AND r.interval_minutes = n.interval_minutes
                        WHERE a.concentrator_id = n.concentrator_id AND a.valid_from <= to_timestamp(n.start_s)
                              AND (a.valid_to IS NULL OR a.valid_to > to_timestamp(n.start_s))
                              AND r.scheme = ANY(%s)
                    ) AS own
               WHERE s.concentrator_id = n.concentrator_id AND s.register_id = n.register_id
                     AND s.interval_minutes = n.interval_minutes AND s.interval_start = to_timestamp(n.start_s)""",
            [now, now, *map(list, zip(*places, strict=True)), _SEEN],
        )


def differing(concentrator_id: int, limit: int) -> list[DifferingSum]:
    """Return the sums of a concentrator that differ from ours, newest first; one query."""
    rows = fetch_rows(
        """SELECT s.concentrator_id, g.obis_code, s.interval_minutes, s.interval_start,
                  s.value_sum, s.meters_counted, s.own_sum, s.own_meters, s.differs_since
           FROM concentrators_reportedsum s JOIN meters_register g ON g.id = s.register_id
           WHERE s.concentrator_id = %s AND s.differs_since IS NOT NULL
           ORDER BY s.interval_start DESC, g.obis_code LIMIT %s""",
        concentrator_id,
        limit,
    )
    return [DifferingSum._make((*row[:4], row[4:6], (int(row[6]), row[7]), row[8])) for row in rows]


def _columns(places: Collection[SumPlace]) -> list[str]:
    return [int_array(place[n] for place in places) for n in range(4)]
