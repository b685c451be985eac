"""Missing intervals of a meter's load profile. A masked value counts as present."""

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from ami_headend.core.sql import select
from meters.archive import reading as archived
from meters.models import EarlierLength, Installation, Meter, Register
from meters.readings.expectation import ExpectedPeriod, Terms, expected
from meters.readings.obis import RegisterKind
from meters.readings.partitions import retention_start

EXPECTED_MAX = 200_000  # the most intervals of one report


class GapsError(ValueError):
    """The caller's mistake: a register of another kind, or a period that is too long or empty."""


class Gap(NamedTuple):
    """A run of missing intervals [start, end), all of one length."""

    start: datetime
    end: datetime
    intervals: int

    @property
    def interval_minutes(self) -> int:
        return (self.end - self.start) // self.intervals // timedelta(minutes=1)


class GapReport(NamedTuple):
    """The gaps of one register, oldest first; ``expected`` counts intervals, including missing ones.

    ``interval_minutes`` is the meter's present length; a gap before a change has the length of that time.
    """

    interval_minutes: int
    expected: int
    missing: int
    gaps: list[Gap]

    @property
    def completeness(self) -> float | None:
        """The share of expected intervals that were received, 0 to 1; None if none is expected."""
        return (self.expected - self.missing) / self.expected if self.expected else None


def gap_report(meter: Meter, register: Register, start: datetime, end: datetime, now: datetime) -> GapReport:
    """Return the gaps of an interval register among ended intervals that begin in [start, end), in three queries.

    ``expectation.py`` says which intervals are expected.
    """
    _checked(register, start, end)
    terms = terms_of([meter])
    periods = _expected(terms, start, end, now)
    count = sum(period.intervals for period in periods)
    if count > EXPECTED_MAX:
        raise GapsError(f"{count} intervals are too many for one report: at most {EXPECTED_MAX}")
    gaps = _missing(periods, register)[meter.pk]
    return GapReport(terms[0].length_at(now), count, sum(gap.intervals for gap in gaps), gaps)


def find_gaps(
    meters: Sequence[Meter], register: Register, start: datetime, end: datetime, now: datetime
) -> dict[int, list[Gap]]:
    """Return the gaps of many meters, as ``gap_report`` finds them, by meter id; only meters with gaps. Three
    queries.
    """
    _checked(register, start, end)
    return dict(_missing(expected_periods(meters, start, end, now), register))


def terms_of(meters: Sequence[Meter]) -> list[Terms]:
    """Return the terms of meters, in two queries."""
    hung: defaultdict[int, list[tuple[datetime, datetime | None]]] = defaultdict(list)
    for row in Installation.objects.filter(meter__in=meters).order_by("installed_at"):
        hung[row.meter_id].append((row.installed_at, row.removed_at))
    before: defaultdict[int, list[EarlierLength]] = defaultdict(list)
    for length in EarlierLength.objects.filter(meter__in=meters).order_by("valid_to"):
        before[length.meter_id].append(length)
    return [
        Terms(
            meter.pk,
            meter.commissioned_at,
            meter.retired_at,
            hung[meter.pk],
            [
                *((row.valid_from, row.valid_to, row.interval_minutes) for row in before[meter.pk]),
                (before[meter.pk][-1].valid_to if before[meter.pk] else None, None, meter.interval_minutes),
            ],
        )
        for meter in meters
    ]


def expected_periods(meters: Sequence[Meter], start: datetime, end: datetime, now: datetime) -> list[ExpectedPeriod]:
    """Return expected intervals of meters that begin in [start, end), have ended, and are still retained; two
    queries.
    """
    return _expected(terms_of(meters), start, end, now)


def _expected(terms: Sequence[Terms], start: datetime, end: datetime, now: datetime) -> list[ExpectedPeriod]:
    start = max(start, retention_start(now))
    return [period for one in terms for period in expected(one, start, end, now)]


def _checked(register: Register, start: datetime, end: datetime) -> None:
    if register.kind != RegisterKind.INTERVAL:
        raise GapsError(f"{register.obis_code} is not an interval register, so it has no gaps")
    if start >= end:
        raise GapsError("the period ends before it begins")


def _missing(periods: Sequence[ExpectedPeriod], register: Register) -> defaultdict[int, list[Gap]]:
    """Find gaps, by meter: neighbouring times, including the ends of each period, that are more than one step apart."""
    gaps: defaultdict[int, list[Gap]] = defaultdict(list)
    if not periods:
        return gaps
    meters = sorted({period.meter_id for period in periods})
    start, end = min(period.start for period in periods), max(period.end for period in periods)
    with archived.stretches(start, end) as stretches:
        rows = _around_gaps(periods, archived.rows(stretches, meters, [register.pk]), register)
    for meter_id, start, end, step in rows:
        gaps[meter_id].append(Gap(start, end, (end - start) // step))
    return gaps


def _around_gaps(
    periods: Sequence[ExpectedPeriod], files: Sequence[tuple[Any, ...]], register: Register
) -> list[tuple[int, datetime, datetime, timedelta]]:
    """Return meter, start, end and length of an interval for each gap; ``files`` has what is archived."""
    return select(
        """WITH period AS (
               SELECT *, make_interval(mins => minutes) AS step
               FROM unnest(%(of)s::int[], %(starts)s::timestamptz[], %(ends)s::timestamptz[], %(minutes)s::int[])
               WITH ORDINALITY AS p(meter_id, first, last, minutes, number)
           ), standing AS MATERIALIZED (
               SELECT meter_id, captured_at, interval_minutes FROM meters_reading
               WHERE meter_id = ANY(%(meters)s) AND register_id = %(register)s
                 AND captured_at >= %(start)s AND captured_at < %(end)s
               UNION SELECT meter_id, captured_at, interval_minutes FROM meters_maskedreading
               WHERE meter_id = ANY(%(meters)s) AND register_id = %(register)s
                 AND captured_at >= %(start)s AND captured_at < %(end)s
               UNION SELECT * FROM unnest(%(archived_meters)s::int[], %(archived_at)s::timestamptz[],
                                          %(archived_minutes)s::smallint[])
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
            "archived_at": [row[0] for row in files],
            "archived_meters": [row[1] for row in files],
            "archived_minutes": [row[5] for row in files],
        },
    )
