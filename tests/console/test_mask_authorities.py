"""Mask authorities on their page: pinned, with a second person where one is required, and withdrawn; mask groups."""

from typing import Any

import pytest
from django.contrib.auth.models import User
from django.contrib.messages import get_messages
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from pytest_django import Settings

from ami_headend.signin import roles
from keyvault import approvals
from keyvault.approvals import Person
from keyvault.masking import pinned
from keyvault.models import Approval, AuditRecord, MaskAuthority
from meters.models import Meter
from tests.console.people import person
from tests.factories import MeterFactory

pytestmark = pytest.mark.django_db
COUNCIL = {"name": "council", "url": "https://masks.example.org", "mask_group": "north", "public": "07" * 32}


@pytest.fixture
def officer() -> Client:
    return person(roles.KEY_OFFICER)


def act(client: Client, which: str, **fields: str) -> str:
    """What the page says afterwards."""
    answer = client.post(reverse("admin:mask-authorities"), {"act": which, **fields})
    assert answer.status_code == 302
    return " ".join(str(one) for one in get_messages(answer.wsgi_request))


def page(client: Client) -> str:
    answer = client.get(reverse("admin:mask-authorities"))
    assert answer.status_code == 200
    return answer.content.decode()


def test_one_is_pinned_asked_and_withdrawn(officer: Client) -> None:
    assert "No mask authority is pinned yet" in page(officer)
    assert "Pinned council" in act(officer, "pin", **COUNCIL)
    assert [one.name for one in pinned.asked()] == ["council"]
    assert "https://masks.example.org" in page(officer)
    assert "is pinned with this name already" in act(officer, "pin", **COUNCIL)
    assert "no mask authority 'city'" in act(officer, "withdraw", withdrawn="city")
    assert "is no longer asked" in act(officer, "withdraw", withdrawn="council")
    assert pinned.asked() == []
    assert "withdrawn" in page(officer)
    assert set(AuditRecord.objects.values_list("act", flat=True)) >= {"mask_authority.pin", "mask_authority.withdraw"}


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"public": "zz"}, "not in hex digits"),
        ({"public": "07"}, "32 octets"),
        ({"url": "ftp://x"}, "is no address"),
        ({"name": ""}, "name"),
        ({"name": "a\nb"}, "printable"),
    ],
)
def test_what_cannot_be_pinned_is_said(officer: Client, changes: dict[str, str], why: str) -> None:
    said = act(officer, "pin", **(COUNCIL | changes))
    assert said.startswith("Nothing was done")
    assert why in said
    assert not MaskAuthority.objects.exists()


def test_a_second_person_approves_what_is_pinned(officer: Client, settings: Settings) -> None:
    settings.REQUIRE_APPROVAL = True
    assert "approval of a second person" in act(officer, "pin", **COUNCIL)
    assert "Requested" in act(officer, "ask", **COUNCIL, reason="for the north")
    assert "it waits for another person" in page(officer)
    asked = Approval.objects.get()
    assert "no such approval" in act(officer, "pin-approved", number=str(asked.pk))
    person(roles.ADMINISTRATOR)
    second = User.objects.get(groups__name=roles.ADMINISTRATOR)
    approvals.approve(asked.pk, Person(second, "test"), timezone.now())
    assert "Pin council" in page(officer)
    assert "Pinned council" in act(officer, "pin-approved", number=str(asked.pk))
    assert "no such approval" in act(officer, "pin-approved", number=str(asked.pk))
    assert [one.name for one in pinned.asked()] == ["council"]


def test_who_may_look_may_not_pin() -> None:
    reader = person(roles.AUDITOR)
    assert "Pin a mask authority" not in page(reader)
    answer = reader.post(reverse("admin:mask-authorities"), {"act": "pin", **COUNCIL})
    assert answer.status_code == 403


def test_a_row_that_was_changed_in_the_database_is_marked(officer: Client) -> None:
    act(officer, "pin", **COUNCIL)
    MaskAuthority.objects.update(url="http://elsewhere")
    assert "changed in the database" in page(officer)


class TestGroups:
    def test_over_rest(self) -> None:
        operator = person(roles.OPERATOR)
        meters = MeterFactory.create_batch(2)
        titles = [bytes(meter.system_title).hex() for meter in meters]

        def post(**body: object) -> Any:
            return operator.post("/api/v1/mask-groups", body, "application/json")

        assert post(mask_group="north", meters=titles).json() == {"changed": 2}
        assert set(Meter.objects.values_list("mask_group", flat=True)) == {"north"}
        assert operator.get(f"/api/v1/meters/{titles[0]}").json()["mask_group"] == "north"
        assert AuditRecord.objects.latest("number").subject["group"] == "north"
        body: dict[str, Any]
        for body in (
            {"mask_group": "x", "meters": ["00" * 8]},
            {"mask_group": "a\nb", "meters": titles},
            {"meters": []},
        ):
            answer = post(**body)
            assert (answer.status_code, answer["Content-Type"]) == (400, "application/problem+json"), body
        assert person(roles.AUDITOR).post("/api/v1/mask-groups", {}, "application/json").status_code == 403

    def test_on_the_form_of_a_meter(self) -> None:
        operator = person(roles.OPERATOR)
        meter = MeterFactory.create()
        address = reverse("admin:meters_meter_change", args=[meter.pk])
        assert 'name="mask_group"' in operator.get(address).content.decode()
        fields = {
            "serial_number": meter.serial_number,
            "name": meter.name,
            "commissioned_at_0": "2026-01-01",
            "commissioned_at_1": "00:00",
        }
        of_groups = AuditRecord.objects.filter(act="meter.mask_group")
        assert operator.post(address, {**fields, "mask_group": ""}).status_code == 302
        assert not of_groups.exists()
        assert operator.post(address, {**fields, "mask_group": "north"}).status_code == 302
        assert Meter.objects.get().mask_group == "north"
        assert of_groups.exists()
        assert operator.post(address, {**fields, "mask_group": "x" * 61}).status_code == 200
