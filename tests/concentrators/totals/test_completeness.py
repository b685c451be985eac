"""Completeness from totals and assignments agrees with what the totals themselves say, interval by interval."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from concentrators.models import Assignment, Concentrator, IntervalTotal
from concentrators.totals import completeness
from concentrators.totals.completeness import IntervalShare
from concentrators.totals.expected import ExpectedSpan, spans
from meters.models import EarlierLength, Meter, Register
from meters.readings.obis import LOAD_PROFILE
from tests.concentrators.statements import counting
from tests.factories import ConcentratorFactory, MeterFactory

pytestmark = pytest.mark.django_db

START = datetime(2026, 11, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
END = START + 6 * HOUR


def assigned(
    concentrator: Concentrator, start: datetime = START - 30 * HOUR, end: Any = None, **of_meter: Any
) -> Meter:
    meter = MeterFactory.create(**{"commissioned_at": START - 100 * HOUR, **of_meter})
    Assignment.objects.create(meter=meter, concentrator=concentrator, valid_from=start, valid_to=end)
    return meter


def total(concentrator: Concentrator, at: datetime, counted: int, value: int = 0, minutes: int = 30) -> None:
    IntervalTotal.objects.create(
        concentrator=concentrator,
        register=Register.objects.get(obis_code=LOAD_PROFILE),
        interval_minutes=minutes,
        interval_start=at,
        value_sum=value,
        meters_counted=counted,
    )


def expected(start: datetime = START, end: datetime = END) -> list[int]:
    found = spans(start, end)
    return [hour.expected for hour in completeness.hours(found, start, end)]


def test_hours_count_what_is_there_of_what_is_expected() -> None:
    first, second = ConcentratorFactory.create(), ConcentratorFactory.create()
    for concentrator in (first, first, second):
        assigned(concentrator)
    total(first, START, 2, 700)
    total(first, START + HOUR / 2, 1, 300)
    total(second, START + HOUR, 1, 50)
    total(second, END, 1, 50)
    hours = completeness.hours(spans(START, END), START, END)
    assert [hour.start for hour in hours] == [START + n * HOUR for n in range(6)]
    assert [hour.counted for hour in hours] == [3, 1, 0, 0, 0, 0]
    assert [hour.expected for hour in hours] == [6] * 6
    assert [hour.energy_wh for hour in hours] == [1000, 50, 0, 0, 0, 0]
    alone = completeness.hours(spans(START, END, concentrator_ids=[second.pk]), START, END, second.pk)
    assert [(hour.counted, hour.expected) for hour in alone[:2]] == [(0, 2), (1, 2)]


def test_expected_follows_assignment_service_and_length() -> None:
    concentrator = ConcentratorFactory.create()
    assigned(
        concentrator, START + HOUR + timedelta(minutes=10)
    )  # nobody else's: from the interval that begins at 01:00
    assert expected() == [0, 2, 2, 2, 2, 2]
    assigned(concentrator, end=START + HOUR)
    assert expected() == [2, 2, 2, 2, 2, 2]
    assigned(concentrator, commissioned_at=START + 5 * HOUR + timedelta(seconds=1))
    assert expected() == [2, 2, 2, 2, 2, 3]
    assigned(concentrator, retired_at=START + timedelta(minutes=30))
    assert expected() == [3, 2, 2, 2, 2, 3]
    changed = assigned(concentrator, interval_minutes=60)
    EarlierLength.objects.create(meter=changed, interval_minutes=15, valid_to=START + 2 * HOUR)
    assert expected() == [7, 6, 3, 3, 3, 4]


def test_an_unassigned_meter_is_not_expected() -> None:
    MeterFactory.create(commissioned_at=START - HOUR)
    assert expected() == [0] * 6


def test_long_intervals_count_once_and_spread_their_energy() -> None:
    concentrator = ConcentratorFactory.create()
    assigned(concentrator, interval_minutes=180)
    total(concentrator, START, 1, 900, minutes=180)
    hours = completeness.hours(spans(START, END), START, END)
    assert [hour.expected for hour in hours] == [1, 0, 0, 1, 0, 0]
    assert [hour.energy_wh for hour in hours] == [300, 300, 300, 0, 0, 0]


def test_the_least_complete_concentrator_is_first() -> None:
    good, bad, empty = (ConcentratorFactory.create() for _ in range(3))
    assigned(good)
    assigned(bad)
    total(good, START, 1)
    total(good, START + HOUR / 2, 1)
    total(bad, START, 1)
    found = spans(START, START + HOUR)
    total(good, START + 3 * HOUR, 1)
    assert completeness.shares(found, START, START + HOUR) == [
        IntervalShare(bad.pk, 1, 2, START),
        IntervalShare(good.pk, 2, 2, START + 3 * HOUR),
    ]
    assert empty.pk not in {span.concentrator_id for span in found}


@pytest.mark.parametrize("minutes", [1, 7, 15, 30, 60, 1440])
def test_intervals_of_a_span_are_those_that_begin_in_it(minutes: int) -> None:
    for offset in (0, 1, 59, 60, 12_345):
        first = START + timedelta(seconds=offset)
        span = ExpectedSpan(1, minutes, first, first + 30 * HOUR, 3)
        minutes_since_1970 = range(int(first.timestamp()) // 60 - 1, int(first.timestamp()) // 60 + 1802)
        starts = [datetime.fromtimestamp(m * 60, UTC) for m in minutes_since_1970 if m % minutes == 0]
        begins = [at for at in starts if first <= at < first + 30 * HOUR]
        assert span.intervals(START, START + 100 * HOUR) == 3 * len(begins)


def test_meters_alike_are_one_row_and_the_cost_is_constant() -> None:
    concentrator = ConcentratorFactory.create()
    for number in range(5):
        assigned(concentrator, commissioned_at=START - timedelta(hours=50 + number))
    spans(START, END)  # makes the steps
    with counting() as statements:
        found = spans(START, END)
        completeness.hours(found, START, END)
        assert len(statements) == 3
    [span] = found
    assert span._replace(last=END) == ExpectedSpan(concentrator.pk, 30, START, END, 5)
    assert span.intervals(START, END + HOUR) == 5 * 12  # the last of them is over at the end
