"""The intervals of a place, across exchanges of its meters, as documents about a usage point show them."""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from concentrators.feed.formats.series import Point, Series
from concentrators.validation import differences
from concentrators.validation.differences import FlaggedSpan
from keyvault.schemes.table import scheme_numbered
from meters.codes.qualities import Fact, of_caveat
from meters.models import Installation, Place, Register
from meters.readings.expectation import ExpectedPeriod
from meters.readings.gaps import EXPECTED_MAX
from meters.readings.obis import LOAD_PROFILE
from meters.readings.queries import Interval
from meters.registry import place_readings

_PERIOD_MAX = timedelta(days=1_100)
_Key = tuple[datetime, int]  # start, minutes


class PeriodError(ValueError):
    """A period with more intervals than one document holds. The caller's mistake."""


def series_of(
    place: Place, registers: Sequence[Register], start: datetime, end: datetime, now: datetime
) -> list[Series]:
    """Return the intervals of interval registers that begin in [start, end) at a place, and are over.

    Missing ones are included, where they are expected: of the load profile always, of other registers if there is one
    value at least. A series ends where the length changes, or where none is expected. Three queries and one for each
    register, for each meter of that period. PeriodError.
    """
    if end - start > _PERIOD_MAX:
        raise PeriodError(f"a period of at most {_PERIOD_MAX.days:,} days")
    hung = place_readings.installations(place)
    periods = place_readings.expected(hung, start, end, now)
    count = sum(period.intervals for period in periods) * max(1, len(registers))
    if count > EXPECTED_MAX:
        raise PeriodError(f"{count:,} intervals are too many for one document: at most {EXPECTED_MAX:,}")
    flagged = differences.flagged({row.meter_id for row in hung}, start, end)
    found: list[Series] = []
    for register in registers:
        curve = place_readings.load_curve(hung, register, start, end)
        failed = [part for span in flagged if span.register_id == register.pk for part in _here(hung, span)]
        points = _points(curve, periods if curve or register.obis_code == LOAD_PROFILE else (), failed)
        found += (
            Series(register.obis_code, register.unit, register.scaler, minutes, run) for minutes, run in _runs(points)
        )
    return found


def _here(hung: Sequence[Installation], span: FlaggedSpan) -> list[tuple[datetime, datetime]]:
    """Return the parts of a span in which its meter hung at the place."""
    stays = [(row.installed_at, row.removed_at or span.end) for row in hung if row.meter_id == span.meter_id]
    return [(max(span.start, since), min(span.end, until)) for since, until in stays]


def _points(
    curve: Sequence[Interval],
    periods: Sequence[ExpectedPeriod],
    failed: Sequence[tuple[datetime, datetime]],
) -> dict[_Key, Point]:
    """Return the intervals that are expected or there, by start and length. Those of ``failed`` failed a check."""
    points: dict[_Key, Point] = {}
    for period in periods:
        for at in period.starts(period.start, period.end):
            points[at, period.interval_minutes] = Point(at, None, Fact.MISSING)
    for one in curve:
        has_failed = any(since <= one.start < until for since, until in failed)
        fact = Fact.FAILED if has_failed else of_caveat(scheme_numbered(one.scheme).caveat)
        points[one.start, one.interval_minutes] = Point(one.start, one.value, fact)
    return points


def _runs(points: dict[_Key, Point]) -> Iterator[tuple[int, tuple[Point, ...]]]:
    """Yield runs of intervals of one length that follow each other without a hole."""
    run: list[Point] = []
    length = 0
    for (at, minutes), point in sorted(points.items(), key=lambda item: (item[0][1], item[0][0])):
        if run and (minutes != length or run[-1].start + timedelta(minutes=length) != at):
            yield length, tuple(run)
            run = []
        length = minutes
        run.append(point)
    if run:
        yield length, tuple(run)
