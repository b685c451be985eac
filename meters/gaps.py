"""Which intervals of a meter's load profile are missing."""

from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from django.db import connection

from meters.lengths import common_boundary
from meters.models import Installation, Meter, Register
from meters.obis import RegisterKind
from meters.partitions import retention_start

EXPECTED_MAX = 200_000  # intervals that one report looks at
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class GapsError(ValueError):
    """A report that cannot be made: another kind of register, or a period too long. The caller's mistake."""


class Period(NamedTuple):
    """Expected intervals of one length: the start of the first, and the end of the last."""

    start: datetime
    end: datetime
    interval_minutes: int

    @property
    def intervals(self) -> int:
        return (self.end - self.start) // timedelta(minutes=self.interval_minutes)


class Gap(NamedTuple):
    """A run of missing intervals [start, end), all of one length."""

    start: datetime
    end: datetime
    intervals: int

    @property
    def interval_minutes(self) -> int:
        return (self.end - self.start) // self.intervals // timedelta(minutes=1)


class GapReport(NamedTuple):
    """The gaps of one register, oldest first; ``expected`` counts intervals, missing ones included.

    ``interval_minutes`` is the length that the meter has now; a gap before a change is in the length of then.
    """

    interval_minutes: int
    expected: int
    missing: int
    gaps: list[Gap]

    @property
    def completeness(self) -> float | None:
        """Share of the expected intervals that are there, 0 to 1; None where none is expected."""
        return (self.expected - self.missing) / self.expected if self.expected else None


def gap_report(meter: Meter, register: Register, start: datetime, end: datetime, now: datetime) -> GapReport:
    """The gaps of an interval register among whole intervals in [start, end) that are over, in three queries.

    Intervals are expected while the meter hangs at a place (where it ever did), from its commissioning to its
    retirement, and within the retention; in the length that the meter had then.
    """
    if register.kind != RegisterKind.INTERVAL:
        raise GapsError(f"{register.obis_code} is no interval register: gaps are of intervals")
    periods = expected_periods(meter, max(start, retention_start(now)), min(end, now))
    expected = sum(period.intervals for period in periods)
    if expected > EXPECTED_MAX:
        raise GapsError(f"{expected} intervals are too many for one report: at most {EXPECTED_MAX}")
    gaps = _missing(meter, register, periods) if periods else []
    return GapReport(meter.interval_minutes, expected, sum(gap.intervals for gap in gaps), gaps)


def expected_periods(meter: Meter, start: datetime, end: datetime) -> list[Period]:
    """When intervals are expected in [start, end), cut to whole intervals of the length of then, oldest first."""
    start = max(start, meter.commissioned_at)
    end = min(end, meter.retired_at or end)
    hung = list(Installation.objects.filter(meter=meter).order_by("installed_at"))
    spans = [(max(start, row.installed_at), min(end, row.removed_at or end)) for row in hung] or [(start, end)]
    lengths: list[tuple[datetime | None, datetime | None, int]] = [
        (row.valid_from, row.valid_to, row.interval_minutes) for row in meter.earlier_lengths.order_by("valid_to")
    ]
    lengths.append((lengths[-1][1] if lengths else None, None, meter.interval_minutes))
    cut = [
        _whole_intervals(max(first, begun or first), min(last, ended or last), minutes)
        for first, last in spans
        for begun, ended, minutes in lengths
    ]
    return [period for period in cut if period.start < period.end]


def _whole_intervals(start: datetime, end: datetime, interval_minutes: int) -> Period:
    step = timedelta(minutes=interval_minutes)
    return Period(common_boundary(start, interval_minutes), _EPOCH + (end - _EPOCH) // step * step, interval_minutes)


def _missing(meter: Meter, register: Register, periods: list[Period]) -> list[Gap]:
    """Where two neighbouring times stand further apart than one step, the ends of each period among them."""
    with connection.cursor() as cursor:
        cursor.execute(
            """WITH period AS (
                   SELECT *, make_interval(mins => minutes) AS step
                   FROM unnest(%(starts)s::timestamptz[], %(ends)s::timestamptz[], %(minutes)s::int[])
                   WITH ORDINALITY AS p(first, last, minutes, number)
               ), standing AS MATERIALIZED (
                   SELECT captured_at, interval_minutes FROM meters_reading
                   WHERE meter_id = %(meter)s AND register_id = %(register)s
                     AND captured_at >= %(start)s AND captured_at < %(end)s
               ), times AS (
                   SELECT number, step, first - step AS at FROM period
                   UNION ALL SELECT number, step, last FROM period
                   UNION ALL SELECT number, step, captured_at FROM standing
                             JOIN period ON captured_at >= first AND captured_at < last AND interval_minutes = minutes
               ), neighbours AS (
                   SELECT step, at, lead(at) OVER (PARTITION BY number ORDER BY at) AS next FROM times
               )
               SELECT at + step, next, step FROM neighbours WHERE next - at > step ORDER BY 1""",
            {
                "starts": [period.start for period in periods],
                "ends": [period.end for period in periods],
                "minutes": [period.interval_minutes for period in periods],
                "start": periods[0].start,
                "end": periods[-1].end,
                "meter": meter.pk,
                "register": register.pk,
            },
        )
        return [Gap(start, end, (end - start) // step) for start, end, step in cursor.fetchall()]
