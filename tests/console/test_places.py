"""The page of a place: its meters now and before, readings and gaps across an exchange, and who may see it."""

from datetime import timedelta
from typing import Any

import pytest
from django.urls import reverse
from django.utils import timezone

from ami_headend.signin import roles
from concentrators.models import Concentrator
from meters.models import Installation, Meter, Place, Register
from meters.registry import place_readings
from tests.concentrators import fleet
from tests.concentrators.fleet import INTERVAL, START, Device, register_id, verified
from tests.concentrators.statements import counting
from tests.console.people import person
from tests.factories import ConcentratorFactory, MeterFactory

pytestmark = pytest.mark.django_db

STEP = timedelta(minutes=30)


@pytest.fixture
def exchanged() -> tuple[Place, Device, Device]:
    """A place whose meter was exchanged within interval 5: the old one's 0 to 5, the new one's 5 to 11 without 8."""
    concentrator: Concentrator = ConcentratorFactory.create(name="north")
    old, new = fleet.commission(2, concentrator)
    Meter.objects.update(commissioned_at=START)
    place = Place.objects.create(name="MP 4711", address="Mill Lane 7")
    at = START + 5 * STEP + timedelta(minutes=7)
    Installation.objects.create(meter=old.meter, place=place, installed_at=START, removed_at=at)
    Installation.objects.create(meter=new.meter, place=place, installed_at=at)
    frames = [old.frame(n) for n in range(6)] + [new.frame(n) for n in range(5, 12) if n != 8]
    verified(concentrator, frames, timezone.now())
    return place, old, new


def test_the_load_curve_goes_on_across_an_exchange(exchanged: tuple[Place, Device, Device]) -> None:
    place, old, new = exchanged
    register = Register.objects.get(pk=register_id(INTERVAL))
    hung = place_readings.installations(place)
    assert [row.meter for row in hung] == [new.meter, old.meter]
    curve = place_readings.load_curve(hung, register, START, START + 12 * STEP)
    assert [(point.start - START) // STEP for point in curve] == [0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11]
    [of_old] = place_readings.load_curve(hung[1:], register, START + 5 * STEP, START + 6 * STEP)
    [of_new] = place_readings.load_curve(hung[:1], register, START + 5 * STEP, START + 6 * STEP)
    assert curve[5].value == of_old.value + of_new.value
    report = place_readings.gaps(hung, register, START, START + 12 * STEP, timezone.now())
    assert [(gap.start - START) // STEP for gap in report.gaps] == [8]
    assert (report.expected, report.missing) == (11, 1)


def test_the_page_shows_meters_readings_and_gaps(exchanged: tuple[Place, Device, Device]) -> None:
    place, old, new = exchanged
    asked = {"on": START.date().isoformat()}
    answer = person(roles.OPERATOR).get(reverse("admin:place", args=[place.pk]), asked)
    text = answer.content.decode()
    assert "Mill Lane 7" in text
    assert reverse("admin:meter", args=[old.meter.pk]) in text
    assert "hangs here" in text
    that_day = [n for n in range(12) if n != 8 and (START + n * STEP).date() == START.date()]
    assert answer.context["profile"].counted == len(that_day)
    assert answer.context["gaps"].rows or len(that_day) < 11
    meter = person(roles.OPERATOR).get(reverse("admin:meter", args=[new.meter.pk])).content.decode()
    assert reverse("admin:place", args=[place.pk]) in meter


def test_a_place_without_a_meter_says_so() -> None:
    place = Place.objects.create(name="empty")
    text = person(roles.OPERATOR).get(reverse("admin:place", args=[place.pk])).content.decode()
    assert "No meter has ever hung here" in text
    assert person(roles.OPERATOR).get(reverse("admin:place", args=[10**18])).status_code == 404


def test_the_search_leads_to_the_page(exchanged: tuple[Place, Device, Device]) -> None:
    found: Any = person(roles.OPERATOR).get(reverse("admin:search"), {"s": "mill lane", "extended": "1"})
    assert reverse("admin:place", args=[exchanged[0].pk]) in found.content.decode()


def test_the_number_of_queries_does_not_depend_on_the_readings(exchanged: tuple[Place, Device, Device]) -> None:
    place, _, new = exchanged
    client, address = person(roles.OPERATOR), reverse("admin:place", args=[place.pk])
    client.get(address)
    with counting() as few:
        client.get(address)
    MeterFactory.create()
    verified(Concentrator.objects.get(), [new.frame(n) for n in range(12, 40)], timezone.now())
    with counting() as many:
        client.get(address)
    assert len(many) == len(few)


def test_places_are_found_by_address_and_customer(exchanged: tuple[Place, Device, Device]) -> None:
    place, _, new = exchanged
    Place.objects.filter(pk=place.pk).update(customer_reference="C-77")
    Place.objects.create(name="MP 2", address="Elm Road 1")
    client = person(roles.OPERATOR)

    def listed(**asked: str) -> list[str]:
        rows = client.get(reverse("admin:places"), asked).context["content"].rows
        return [" | ".join(str(cell.content) for cell in row) for row in rows]

    assert len(listed()) == 2
    for asked in ("mill lane", "C-77", "4711"):
        [row] = listed(search=asked)
        assert reverse("admin:place", args=[place.pk]) in row
        assert str(new.meter) in row
    assert listed(search="nowhere") == []
    assert len(listed(after="MP 2")) == 1
