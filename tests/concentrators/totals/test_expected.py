"""What is expected of concentrators, in SQL, is the rule of ``meters.readings.expectation``; and a meter exchange."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from concentrators.fleet.assignments import AssignmentError, assign, exchange
from concentrators.models import Assignment, Concentrator, IntervalTotal
from concentrators.totals import completeness, queries, totals
from concentrators.totals.expected import refresh, spans
from concentrators.totals.queries import TotalSelection
from meters.models import EarlierLength, Installation, Meter, Place, Register
from meters.readings import gaps
from meters.readings.expectation import assignment_of, expected
from meters.readings.gaps import expected_periods, gap_report
from meters.registry import lifecycle
from tests.concentrators import fleet
from tests.concentrators.fleet import INTERVAL, NOW, START
from tests.factories import ConcentratorFactory, MeterFactory

pytestmark = pytest.mark.django_db

HALF_HOUR = timedelta(minutes=30)
TEN_MINUTES = timedelta(minutes=10)
DAY = datetime(2026, 3, 28, tzinfo=UTC)
instants = st.integers(0, 2 * 24 * 12).map(lambda fives: DAY + timedelta(minutes=5 * fives))


@st.composite
def lives(draw: st.DrawFn) -> dict[str, Any]:
    times = sorted(draw(st.lists(instants, max_size=4, unique=True)))
    return {
        "commissioned_at": draw(instants),
        "retired_at": draw(st.none() | instants),
        "lengths": draw(st.sampled_from([(30, 30), (15, 60), (60, 15), (240, 240), (1440, 1440), (7, 7)])),
        "hung": [(at, times[n + 1] if n + 1 < len(times) else None) for n, at in enumerate(times) if n % 2 == 0],
        "assigned": sorted(draw(st.lists(instants, max_size=4, unique=True))),
    }


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(lives(), instants, instants, instants)
def test_sql_and_python_expect_the_same(
    life: dict[str, Any], start: datetime, end: datetime, over_by: datetime
) -> None:
    Assignment.objects.all().delete()
    concentrators = ConcentratorFactory.create_batch(2)
    meter = _meter(life, concentrators)
    assignments = [
        (
            row.concentrator_id,
            int(row.valid_from.timestamp()),
            None if row.valid_to is None else int(row.valid_to.timestamp()),
        )
        for row in Assignment.objects.filter(meter=meter).order_by("valid_from")
    ]
    counts: dict[tuple[int, int, datetime], int] = {}
    for period in expected(gaps.terms_of([meter])[0], start, end, over_by):
        for at in period.starts(period.start, period.end):
            at_s = int(at.timestamp())
            whom = assignment_of(assignments, at_s, at_s + 60 * period.interval_minutes)
            if whom is not None:
                counts[whom, period.interval_minutes, at] = 1
    found = spans(start, end, over_by)
    assert sum(span.intervals(start, end) for span in found) == len(counts)
    for whom, minutes, at in counts:
        assert [span.meters for span in found if span[:2] == (whom, minutes) and span.first <= at < span.last] == [1]


def _meter(life: dict[str, Any], concentrators: list[Concentrator]) -> Meter:
    old, new = life["lengths"]
    meter = MeterFactory.create(
        commissioned_at=life["commissioned_at"], retired_at=life["retired_at"], interval_minutes=new
    )
    if old != new:
        EarlierLength.objects.create(meter=meter, interval_minutes=old, valid_to=DAY + timedelta(days=1))
    for since, until in life["hung"]:
        place = Place.objects.create(name=f"place {Place.objects.count()} of {meter}")
        Installation.objects.create(meter=meter, place=place, installed_at=since, removed_at=until)
    times = life["assigned"]
    for n, at in enumerate(times):
        if n < 3:  # the second ends where the third begins; before the second nothing stands for a while
            Assignment.objects.create(
                meter=meter,
                concentrator=concentrators[n % 2],
                valid_from=at + timedelta(minutes=2 * (n == 1)),
                valid_to=times[n + 1] if n + 1 < len(times) else None,
            )
    return meter


@pytest.fixture
def concentrator() -> Concentrator:
    return ConcentratorFactory.create()


def interval_total(concentrator: Concentrator, at: datetime) -> tuple[int, int]:
    row = IntervalTotal.objects.filter(concentrator=concentrator, interval_start=at).first()
    return (0, 0) if row is None else (int(row.value_sum), row.meters_counted)


def test_an_exchange_within_an_interval(concentrator: Concentrator) -> None:
    """What both measured of the interval is in its total; of the old one nothing is expected from then on."""
    [old] = fleet.commission(1, concentrator)
    [new] = fleet.commission(1, None)
    Meter.objects.filter(pk=old.meter.pk).update(commissioned_at=START)
    Meter.objects.filter(pk=new.meter.pk).update(commissioned_at=START)
    old.meter.refresh_from_db()
    new.meter.refresh_from_db()
    place = Place.objects.create(name="house 1")
    lifecycle.install(old.meter, place, START)
    at = START + 4 * HALF_HOUR + TEN_MINUTES
    exchange(place, old.meter, new.meter, at)
    fleet.verified(concentrator, [old.frame(n, 10) for n in range(5)], NOW)  # the last one is cut by the exchange
    fleet.verified(concentrator, [new.frame(n, 70) for n in range(4, 8)], NOW)

    assert interval_total(concentrator, START + 4 * HALF_HOUR) == (80, 2)
    assert interval_total(concentrator, START + 5 * HALF_HOUR) == (70, 1)
    assert totals.compare(START, NOW) == []
    end = START + 8 * HALF_HOUR
    load_profile = Register.objects.get(obis_code=INTERVAL)
    for device, due in ((old, 4), (new, 3)):
        report = gap_report(device.meter, load_profile, START, end, NOW)
        assert (report.expected, report.missing) == (due, 0)
    assert sum(span.intervals(START, end) for span in spans(START, end)) == 7
    assert completeness.incomplete_meters(concentrator.pk, START, end, 10) == []
    rows, _ = queries.totals(TotalSelection(START, end), 100)
    assert [row.meters_expected for row in rows] == [1, 1, 1, 1, 0, 1, 1, 1]


def test_readings_that_came_before_the_exchange_was_entered_move_along(concentrator: Concentrator) -> None:
    [old] = fleet.commission(1, concentrator)
    [new] = fleet.commission(1, None)
    place = Place.objects.create(name="house 2")
    lifecycle.install(old.meter, place, START)
    fleet.verified(concentrator, [new.frame(n, 70) for n in range(4, 6)], NOW)
    assert not IntervalTotal.objects.exists()
    exchange(place, old.meter, new.meter, START + 4 * HALF_HOUR + TEN_MINUTES)
    assert interval_total(concentrator, START + 4 * HALF_HOUR) == (70, 1)
    assert interval_total(concentrator, START + 5 * HALF_HOUR) == (70, 1)
    assert totals.compare(START, NOW) == []


def test_a_meter_that_has_a_concentrator_keeps_it_over_an_exchange(concentrator: Concentrator) -> None:
    other = ConcentratorFactory.create()
    [old], [new] = fleet.commission(1, concentrator), fleet.commission(1, other)
    place = Place.objects.create(name="house 3")
    lifecycle.install(old.meter, place, START)
    exchange(place, old.meter, new.meter, START + HALF_HOUR)
    assert Assignment.objects.get(meter=new.meter).concentrator == other
    assert Assignment.objects.get(meter=old.meter).valid_to == START + HALF_HOUR


def test_an_exchange_before_an_assignment_began_changes_nothing(concentrator: Concentrator) -> None:
    old, new = MeterFactory.create_batch(2, commissioned_at=START)
    place = Place.objects.create(name="house 4")
    lifecycle.install(old, place, START)
    assign([(old.pk, concentrator.pk)], START)
    assign([(old.pk, ConcentratorFactory.create().pk)], START + 9 * HALF_HOUR)
    with pytest.raises(AssignmentError):
        exchange(place, old, new, START + HALF_HOUR)
    assert Installation.objects.get(place=place).meter == old


def test_an_interval_is_expected_on_the_day_in_which_it_begins() -> None:
    """An hour that begins half an hour before the viewer's midnight."""
    meter = MeterFactory.create(commissioned_at=DAY, interval_minutes=60)
    midnight = DAY + timedelta(hours=18, minutes=30)
    before = expected_periods([meter], DAY, midnight, midnight + timedelta(days=2))
    after = expected_periods([meter], midnight, midnight + timedelta(days=1), midnight + timedelta(days=2))
    assert [period.intervals for period in (*before, *after)] == [19, 24]


