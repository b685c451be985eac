"""Integrity failures in numbers: sums, steps and the worst, from tallies and from kept failures; constant queries."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.urls import reverse
from django.utils import timezone

from ami_headend.signin import roles
from concentrators.failures.kinds import FailureKind, Severity
from concentrators.failures.queries import FailureSelection
from concentrators.failures.statistics import by_meter, numbers
from concentrators.models import Concentrator, FailureTally
from tests.concentrators.statements import counting
from tests.console.people import person
from tests.factories import ConcentratorFactory, IntegrityFailureFactory, MeterFactory

pytestmark = pytest.mark.django_db

START = datetime(2026, 3, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
HOURS = [START + n * HOUR for n in range(4)]
END = START + 4 * HOUR


@pytest.fixture
def tallied() -> list[Concentrator]:
    """Two concentrators: the second has more failures, one of them outside of the four hours."""
    north, south = ConcentratorFactory.create(name="north"), ConcentratorFactory.create(name="south")
    for concentrator, kind, hour, failures in (
        (north, FailureKind.MALFORMED, 0, 3),
        (north, FailureKind.TAG_INVALID, 1, 5),
        (south, FailureKind.TAG_INVALID, 1, 20),
        (south, FailureKind.MALFORMED, 4, 1_000),
    ):
        FailureTally.objects.create(
            concentrator=concentrator, kind=kind.value, hour=START + hour * HOUR, failures=failures
        )
    return [north, south]


def test_tallies_are_counted_by_step_kind_and_concentrator(tallied: list[Concentrator]) -> None:
    found = numbers(FailureSelection(), HOURS, END, 10)
    assert found.by_step == [{FailureKind.MALFORMED: 3}, {FailureKind.TAG_INVALID: 25}, {}, {}]
    assert found.by_kind == {FailureKind.TAG_INVALID: 25, FailureKind.MALFORMED: 3}
    assert [(row.name, row.failures) for row in found.by_concentrator] == [("south", 20), ("north", 8)]


def test_filters_narrow_the_count_and_only_the_worst_are_named(tallied: list[Concentrator]) -> None:
    critical = numbers(FailureSelection(severity=Severity.CRITICAL), HOURS, END, 1)
    assert critical.by_kind == {FailureKind.TAG_INVALID: 25}
    assert [row.name for row in critical.by_concentrator] == ["south"]
    north = numbers(FailureSelection(concentrator_id=tallied[0].pk), HOURS, END, 10)
    assert sum(north.by_kind.values()) == 8


def test_of_a_meter_kept_failures_are_counted() -> None:
    meter, other = MeterFactory.create(), MeterFactory.create()
    for n, of in enumerate([meter, meter, other, None]):
        IntegrityFailureFactory.create(kind=FailureKind.REPLAYED, meter=of, received_at=START + n * HOUR)
    period = FailureSelection(start=START, end=END)
    worst = by_meter(period, 10)[0]
    assert (worst.id, worst.failures) == (meter.pk, 2)
    assert {row.serial_number for row in by_meter(period, 10)} == {meter.serial_number, other.serial_number, None}
    found = numbers(FailureSelection(meter_id=meter.pk, start=START, end=END), HOURS, END, 10)
    assert found.by_step == [{FailureKind.REPLAYED: 1}, {FailureKind.REPLAYED: 1}, {}, {}]


def test_the_page_shows_a_week_by_the_day_and_short_periods_by_the_hour(tallied: list[Concentrator]) -> None:
    FailureTally.objects.create(
        concentrator=tallied[0],
        kind=FailureKind.TAG_INVALID.value,
        hour=timezone.now().replace(minute=0, second=0, microsecond=0),
        failures=7,
    )
    client = person(roles.OPERATOR)
    week = client.get(reverse("admin:failure-numbers"))
    assert week.context["figures"][0].value == "7"
    assert "by day" in week.context["chart"].summary
    asked = {"from": "2026-03-01T00:00", "to": "2026-03-01T04:00"}
    hours = client.get(reverse("admin:failure-numbers"), asked)
    assert "by hour" in hours.context["chart"].summary
    assert hours.context["figures"][0].value == "28"
    assert "concentrator=south" in hours.content.decode()
    assert "from=2026-03-01T00%3A00&" in hours.content.decode()


@pytest.mark.parametrize("asked", [{"kind": "rubbish"}, {"from": "9999-12-31T23:59"}, {"to": "0001-01-01T00:00"}])
def test_nonsense_is_answered_with_what_is_wrong(asked: dict[str, str]) -> None:
    answer = person(roles.OPERATOR).get(reverse("admin:failure-numbers"), asked)
    assert answer.status_code == 200


def test_the_number_of_queries_does_not_depend_on_the_rows(tallied: list[Concentrator]) -> None:
    client = person(roles.OPERATOR)
    asked: dict[str, Any] = {"from": "2026-03-01T00:00", "to": "2026-03-01T04:00"}
    client.get(reverse("admin:failure-numbers"), asked)
    with counting() as few:
        client.get(reverse("admin:failure-numbers"), asked)
    for n in range(20):
        FailureTally.objects.create(
            concentrator=ConcentratorFactory.create(), kind="malformed", hour=START, failures=n + 1
        )
        IntegrityFailureFactory.create(meter=MeterFactory.create(), received_at=START)
    with counting() as many:
        answer = client.get(reverse("admin:failure-numbers"), asked)
    assert len(answer.context["concentrators"].rows) == 10
    assert len(many) == len(few)
