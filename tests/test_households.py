"""A household's place and readings, planted so that they are recognised: who sees them at any door, and is recorded."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import Group, User
from django.db import connection
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from ami_headend.signin import roles
from meters.models import HouseholdAccess, Installation, Meter, Place, Reading, Register
from meters.registry import access_record
from tests.test_doors import OPERATOR, ROLES, Door, arguments, doors, faults
from tests.test_doors import rows as rows  # noqa: PLC0414 - a fixture

pytestmark = pytest.mark.django_db

NAME, ADDRESS = "Point-Quokka-17", "Quokka Lane 17"
VALUE = 482_915_637
TRACES = (NAME, ADDRESS, f"{VALUE}", f"{VALUE:,}")  # a page may well echo the word that it was asked for


@pytest.fixture
def household(rows: None) -> Meter:
    """The meter that every door of the matrix is asked for, at a place that is recognised wherever it is shown."""
    meter = Meter.objects.order_by("pk")[0]
    place = Place.objects.order_by("pk")[0]
    Place.objects.filter(pk=place.pk).update(name=NAME, address=ADDRESS)
    assert Installation.objects.filter(meter=meter, place=place, removed_at=None).exists()
    register = Register.objects.get(obis_code="1-0:1.8.0")
    at = timezone.now().replace(microsecond=0) - timedelta(minutes=5)
    Reading.objects.create(captured_at=at, meter=meter, register=register, value=VALUE, uplink_id=1)
    return meter


def looks(meter: Meter) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """What addresses that are looked at may be asked for."""
    title = bytes(meter.system_title).hex()
    for name in ("readings", "events", "meters"):
        yield name, reverse(name), {"search": "Quokka"} if name == "meters" else {"meter": title}
    for form in ("csv", "parquet"):
        yield "readings", reverse("readings"), {"format": form}
    yield "admin:search", reverse("admin:search"), {"s": "Quokka", "extended": "1"}
    for app, model, field in (("meters", "installation", "place"), ("meters", "installation", "meter")):
        asked = {"app_label": app, "model_name": model, "field_name": field, "term": "Point"}
        yield "admin:autocomplete", reverse("admin:autocomplete"), asked
    for lookup in ("installations__place__name__startswith", "installations__place__address__icontains", "q"):
        yield "admin:meters_meter_changelist", reverse("admin:meters_meter_changelist"), {lookup: "Quokka"}


def client_of(role: str) -> Client:
    user = User.objects.create_user(f"the {role}", is_staff=True)
    user.groups.set(Group.objects.filter(name=role))
    client = Client(raise_request_exception=False)
    client.force_login(user)
    return client


def content(answer: Any) -> str:
    octets = b"".join(answer.streaming_content) if answer.streaming else answer.content
    return str(octets.decode(errors="replace"))


def is_asked(number: int, door: Door, role: str) -> bool:
    """Whether the role asks at the door: where it is refused, and of those who are let in, operators and one more."""
    others = sorted(door.who - {OPERATOR})
    return role not in others or others[number % len(others)] == role


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.soak)], ids=["in turn", "every door"])
@pytest.mark.parametrize("role", ROLES)
def test_a_household_is_shown_to_operators_alone_and_each_look_is_recorded(
    role: str, household: Meter, every: bool
) -> None:
    """At every door that is looked at, which opens to whom it should: those that write stand in test_doors.py."""
    client = client_of(role)
    client.post(reverse("admin:meters_meter_suspend", args=[household.pk]))
    seen, unrecorded, wrong = set(), set(), list[str]()

    def look(name: str, address: str, query: dict[str, Any]) -> Any:
        HouseholdAccess.objects.filter(account=f"the {role}").delete()
        answer = client.get(address, query)
        shown = content(answer)
        if any(trace in shown for trace in TRACES):
            seen.add(name)
            if not HouseholdAccess.objects.filter(account=f"the {role}", door=name).exists():
                unrecorded.add(name)
        return answer

    for number, door in enumerate(doors()):
        if door.method == "get" and (every or is_asked(number, door, role)):
            answer = look(door.name, reverse(door.name, args=arguments(door)), {})
            wrong += faults(role, door, answer)
    for name, address, query in looks(household):
        look(name, address, query)
    assert not wrong, "\n".join([f"{role}:", *wrong])
    assert not unrecorded
    if role == OPERATOR:
        assert {"admin:meter", "meter", "meters", "readings", "admin:readings", "admin:search"} <= seen
        assert {"admin:meters_place_changelist", "admin:meters_place_change"} <= seen
    else:
        assert not seen


def test_a_history_that_names_places_is_for_those_who_see_them(household: Meter) -> None:
    operator = client_of(OPERATOR)
    address = reverse("admin:meters_meter_install", args=[household.pk])
    other = Place.objects.create(name="Second Quokka")
    Installation.objects.filter(meter=household).update(removed_at=timezone.now() - timedelta(days=1))
    now = timezone.now()
    given = {"place": other.pk, "at_0": f"{now:%Y-%m-%d}", "at_1": f"{now:%H:%M:%S}"}
    assert operator.post(address, given).status_code == 302
    history = reverse("admin:meters_meter_history", args=[household.pk])
    assert "Second Quokka" in content(operator.get(history))
    assert client_of(roles.AUDITOR).get(history).status_code == 403


def test_a_right_to_see_meters_is_none_to_see_places(household: Meter) -> None:
    """By single rights, too: the place is left out of the answer, not told to be none."""
    client = client_of(roles.KEY_OFFICER)
    answer = client.get(reverse("meter", args=[bytes(household.system_title).hex()])).json()
    assert "place" not in answer
    operator = client_of(OPERATOR).get(reverse("meter", args=[bytes(household.system_title).hex()])).json()
    assert operator["place"] == NAME


def test_looks_are_gathered_by_the_hour(household: Meter) -> None:
    client = client_of(OPERATOR)
    for _ in range(5):
        client.get(reverse("admin:meter", args=[household.pk]))
        client.get(reverse("admin:meter", args=[household.pk]), headers={"HX-Request": "true"})
    row = HouseholdAccess.objects.get(account="the operator", door="admin:meter")
    assert (row.account, row.meter, row.requests) == ("the operator", household, 5)
    page = content(client_of(roles.AUDITOR).get(reverse("admin:meters_householdaccess_changelist")))
    assert "the operator" in page
    assert household.serial_number in page
    assert HouseholdAccess.objects.count() == access_record.purge(timezone.now() + timedelta(seconds=1)) > 0
    assert not HouseholdAccess.objects.exists()


def test_old_looks_go_in_batches() -> None:
    old = timezone.now() - timedelta(days=9_000)
    with connection.cursor() as cursor:
        cursor.execute(
            """INSERT INTO meters_householdaccess (hour, account, door, requests, first_at, last_at)
               SELECT %(at)s, 'account ' || n, 'door', 1, %(at)s, %(at)s FROM generate_series(1, 10001) AS n""",
            {"at": old},
        )
        assert access_record._purge_batch(cursor, timezone.now() - timedelta(days=8_000)) == 10_000
    assert access_record.purge(timezone.now() - timedelta(days=8_000)) == 1


def test_a_place_that_is_removed_stays_in_the_record(household: Meter) -> None:
    place, client = Place.objects.create(name="Third Quokka"), client_of(OPERATOR)
    assert client.get(reverse("admin:place", args=[place.pk])).status_code == 200
    pk = place.pk
    place.delete()
    assert HouseholdAccess.objects.filter(account="the operator", place_id=pk).exists()
    page = content(client_of(roles.AUDITOR).get(reverse("admin:meters_householdaccess_changelist")))
    assert f"place {pk}" in page


def test_what_cannot_be_recorded_is_not_shown(household: Meter, monkeypatch: pytest.MonkeyPatch) -> None:
    client = client_of(OPERATOR)
    monkeypatch.setattr(access_record, "_STATEMENT", "SELECT nothing_of_that_name")
    shown = client.get(reverse("meter", args=[bytes(household.system_title).hex()]))
    assert shown.status_code >= 500
    assert "Quokka" not in content(shown)
