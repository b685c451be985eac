"""Which intervals of a meter's load profile are missing."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from django.db import connection

from meters.lengths import common_boundary
from meters.models import EarlierLength, Installation, Meter, Register
from meters.obis import RegisterKind
from meters.partitions import retention_start

EXPECTED_MAX = 200_000  # intervals that one report looks at
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class GapsError(ValueError):
    """A report that cannot be made: another kind of register, a period too long or of no time. The caller's mistake."""


class Period(NamedTuple):
    """Expected intervals of one length of a meter: the start of the first, and the end of the last."""

    meter_id: int
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
    periods = _periods([meter], register, start, end, now)
    expected = sum(period.intervals for period in periods)
    if expected > EXPECTED_MAX:
        raise GapsError(f"{expected} intervals are too many for one report: at most {EXPECTED_MAX}")
    gaps = _missing(periods, register)[meter.pk]
    return GapReport(meter.interval_minutes, expected, sum(gap.intervals for gap in gaps), gaps)


def find_gaps(
    meters: Sequence[Meter], register: Register, start: datetime, end: datetime, now: datetime
) -> dict[int, list[Gap]]:
    """The gaps of many meters, as ``gap_report`` finds them, by the ids of those that have any; three queries."""
    return dict(_missing(_periods(meters, register, start, end, now), register))


def expected_periods(meters: Sequence[Meter], start: datetime, end: datetime) -> list[Period]:
    """When intervals are expected in [start, end), cut to whole intervals of the length of then; two queries."""
    if start >= end:
        return []
    hung: defaultdict[int, list[Installation]] = defaultdict(list)
    for row in Installation.objects.filter(meter__in=meters).order_by("installed_at"):
        hung[row.meter_id].append(row)
    before: defaultdict[int, list[EarlierLength]] = defaultdict(list)
    for length in EarlierLength.objects.filter(meter__in=meters).order_by("valid_to"):
        before[length.meter_id].append(length)
    periods = [period for meter in meters for period in _of_meter(meter, start, end, hung[meter.pk], before[meter.pk])]
    return [period for period in periods if period.start < period.end]


def _periods(
    meters: Sequence[Meter], register: Register, start: datetime, end: datetime, now: datetime
) -> list[Period]:
    if register.kind != RegisterKind.INTERVAL:
        raise GapsError(f"{register.obis_code} is no interval register: gaps are of intervals")
    if start >= end:
        raise GapsError("the period ends before it begins")
    return expected_periods(meters, max(start, retention_start(now)), min(end, now))


def _of_meter(
    meter: Meter, start: datetime, end: datetime, hung: Sequence[Installation], before: Sequence[EarlierLength]
) -> Iterator[Period]:
    start = max(start, meter.commissioned_at)
    end = min(end, meter.retired_at or end)
    spans = [(max(start, row.installed_at), min(end, row.removed_at or end)) for row in hung] or [(start, end)]
    lengths: list[tuple[datetime | None, datetime | None, int]] = [
        *((row.valid_from, row.valid_to, row.interval_minutes) for row in before),
        (before[-1].valid_to if before else None, None, meter.interval_minutes),
    ]
    for first, last in spans:
        for begun, ended, minutes in lengths:
            yield _whole_intervals(meter.pk, max(first, begun or first), min(last, ended or last), minutes)


def _whole_intervals(meter_id: int, start: datetime, end: datetime, interval_minutes: int) -> Period:
    step = timedelta(minutes=interval_minutes)
    last = _EPOCH + (end - _EPOCH) // step * step
    return Period(meter_id, common_boundary(start, interval_minutes), last, interval_minutes)


def _missing(periods: Sequence[Period], register: Register) -> defaultdict[int, list[Gap]]:
    """Where two neighbouring times stand further apart than one step, the ends of each period among them; by meter."""
    gaps: defaultdict[int, list[Gap]] = defaultdict(list)
    if not periods:
        return gaps
    with connection.cursor() as cursor:
        cursor.execute(
            """WITH period AS (
                   SELECT *, make_interval(mins => minutes) AS step
                   FROM unnest(%(of)s::int[], %(starts)s::timestamptz[], %(ends)s::timestamptz[], %(minutes)s::int[])
                   WITH ORDINALITY AS p(meter_id, first, last, minutes, number)
               ), standing AS MATERIALIZED (
                   SELECT meter_id, captured_at, interval_minutes FROM meters_reading
                   WHERE meter_id = ANY(%(meters)s) AND register_id = %(register)s
                     AND captured_at >= %(start)s AND captured_at < %(end)s
               ), times AS (
                   SELECT meter_id, number, step, first - step AS at FROM period
                   UNION ALL SELECT meter_id, number, step, last FROM period
                   UNION ALL SELECT meter_id, number, step, captured_at FROM standing JOIN period USING (meter_id)
                             WHERE captured_at >= first AND captured_at < last AND interval_minutes = minutes
               ), neighbours AS (
                   SELECT meter_id, step, at, lead(at) OVER (PARTITION BY number ORDER BY at) AS next FROM times
               )
               SELECT meter_id, at + step, next, step FROM neighbours WHERE next - at > step ORDER BY 1, 2""",
            {
                "of": [period.meter_id for period in periods],
                "starts": [period.start for period in periods],
                "ends": [period.end for period in periods],
                "minutes": [period.interval_minutes for period in periods],
                "start": min(period.start for period in periods),
                "end": max(period.end for period in periods),
                "meters": sorted({period.meter_id for period in periods}),
                "register": register.pk,
            },
        )
        for meter_id, start, end, step in cursor.fetchall():
            gaps[meter_id].append(Gap(start, end, (end - start) // step))
    return gaps
