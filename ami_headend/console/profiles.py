"""A meter's load profile over a period, ready to draw: power by interval, energy by hour or day, gaps left open."""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from datetime import date, datetime, timedelta
from typing import NamedTuple

from ami_headend.console import charts
from ami_headend.console.charts import Chart, Series
from ami_headend.console.formatting import energy, power
from ami_headend.console.periods import ShownPeriod, day_of, labels, marks, midnight
from meters.models import Register
from meters.readings.expectation import ExpectedPeriod
from meters.readings.queries import Interval
from meters.registry.interval_lengths import common_boundary

_PATTERNS = {"day": "%H:%M", "week": "%a %H:%M", "month": "%d %b %H:%M"}


class DayShare(NamedTuple):
    """Intervals of a day in the viewer's zone: received and expected."""

    day: date
    counted: int
    expected: int


class Profile(NamedTuple):
    """The charts and figures of a period; ``expected`` counts only intervals that have ended."""

    power: Chart
    energy: Chart
    energy_wh: float
    counted: int
    expected: int
    peak_w: float | None


def profile(
    shown: ShownPeriod, curve: Sequence[Interval], expected: Sequence[ExpectedPeriod], register: Register, now: datetime
) -> Profile:
    """Return the profile of one meter's interval register in Wh."""
    unit_wh = 10.0**register.scaler
    energy_wh = {interval.start: interval.value * unit_wh for interval in curve}
    minutes = {interval.start: interval.interval_minutes for interval in curve}
    due = [at for period in expected for at in period.starts(shown.start, shown.end)]
    times = sorted({*energy_wh, *due, *_ahead(shown, expected, now)})
    watts = [energy_wh[at] * 60 / minutes[at] if minutes.get(at) else None for at in times]
    known = [value for value in watts if value is not None]
    total = sum(energy_wh.values())
    return Profile(
        charts.lines(
            "power",
            f"Mean power of each interval: at most {power(max(known, default=None))}",
            labels(times, _PATTERNS[shown.kind]),
            [Series("power", [None if value is None else round(value, 1) for value in watts])],
            "W",
            marks=marks(shown.kind, times),
        ),
        _energy_chart(shown, energy_wh, due, total),
        total,
        len(energy_wh),
        len(due),
        max(known, default=None),
    )


def by_day(days: Sequence[date], curve: Sequence[Interval], expected: Sequence[ExpectedPeriod]) -> list[DayShare]:
    """Return received and expected intervals of each day; an interval belongs to the day in which it begins."""
    counted: dict[date, int] = defaultdict(int)
    for interval in curve:
        counted[day_of(interval.start)] += 1
    return [
        DayShare(
            day,
            counted[day],
            sum(period.part(midnight(day), midnight(day + timedelta(days=1))).intervals for period in expected),
        )
        for day in days
    ]


def _ahead(shown: ShownPeriod, expected: Sequence[ExpectedPeriod], now: datetime) -> list[datetime]:
    """Return times still to come, so that the axis reaches the end of its period."""
    minutes = expected[-1].interval_minutes if expected else 60
    step = timedelta(minutes=minutes)
    first = common_boundary(max(shown.start, now), minutes)
    return [first + n * step for n in range(max(0, -((first - shown.end) // step)))]


def _energy_chart(shown: ShownPeriod, energy_wh: dict[datetime, float], due: Sequence[datetime], total: float) -> Chart:
    """Return energy by hour of a day, or by day; bars with missing intervals have another colour."""
    if shown.kind == "day":
        hours = [shown.start + timedelta(hours=n) for n in range((shown.end - shown.start) // timedelta(hours=1))]
        starts, names = hours, labels(hours, "%H:%M")
    else:
        starts = [midnight(day) for day in shown.days]
        names = [f"{day:%a} {day.day}" for day in shown.days]
    sums: dict[int, float] = defaultdict(float)
    missing: set[int] = set()
    for at, value in energy_wh.items():
        sums[bisect_right(starts, at) - 1] += value
    for at in due:
        if at not in energy_wh:
            missing.add(bisect_right(starts, at) - 1)
    whole = [round(sums[n] / 1000, 3) if n in sums and n not in missing else None for n in range(len(starts))]
    part = [round(sums[n] / 1000, 3) if n in sums and n in missing else None for n in range(len(starts))]
    series = [Series("complete", whole)]
    if missing:
        series.append(Series("intervals are missing", part, charts.UNSURE))
    return charts.bars("energy", f"Energy: {energy(total)} in all", names, series, "kWh")