def test_every_change_of_a_meter_makes_its_concentrators_stale(concentrator: Concentrator) -> None:
    """Whatever changes what is expected, by whichever statement; and nothing else does."""
    other = ConcentratorFactory.create()
    meter = MeterFactory.create(commissioned_at=DAY, interval_minutes=30)
    place = Place.objects.create(name="house 5")

    def due(of: Concentrator = concentrator) -> int:
        found = spans(DAY, DAY + timedelta(days=1), concentrator_ids=[of.pk])
        assert refresh() == 0
        return sum(span.intervals(DAY, DAY + timedelta(days=1)) for span in found)

    assert due() == 0
    assign([(meter.pk, concentrator.pk)], DAY)
    assert due() == 48
    installation = lifecycle.install(meter, place, DAY + timedelta(hours=12))
    assert due() == 24
    Installation.objects.all().update(installed_at=DAY)
    assert due() == 48
    assign([(meter.pk, other.pk)], DAY + timedelta(hours=18))
    assert (due(), due(other)) == (36, 12)
    EarlierLength.objects.create(meter=meter, interval_minutes=60, valid_to=DAY + timedelta(hours=6))
    assert (due(), due(other)) == (30, 12)
    Meter.objects.filter(pk=meter.pk).update(interval_minutes=15)
    assert (due(), due(other)) == (54, 24)
    Installation.objects.filter(pk=installation.pk).update(removed_at=DAY + timedelta(hours=20))
    assert (due(), due(other)) == (54, 8)
    installation.delete()
    lifecycle.retire(meter, DAY + timedelta(hours=19))
    assert (due(), due(other)) == (54, 4)
    EarlierLength.objects.all().delete()
    assert due() == 72
    Assignment.objects.filter(concentrator=other).delete()
    assert due(other) == 0
    Meter.objects.filter(pk=meter.pk).update(name="renamed")
    assert refresh() == 0
