"""Dated assignments: which concentrator an interval counts to, and totals that move along when that changes."""

from datetime import datetime, timedelta

import pytest
from django.db import IntegrityError, transaction

from concentrators.fleet.assignments import AssignmentError, assign
from concentrators.ingest.meter_cache import KeptMeters
from concentrators.models import Assignment, Concentrator, IntervalTotal
from concentrators.totals import totals
from meters.models import Meter
from tests.concentrators.fleet import (
    HALF_HOUR_S,
    NOW,
    START,
    START_S,
    WINDOW,
    Device,
    commission,
    judged,
)
from tests.concentrators.statements import Statements
from tests.factories import ConcentratorFactory, MeterFactory

pytestmark = pytest.mark.django_db


def interval(number: int) -> datetime:
    return START + number * timedelta(seconds=HALF_HOUR_S)


def sums(concentrator: Concentrator) -> dict[int, int]:
    """Totals of a concentrator by the number of the interval after START."""
    rows = IntervalTotal.objects.filter(concentrator=concentrator)
    return {(int(row.interval_start.timestamp()) - START_S) // HALF_HOUR_S: int(row.value_sum) for row in rows}


@pytest.fixture
def device(concentrator: Concentrator) -> Device:
    return commission(1, concentrator)[0]


def test_intervals_count_by_their_start_before_and_after_the_instant(
    concentrator: Concentrator, other_concentrator: Concentrator, device: Device
) -> None:
    assert assign([(device.meter.pk, other_concentrator.pk)], interval(2)) == 1
    assert judged(concentrator, [device.frame(n, 10**n) for n in range(4)]) == {"accepted": 4}
    assert (sums(concentrator), sums(other_concentrator)) == ({0: 1, 1: 10}, {2: 100, 3: 1000})
    assert totals.compare(*WINDOW) == []


def test_what_was_counted_moves_along(
    concentrator: Concentrator, other_concentrator: Concentrator, device: Device
) -> None:
    bystander = commission(1, concentrator)[0]
    judged(concentrator, [device.frame(n, 10**n) for n in range(4)] + [bystander.frame(3, 7)])
    assign([(device.meter.pk, other_concentrator.pk)], interval(2))
    assert (sums(concentrator), sums(other_concentrator)) == ({0: 1, 1: 10, 3: 7}, {2: 100, 3: 1000})
    assert totals.compare(*WINDOW) == []
    judged(other_concentrator, [device.frame(1, 10), device.frame(4, 5), device.frame(-1, 6)])
    assert (sums(concentrator), sums(other_concentrator)) == ({-1: 6, 0: 1, 1: 10, 3: 7}, {2: 100, 3: 1000, 4: 5})

    assign([(device.meter.pk, concentrator.pk)], interval(3))  # and back
    assert (sums(concentrator), sums(other_concentrator)) == ({-1: 6, 0: 1, 1: 10, 3: 1007, 4: 5}, {2: 100})
    assert totals.compare(*WINDOW) == []


@pytest.mark.parametrize("microseconds", [-1, 1, 400_000, 600_000])
def test_an_instant_inside_a_second_is_the_same_for_verification_and_for_recomputing(
    concentrator: Concentrator, other_concentrator: Concentrator, device: Device, microseconds: int
) -> None:
    assign([(device.meter.pk, other_concentrator.pk)], interval(2) + timedelta(microseconds=microseconds))
    judged(concentrator, [device.frame(n) for n in range(4)])
    assert 2 in sums(other_concentrator if microseconds < 0 else concentrator)
    assert totals.compare(*WINDOW) == []


def test_a_first_assignment_counts_what_came_before_it_was_made(concentrator: Concentrator) -> None:
    device = commission(1, None)[0]
    judged(concentrator, [device.frame(n) for n in range(3)])
    assert sums(concentrator) == {}
    assign([(device.meter.pk, concentrator.pk)], interval(1))
    assert sums(concentrator) == {1: 100, 2: 100}
    assert totals.compare(*WINDOW) == []


def test_the_same_again_changes_nothing(concentrator: Concentrator, device: Device) -> None:
    before = list(Assignment.objects.values())
    assert assign([(device.meter.pk, concentrator.pk)], NOW) == 0
    assert list(Assignment.objects.values()) == before


def test_another_at_the_same_instant_takes_the_place_of_the_first(
    concentrator: Concentrator, other_concentrator: Concentrator
) -> None:
    device = commission(1, None)[0]
    judged(concentrator, [device.frame(1)])
    assign([(device.meter.pk, concentrator.pk)], interval(1))
    assign([(device.meter.pk, other_concentrator.pk)], interval(1))
    row = Assignment.objects.get(meter=device.meter)
    assert (row.concentrator, row.valid_from, row.valid_to) == (other_concentrator, interval(1), None)
    assert (sums(concentrator), sums(other_concentrator)) == ({}, {1: 100})


def test_one_that_begins_later_is_named_and_nothing_changes(
    concentrator: Concentrator, other_concentrator: Concentrator, device: Device
) -> None:
    free = MeterFactory.create()
    assign([(device.meter.pk, other_concentrator.pk)], interval(5))
    before = list(Assignment.objects.order_by("pk").values())
    with pytest.raises(AssignmentError, match="begins after"):
        assign([(free.pk, concentrator.pk), (device.meter.pk, ConcentratorFactory.create().pk)], interval(3))
    assert list(Assignment.objects.order_by("pk").values()) == before


def test_an_assignment_that_has_an_end_is_made_lasting(concentrator: Concentrator, device: Device) -> None:
    Assignment.objects.update(valid_to=interval(4))
    assert assign([(device.meter.pk, concentrator.pk)], interval(2)) == 1
    judged(concentrator, [device.frame(n) for n in range(6)])
    assert sums(concentrator) == dict.fromkeys(range(6), 100)
    assert totals.compare(*WINDOW) == []


def test_the_database_refuses_two_at_once(
    concentrator: Concentrator, other_concentrator: Concentrator, device: Device
) -> None:
    with pytest.raises(IntegrityError), transaction.atomic():
        Assignment.objects.create(meter=device.meter, concentrator=other_concentrator, valid_from=NOW)


def test_the_cost_does_not_grow_with_the_meters(
    concentrator: Concentrator, other_concentrator: Concentrator, statements: Statements
) -> None:
    costs = set()
    for size in (1, 50):
        meters: list[Meter] = MeterFactory.create_batch(size)
        assign([(meter.pk, concentrator.pk) for meter in meters], interval(0))
        statements.take()
        assert assign([(meter.pk, other_concentrator.pk) for meter in meters], interval(1)) == size
        costs.add(len(statements.take()))
    assert len(costs) == 1


def test_meters_as_verification_sees_them(
    concentrator: Concentrator, other_concentrator: Concentrator, device: Device
) -> None:
    assign([(device.meter.pk, other_concentrator.pk)], interval(2))
    found = KeptMeters().read({device.title, bytes(8)})
    assert set(found) == {device.title}
    meter = found[device.title]
    assert (meter.id, meter.in_service, meter.interval_minutes) == (device.meter.pk, True, 30)
    start_s = START_S + 2 * HALF_HOUR_S
    at = [meter.concentrator_of(time_s, 30) for time_s in (0, start_s - 1, start_s, start_s + 10**9)]
    assert at == [None, concentrator.pk, other_concentrator.pk, other_concentrator.pk]
    assert KeptMeters().read(set()) == {}
