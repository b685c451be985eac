"""REST of rotation waves: begun, watched and moved by operators with the rights."""

from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.utils import timezone

from concentrators.commands import rollouts
from concentrators.fleet.selection import Selection
from concentrators.models import Concentrator, RotationWave
from keyvault.audit.chain import Actor
from keyvault.device_keys import agreement_keys, provisioning
from keyvault.device_keys.provisioning import NewKey
from keyvault.models import AuditRecord, DeviceKey
from tests.concentrators.fleet import Device, commission
from tests.concentrators.statements import counting

pytestmark = pytest.mark.django_db
URL = "/api/v1/rotations"


@pytest.fixture
def devices(concentrator: Concentrator) -> list[Device]:
    devices = commission(3, concentrator)
    provisioning.provision_stored([NewKey(device.title, 0) for device in devices])
    return devices


def operator(*rights: str) -> Client:
    user = User.objects.create_user("operator" + "".join(rights))
    user.user_permissions.set(Permission.objects.filter(codename__in=rights))
    client = Client()
    client.force_login(user)
    return client


def send(client: Client, method: str, url: str, body: Any) -> Any:
    return getattr(client, method)(url, body, content_type="application/json")


def test_a_wave_moves_meters_to_another_scheme(devices: list[Device]) -> None:
    client = operator("view_rotationwave", "rotate_devicekey")
    body = {"name": "spring", "everything": True, "scheme": "mac"}
    for wrong in ({"scheme": "concentrator"}, {"algorithm": 10}):
        assert send(client, "post", URL, body | wrong).status_code == 400
    told = send(client, "post", URL, body).json()
    assert (told["scheme"], told["algorithm"]) == ("mac", None)
    rollouts.step(timezone.now())
    pending = DeviceKey.objects.filter(state="pending").values_list("scheme", "algorithm")
    assert list(pending) == [("mac", 5)] * 3


def test_of_several_agreement_keys_one_is_named(devices: list[Device]) -> None:
    client = operator("view_rotationwave", "rotate_devicekey")
    for name in ("hes-1", "hes-2"):
        agreement_keys.init(name, Actor("tester", "test"))
    body = {"name": "seal", "everything": True, "scheme": "sealed"}
    assert "none is named" in send(client, "post", URL, body).json()["detail"]
    assert send(client, "post", URL, body | {"agreement_key": "hes-2"}).json()["agreement_key"] == "hes-2"
    rollouts.step(timezone.now())
    assert set(DeviceKey.objects.filter(state="pending").values_list("agreement_key__name", flat=True)) == {"hes-2"}


def test_a_wave_is_begun_watched_and_moved(devices: list[Device], concentrator: Concentrator) -> None:
    client = operator("view_rotationwave", "rotate_devicekey")
    body = {"name": "spring", "concentrator": concentrator.name, "rate_per_hour": 60, "failure_budget": 2}
    response = send(client, "post", URL, body)
    assert response.status_code == 201
    wave = RotationWave.objects.get()
    told = response.json()
    assert (told["wave"], told["state"], told["meters"], told["waiting"]) == (wave.pk, "running", 3, 3)
    rollouts.step(timezone.now())
    one = client.get(f"{URL}/{wave.pk}").json()
    assert (one["waiting"], one["commands"]) == (2, {"queued": 1})
    assert client.get(URL).json() == [one]
    for action, state in (("pause", "paused"), ("resume", "running"), ("cancel", "cancelled")):
        assert send(client, "patch", f"{URL}/{wave.pk}", {"action": action}).json()["state"] == state
    records = AuditRecord.objects.order_by("number")
    assert [record.result for record in records] == ["begun", "paused", "running", "cancelled"]
    assert {(record.actor, record.source) for record in records} == {
        ("operatorview_rotationwaverotate_devicekey", "127.0.0.1")
    }


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"name": "x"},
        {"name": "x", "everything": True, "rate_per_hour": 0},
        {"name": "x", "meters": ["zz"]},
        {"name": "x", "meters": ["ffffffffffffffff"]},
        {"name": "x", "concentrator": "nobody"},
        {"name": "x", "everything": True, "algorithm": 30},
        {"name": "x", "older_than_days": -1},
    ],
)
def test_what_makes_no_sense_is_400_and_begins_nothing(devices: list[Device], body: dict[str, Any]) -> None:
    response = send(operator("rotate_devicekey"), "post", URL, body)
    assert response.status_code == 400
    assert response["Content-Type"] == "application/problem+json"
    assert not RotationWave.objects.exists()


def test_rights_are_separate(devices: list[Device]) -> None:
    wave = rollouts.begin("x", Selection(everything=True), Actor("tester", "test"), timezone.now(), 60, 0)
    reader = operator("view_rotationwave")
    assert reader.get(f"{URL}/{wave.pk}").status_code == 200
    assert send(reader, "post", URL, {"name": "x", "everything": True}).status_code == 403
    assert send(reader, "patch", f"{URL}/{wave.pk}", {"action": "cancel"}).status_code == 403
    assert operator().get(URL).status_code == 403
    assert Client().get(URL).status_code == 401


def test_moves_that_cannot_be(devices: list[Device]) -> None:
    client = operator("rotate_devicekey", "view_rotationwave")
    wave = rollouts.begin("x", Selection(everything=True), Actor("tester", "test"), timezone.now(), 60, 0)
    for body in ({"action": "resume"}, {"action": "stop"}, {}):
        assert send(client, "patch", f"{URL}/{wave.pk}", body).status_code == 400
    assert send(client, "patch", f"{URL}/{wave.pk + 1}", {"action": "pause"}).status_code == 404
    assert client.get(f"{URL}/{wave.pk + 1}").status_code == 404


def test_the_list_costs_the_same_for_any_number(devices: list[Device]) -> None:
    client = operator("view_rotationwave")
    costs = []
    for device in devices[:2]:
        rollouts.begin("x", Selection([device.title]), Actor("tester", "test"), timezone.now(), 60, 0)
        with counting() as statements:
            assert client.get(URL).status_code == 200
        costs.append(len(statements))
    assert costs[0] == costs[1]
