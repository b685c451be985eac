"""Which intervals of a meter's load profile are missing."""

from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from django.db import connection

from meters.models import Installation, Meter, Register
from meters.obis import RegisterKind
from meters.partitions import retention_start

EXPECTED_MAX = 200_000  # intervals that one report looks at
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class GapsError(ValueError):
    """A report that cannot be made: another kind of register, or a period too long. The caller's mistake."""


class Period(NamedTuple):
    """Expected intervals: the start of the first, and the end of the last."""

    start: datetime
    end: datetime


class Gap(NamedTuple):
    """A run of missing intervals [start, end)."""

    start: datetime
    end: datetime
    intervals: int


class GapReport(NamedTuple):
    """The gaps of one register, oldest first; ``expected`` counts intervals, missing ones included."""

    interval_minutes: int
    expected: int
    missing: int
    gaps: list[Gap]

    @property
    def completeness(self) -> float | None:
        """Share of the expected intervals that are there, 0 to 1; None where none is expected."""
        return (self.expected - self.missing) / self.expected if self.expected else None


def gap_report(meter: Meter, register: Register, start: datetime, end: datetime, now: datetime) -> GapReport:
    """The gaps of an interval register among whole intervals in [start, end) that are over, in two queries.

    Intervals are expected while the meter hangs at a place (where it ever did), from its commissioning to its
    retirement, and within the retention; in the length that the meter has now.
    """
    if register.kind != RegisterKind.INTERVAL:
        raise GapsError(f"{register.obis_code} is no interval register: gaps are of intervals")
    step = timedelta(minutes=meter.interval_minutes)
    periods = expected_periods(meter, Period(max(start, retention_start(now)), min(end, now)))
    expected = sum((period.end - period.start) // step for period in periods)
    if expected > EXPECTED_MAX:
        raise GapsError(f"{expected} intervals are too many for one report: at most {EXPECTED_MAX}")
    gaps = _missing(meter, register, periods, step) if periods else []
    return GapReport(meter.interval_minutes, expected, sum(gap.intervals for gap in gaps), gaps)


def expected_periods(meter: Meter, window: Period) -> list[Period]:
    """When intervals are expected inside of a window, cut to whole intervals, oldest first."""
    step = timedelta(minutes=meter.interval_minutes)
    start = max(window.start, meter.commissioned_at)
    end = min(window.end, meter.retired_at or window.end)
    hung = list(Installation.objects.filter(meter=meter).order_by("installed_at"))
    spans = [(max(start, row.installed_at), min(end, row.removed_at or end)) for row in hung] or [(start, end)]
    cut = (
        Period(_EPOCH - (_EPOCH - first) // step * step, _EPOCH + (last - _EPOCH) // step * step)
        for first, last in spans
    )
    return [period for period in cut if period.start < period.end]


def _missing(meter: Meter, register: Register, periods: list[Period], step: timedelta) -> list[Gap]:
    """Where two neighbouring times stand further apart than one step, the ends of each period among them."""
    with connection.cursor() as cursor:
        cursor.execute(
            """WITH period AS (
                   SELECT * FROM unnest(%(starts)s::timestamptz[], %(ends)s::timestamptz[])
                   WITH ORDINALITY AS p(first, last, number)
               ), standing AS MATERIALIZED (
                   SELECT captured_at FROM meters_reading
                   WHERE meter_id = %(meter)s AND register_id = %(register)s AND interval_minutes = %(minutes)s
                     AND captured_at >= %(start)s AND captured_at < %(end)s
               ), times AS (
                   SELECT number, first - %(step)s::interval AS at FROM period
                   UNION ALL SELECT number, last FROM period
                   UNION ALL SELECT number, captured_at FROM standing
                             JOIN period ON captured_at >= first AND captured_at < last
               ), neighbours AS (
                   SELECT at, lead(at) OVER (PARTITION BY number ORDER BY at) AS next FROM times
               )
               SELECT at + %(step)s::interval, next FROM neighbours WHERE next - at > %(step)s::interval ORDER BY 1""",
            {
                "starts": [period.start for period in periods],
                "ends": [period.end for period in periods],
                "start": periods[0].start,
                "end": periods[-1].end,
                "meter": meter.pk,
                "register": register.pk,
                "minutes": meter.interval_minutes,
                "step": f"{meter.interval_minutes} min",
            },
        )
        return [Gap(start, end, (end - start) // step) for start, end in cursor.fetchall()]
