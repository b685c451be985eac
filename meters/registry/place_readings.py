"""The load curve and gaps of a place, across exchanges of its meters."""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from keyvault.schemes.table import scheme_numbered
from meters.models import Installation, Place, Register
from meters.readings import queries
from meters.readings.expectation import ExpectedPeriod
from meters.readings.gaps import GapReport, expected_periods, gap_report
from meters.readings.queries import Interval

_LONGEST_INTERVAL = timedelta(days=1)


def installations(place: Place) -> list[Installation]:
    """Return the present and past meters of a place, the latest first."""
    return list(place.installations.select_related("meter").order_by("-installed_at"))


def load_curve(hung: Sequence[Installation], register: Register, start: datetime, end: datetime) -> list[Interval]:
    """Return the values of the intervals of a place that begin in [start, end), oldest first.

    In the interval of an exchange both meters measured a part: their values are added. One query for each meter.
    """
    by_start: dict[datetime, Interval] = {}
    for row, first, last in _within(hung, start, end):
        for interval in queries.load_curve(row.meter_id, register.pk, max(start, first - _LONGEST_INTERVAL), last):
            if interval.start + timedelta(minutes=interval.interval_minutes) <= row.installed_at:
                continue
            other = by_start.get(interval.start)
            by_start[interval.start] = interval if other is None else _sum(other, interval)
    return [by_start[at] for at in sorted(by_start)]


def expected(hung: Sequence[Installation], start: datetime, end: datetime, now: datetime) -> list[ExpectedPeriod]:
    """Return when intervals are expected of the meters of a place, while installed; two queries for each meter."""
    return [
        period
        for row, first, last in _within(hung, start, end)
        for period in expected_periods([row.meter], first, last, now)
    ]


def gaps(hung: Sequence[Installation], register: Register, start: datetime, end: datetime, now: datetime) -> GapReport:
    """Return the gaps of a place in [start, end), oldest first; three queries for each meter."""
    reports = [gap_report(row.meter, register, first, last, now) for row, first, last in _within(hung, start, end)]
    return GapReport(
        reports[0].interval_minutes if reports else 0,
        sum(report.expected for report in reports),
        sum(report.missing for report in reports),
        sorted(gap for report in reports for gap in report.gaps),
    )


def _sum(one: Interval, other: Interval) -> Interval:
    """Add two parts of an interval; its scheme is that of the part with the weaker protection."""
    weaker = one if scheme_numbered(one.scheme).caveat else other
    minutes = max(one.interval_minutes, other.interval_minutes)
    return Interval(one.start, minutes, one.value + other.value, weaker.scheme)


def _within(
    hung: Sequence[Installation], start: datetime, end: datetime
) -> Iterator[tuple[Installation, datetime, datetime]]:
    """Return the installations that overlap [start, end), the latest first, each with the overlap."""
    for row in hung:
        first, last = max(start, row.installed_at), min(end, row.removed_at or end)
        if first < last:
            yield row, first, last
