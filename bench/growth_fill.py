"""Readings of households over months, put by PostgreSQL itself into the product's table and index.

Most are of whole concentrators' meters on every day of DAYS; a quarter are of all meters in their last hours. Within
an interval they come concentrator by concentrator, in another order each time, as uplinks do. What a register says
follows a day of a household with a size of its own and noise, and each interval is the difference of two of them.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from itertools import accumulate
from typing import Any, NamedTuple

from django.db import connection, transaction

from ami_headend.core.sql import select
from bench.fleet import REGISTERS

DAYS = 180
INTERVALS = 48  # a day
METERS_EACH = 1_000  # of a concentrator
_AT_ONCE = 2
_OF_ALL = 4  # one of so many readings is of the last hours of all meters
# What a household takes in each half hour of a day, of its least.
_SHAPE = [4] * 11 + [6, 9, 14, 17, 15, 12, 9, 8, 8, 8, 9, 11, 13, 13, 11, 9, 8, 8, 8, 9, 11, 14, 18, 23, 26, 26, 24, 21,
                     18, 16, 14, 12, 10, 8, 6, 5, 4]  # fmt: skip


class Layout(NamedTuple):
    """Which readings make up a number of them: meters on every day, and last intervals of all meters."""

    readings: int
    days: list[date]
    daily_meters: int
    last_intervals: int


def layout(readings: int, meters: int, last: datetime) -> Layout:
    """Lay a number of readings out; the last interval of all begins at ``last``."""
    pairs = readings // len(REGISTERS)
    intervals = min(pairs // _OF_ALL // meters, INTERVALS)
    daily = round((pairs - intervals * meters) / (DAYS * INTERVALS))
    first = last.date() - timedelta(days=DAYS + 1)
    return Layout(readings, [first + timedelta(days=n) for n in range(DAYS)], min(meters, max(1, daily)), intervals)


def last_interval() -> datetime:
    """Return when the last interval begins that the meters of the database had sent when it was made."""
    found: datetime = select("SELECT at FROM bench_growth WHERE day IS NULL")[0][0]
    return found


def prepare() -> None:
    """Make the table that says what is filled, unless it is there."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT to_regclass('bench_growth')")
        if cursor.fetchone() == (None,):
            cursor.execute(
                "CREATE TABLE bench_growth AS SELECT 0::bigint AS readings, NULL::date AS day,"
                " max(interval_start) AS at FROM concentrators_intervaltotal"
            )


def fill(wanted: Layout, meters: int, seed: int, say: Callable[[str], None]) -> None:
    """Fill the table as laid out; days that are filled already stay."""
    done = {day for (day,) in select("SELECT day FROM bench_growth WHERE readings = %s", [wanted.readings])}
    if not done:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("TRUNCATE meters_reading")
            cursor.execute("DELETE FROM bench_growth WHERE day IS NOT NULL")
    last = last_interval()
    parts = [(datetime.combine(day, datetime.min.time(), UTC), INTERVALS, wanted.daily_meters) for day in wanted.days]
    if wanted.last_intervals:
        parts.append((last - timedelta(minutes=30 * (wanted.last_intervals - 1)), wanted.last_intervals, meters))
    left = [part for part in parts if part[0].date() not in done]
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        for number, start in enumerate(threads.map(lambda part: _add(wanted, part, seed), left), 1):
            if number % 20 == 0 or number == len(left):
                say(f"{wanted.readings:,} readings: {start:%Y-%m-%d}, {number} of {len(left)} parts")


def add_day(day: datetime, intervals: int, meters: int, seed: int) -> None:
    """Add so many intervals of all meters on one day; readings of the day go first."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(
            "DELETE FROM meters_reading WHERE captured_at >= %s AND captured_at < %s", [day, day + timedelta(days=1)]
        )
        cursor.execute(_FILL, _parameters(day, intervals, meters, seed))


def _add(wanted: Layout, part: tuple[datetime, int, int], seed: int) -> datetime:
    """Fill a part in a transaction of its own, over a connection of this thread; return when it begins."""
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SET LOCAL synchronous_commit = off")
            cursor.execute(_FILL, _parameters(*part, seed))
            cursor.execute("INSERT INTO bench_growth VALUES (%s, %s)", [wanted.readings, part[0].date()])
    finally:
        connection.close()
    return part[0]


def _parameters(start: datetime, intervals: int, meters: int, seed: int) -> dict[str, Any]:
    return {
        "start": start,
        "first": int(start.timestamp()) // 1800,
        "intervals": intervals,
        "meters": meters,
        "blocks": -(-meters // METERS_EACH),
        "each": METERS_EACH,
        "seed": seed,
        "grown": list(accumulate(_SHAPE, initial=0)),
        "day": sum(_SHAPE),
        "code": REGISTERS[0],
        "codes": list(REGISTERS),
    }


# A household of size b (10 to 40 Wh) has used b x what the day has grown to, and noise below its least half hour, so
# that registers rise. The number of an uplink grows as they come.
_FILL = """
INSERT INTO meters_reading (captured_at, value, uplink_id, meter_id, register_id, interval_minutes)
SELECT at, CASE WHEN g.obis_code = %(code)s THEN after ELSE after - before END,
       (i * %(blocks)s + block) + abs(hashint8extended(i * 1009 + block, 7)) %% 16 + 1, m, g.id,
       CASE WHEN g.obis_code = %(code)s THEN 0 ELSE 30 END
FROM (SELECT n, %(first)s::bigint + n AS i, %(start)s::timestamptz + n * interval '30 minutes' AS at,
             ((%(first)s::bigint + n) / 48 - 20000) * %(day)s AS days, ((%(first)s::bigint + n) %% 48)::int AS slot
      FROM generate_series(0, %(intervals)s - 1) AS n OFFSET 0) AS t,
     generate_series(0, %(blocks)s - 1) AS turn,
     LATERAL (SELECT (turn::bigint * 7919 + i * 31) %% %(blocks)s AS block) AS o,
     generate_series(1, %(each)s) AS k,
     LATERAL (SELECT (block * %(each)s + k)::int AS m) AS w,
     LATERAL (SELECT 10 + abs(hashint8extended(m, %(seed)s)) %% 31 AS b OFFSET 0) AS h,
     LATERAL (SELECT b * (days + (%(grown)s::bigint[])[slot + 1]) + abs(hashint8extended(m * 100003::bigint + i, %(seed)s)) %% (4 * b) AS before,
                     b * (days + (%(grown)s::bigint[])[slot + 2]) + abs(hashint8extended(m * 100003::bigint + i + 1, %(seed)s)) %% (4 * b) AS after
              OFFSET 0) AS v,
     meters_register AS g
WHERE m <= %(meters)s AND g.obis_code = ANY(%(codes)s)
"""  # noqa: E501
