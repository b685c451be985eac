"""Days, weeks and months of the viewer's zone, and load profiles over them: right when clocks are changed."""

import json
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from django.utils import timezone

from ami_headend.console.periods import as_filters, day_of, labels, marks, midnight, period_of
from ami_headend.console.profiles import by_day, profile
from ami_headend.web.forms import FilterForm
from meters.models import Register
from meters.readings.expectation import ExpectedPeriod
from meters.readings.queries import Interval

SPRING, AUTUMN = date(2026, 3, 29), date(2026, 10, 25)  # 23 and 25 hours in Berlin
HALF_HOUR = timedelta(minutes=30)
WH = Register(obis_code="1-0:1.29.0", unit="Wh", scaler=0)
LATER = datetime(2027, 1, 1, tzinfo=UTC)


@pytest.fixture(autouse=True)
def berlin() -> Iterator[None]:
    with timezone.override(ZoneInfo("Europe/Berlin")):
        yield


def whole(day: date) -> list[ExpectedPeriod]:
    return [ExpectedPeriod(1, midnight(day), midnight(day + timedelta(days=1)), 30)]


@pytest.mark.parametrize(("day", "hours"), [(SPRING, 23), (AUTUMN, 25), (date(2026, 6, 1), 24)])
def test_a_day_has_the_hours_that_pass_in_it(day: date, hours: int) -> None:
    shown = period_of("day", day)
    assert (shown.end - shown.start) / timedelta(hours=1) == hours
    assert (day_of(shown.start), day_of(shown.end)) == (day, day + timedelta(days=1))
    assert len(whole(day)[0].starts(shown.start, shown.end)) == 2 * hours
    curve = [Interval(at, 30, 100) for at in whole(day)[0].starts(shown.start, shown.end)]
    drawn = profile(shown, curve, whole(day), WH, LATER)
    bars = json.loads(drawn.energy.data)
    assert len(bars["labels"]) == len(set(bars["labels"])) == hours
    assert bars["datasets"][0]["data"] == [0.2] * hours
    assert (drawn.energy_wh, drawn.counted, drawn.expected, drawn.peak_w) == (200 * hours, 2 * hours, 2 * hours, 200)
    assert by_day([day], curve, whole(day))[0][1:] == (2 * hours, 2 * hours)


def test_the_hour_that_comes_twice_is_told_apart() -> None:
    start = midnight(AUTUMN)
    named = labels([start + timedelta(hours=n) for n in range(5)], "%H:%M")
    assert named == ["00:00", "01:00", "02:00 CEST", "02:00 CET", "03:00"]
    start = midnight(SPRING)
    assert labels([start + timedelta(hours=n) for n in range(4)], "%H:%M") == ["00:00", "01:00", "03:00", "04:00"]


def test_weeks_and_months() -> None:
    week = period_of("week", AUTUMN)
    assert (week.first_day, week.following, week.previous) == (
        date(2026, 10, 19),
        date(2026, 10, 26),
        date(2026, 10, 12),
    )
    assert week.end - week.start == timedelta(days=7, hours=1)
    month = period_of("month", SPRING)
    assert (month.first_day, month.following, month.previous) == (date(2026, 3, 1), date(2026, 4, 1), date(2026, 2, 1))
    assert month.end - month.start == timedelta(days=31) - timedelta(hours=1)
    assert len(month.days) == 31
    assert period_of("month", date(2026, 12, 31)).following == date(2027, 1, 1)
    assert week.name == "19 October to 25 October 2026"


@pytest.mark.parametrize("kind", ["day", "week", "month"])
def test_gaps_stay_gaps(kind: str) -> None:
    shown = period_of(kind, date(2026, 6, 3))
    due = [ExpectedPeriod(1, shown.start, shown.end, 30)]
    starts = due[0].starts(shown.start, shown.end)
    missing = starts[5:9]
    curve = [Interval(at, 30, 100) for at in starts if at not in missing]
    drawn = profile(shown, curve, due, WH, LATER)
    line = json.loads(drawn.power.data)["datasets"][0]["data"]
    assert line[4:10] == [200, None, None, None, None, 200]
    bars = json.loads(drawn.energy.data)["datasets"]
    assert [bar["label"] for bar in bars] == ["complete", "intervals are missing"]
    complete, part = (sum(value or 0 for value in bar["data"]) for bar in bars)
    assert complete + part == pytest.approx(len(curve) / 10)
    assert part > 0
    assert drawn.expected - drawn.counted == 4


def test_what_is_still_to_come_is_no_gap() -> None:
    shown = period_of("day", date(2026, 6, 3))
    now = shown.start + timedelta(hours=6, minutes=10)
    due = [ExpectedPeriod(1, shown.start, shown.start + timedelta(hours=6), 30)]  # those that are over
    drawn = profile(shown, [], due, WH, now)
    assert (drawn.counted, drawn.expected) == (0, 12)
    assert json.loads(drawn.power.data)["labels"][-1] == "23:30"


def test_a_finer_register_is_scaled() -> None:
    shown = period_of("day", date(2026, 6, 3))
    fine = Register(obis_code="1-0:1.29.0", unit="Wh", scaler=-1)
    drawn = profile(shown, [Interval(shown.start, 15, 1234)], [], fine, LATER)
    assert drawn.energy_wh == pytest.approx(123.4)
    assert drawn.peak_w == pytest.approx(493.6)


def test_an_axis_marks_round_times() -> None:
    with timezone.override(UTC):
        start = datetime(2026, 3, 2, tzinfo=UTC)
        minutes = [start + timedelta(minutes=n) for n in range(1_440)]
        assert [minutes[n].strftime("%H:%M") for n in marks("day", minutes)][:3] == ["00:00", "03:00", "06:00"]
        hours = [start + timedelta(hours=n) for n in range(7 * 24)]
        assert [hours[n].day for n in marks("week", hours)] == [2, 3, 4, 5, 6, 7, 8]
        month = [datetime(2026, 3, 1, tzinfo=UTC) + timedelta(hours=n) for n in range(31 * 24)]
        assert [month[n].day for n in marks("month", month)] == [1, 6, 11, 16, 21, 26, 31]


@pytest.mark.parametrize(("second", "written"), [(0, "2026-07-01T12:30"), (5, "2026-07-01T12:30:05")])
def test_a_period_is_written_as_filters_read_it(second: int, written: str) -> None:
    at = datetime(2026, 7, 1, 10, 30, second, 7, tzinfo=UTC)
    assert as_filters(at) == {"from": written}
    assert as_filters(end=at) == {"to": written}
    form = FilterForm(as_filters(at - timedelta(hours=1), at))
    assert form.is_valid()
    assert form.cleaned_data["to"] == at.replace(microsecond=0)
