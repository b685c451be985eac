"""Every door that changes something, with a session whose owner showed no proof lately: which of them go on?

All that do are named here, so that a new one is looked at. Whoever adds a line says that a thief of a session may.
"""

from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse
from django.utils.http import urlencode
from pytest_django.fixtures import Settings

from ami_headend.signin import step_up
from keyvault.models import AuditRecord, DeviceKey
from meters.models import Meter
from tests.signin.people import after
from tests.test_doors import _ask, doors
from tests.test_doors import rows as rows  # noqa: PLC0414 - a fixture

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("rows")]

WITHOUT_PROOF = {
    # looked at, noted, acknowledged
    "admin:failures", "admin:failure", "admin:failures-acknowledge", "admin:acknowledgement",
    "admin:alerts", "admin:alert", "admin:audit", "admin:events",
    # meters: enrolled without keys, placed, suspended, asked for what carries no key
    "admin:meters_meter_changelist", "admin:meters_meter_add", "admin:meters_meter_change", "admin:meters_meter_assign",
    *(f"admin:meters_meter_{act}" for act in ("interval", "suspend", "resume", "install", "exchange", "retire")),
    "admin:meters_place_changelist", "admin:meters_place_add", "admin:meters_place_change",
    "places", "place", "admin:meter", "resends", "meter-commands", "meter-command",
}  # fmt: skip
NEW_METER = {
    "system_title_hex": "00" * 7 + "01", "serial_number": "new", "interval_minutes": "30",
    "commissioned_at_0": "2026-01-01", "commissioned_at_1": "00:00:00", "scheme": "ccm",
}  # fmt: skip


@pytest.fixture
def stale(settings: Settings) -> Any:
    """A client of somebody who may do everything, whose proof is too long ago."""
    settings.TWO_FACTOR_REQUIRED = False
    client = Client(raise_request_exception=False)
    client.force_login(User.objects.create_superuser("root", password="a long enough password"))
    with after(settings.STEP_UP_S + 1):
        yield client


def is_asked(answer: Any) -> bool:
    if answer.status_code != 403:
        return False
    return "Confirm that it is you" in answer.content.decode() or "fresh proof" in answer.content.decode()


def test_all_doors_ask_but_those_named_here(stale: Client) -> None:
    went_on = {door.name for door in doors() if door.method != "get" and not is_asked(_ask(stale, door))}
    assert went_on == WITHOUT_PROOF


def test_what_is_let_go_on_is_what_doors_there_are(stale: Client) -> None:
    """No line of the product's own list that no test knows."""
    of_the_sign_in = {"admin:logout", "admin:login", "admin:sign-in", "second-factor", "second-factor-set-up"}
    assert step_up.EVERYDAY - of_the_sign_in == WITHOUT_PROOF


@pytest.mark.parametrize(
    ("page", "query"), [("admin:audit-export", ""), ("admin:audit", "?export=csv"), ("admin:meter-import", "")]
)
def test_what_is_taken_away_and_forms_with_a_file_ask_before(stale: Client, page: str, query: str) -> None:
    address = reverse(page) + query
    answer = stale.get(address)
    assert (answer.status_code, answer["Location"]) == (302, f"/sign-in/confirm/?{urlencode({'next': address})}")
    assert not AuditRecord.objects.filter(act__in=["audit.export", "list.export"]).exists()
    confirmed = stale.post(answer["Location"], {"step_up_proof": "a long enough password"})
    assert confirmed["Location"] == address
    assert stale.get(address).status_code == 200


def test_keys_ask_through_everyday_doors_too(stale: Client) -> None:
    title = bytes(Meter.objects.order_by("pk")[0].system_title).hex()
    keys = DeviceKey.objects.count()
    commands = reverse("meter-commands", args=[title])
    for body in ({"kind": "set_key"}, {"kind": "set_key", "from": None}):
        assert is_asked(stale.post(commands, body, content_type="application/json")) or "from" in body
    add = reverse("admin:meters_meter_add")
    assert is_asked(stale.post(add, NEW_METER | {"first_keys": "random"}))
    assert DeviceKey.objects.count() == keys
    assert not Meter.objects.filter(serial_number="new").exists()
    assert stale.post(add, NEW_METER | {"first_keys": "later"}).status_code == 302


def test_what_was_filled_in_goes_on_with_the_proof(stale: Client) -> None:
    sent = NEW_METER | {"first_keys": "random"}
    add = reverse("admin:meters_meter_add")
    assert stale.post(add, sent | {"step_up_proof": "wrong"}).status_code == 403
    assert not Meter.objects.filter(serial_number="new").exists()
    assert stale.post(add, sent | {"step_up_proof": "a long enough password"}).status_code == 302
    assert DeviceKey.objects.filter(system_title=bytes.fromhex(NEW_METER["system_title_hex"])).exists()
