"""The HTTP doors of commands: what concentrators fetch and acknowledge, what operators give and see."""

import base64
from datetime import timedelta
from pathlib import Path
from typing import Any

import cbor2
import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.utils import timezone
from pytest_django import Settings

from concentrators.commands import queue
from concentrators.commands.queue import CommandRequest
from concentrators.fleet import tokens
from concentrators.models import Command, CommandKind, Concentrator, RotationWave
from keyvault.device_keys import provisioning
from keyvault.device_keys.provisioning import NewKey
from keyvault.models import AuditRecord, DeviceKey, DownlinkCounter, FleetKey
from tests.concentrators.fleet import START, Device, commission
from tests.concentrators.obedient import Receiver

pytestmark = pytest.mark.django_db


@pytest.fixture
def device(concentrator: Concentrator) -> Device:
    (device,) = commission(1, concentrator)
    provisioning.provision_stored([NewKey(device.title, 0)])
    return device


@pytest.fixture
def command(device: Device) -> Command:
    return queue.enqueue([CommandRequest(device.meter, CommandKind.READ_NOW, {})], "tester", timezone.now())[0]


def bearer(concentrator: Concentrator) -> dict[str, str]:
    return {"Authorization": f"Bearer {tokens.issue(concentrator)}"}


def post_receipt(concentrator: Concentrator, number: int, body: Any) -> Any:
    url = f"/api/v1/commands/{number}/receipt"
    return Client().post(url, body, content_type="application/json", headers=bearer(concentrator))


def assert_problem(response: Any, status: int, text: str = "") -> None:
    assert response.status_code == status
    assert response["Content-Type"] == "application/problem+json"
    assert text in response.content.decode()


class TestConcentrators:
    def test_fetching_and_acknowledging(self, concentrator: Concentrator, device: Device, command: Command) -> None:
        response = Client().get("/api/v1/commands", headers=bearer(concentrator))
        assert response.status_code == 200
        assert response["Content-Type"] == "application/cbor-seq"
        number, title, octets = cbor2.loads(response.content)
        assert (number, title) == (command.pk, device.title)
        assert Receiver.of(device).open(octets)[2] == [2, number]
        again = Client().get("/api/v1/commands?limit=5", headers={**bearer(concentrator), "Accept": "*/*"})
        assert (again.status_code, again.content) == (200, b"")
        assert post_receipt(concentrator, number, {"result": "delivered"}).status_code == 204
        command.refresh_from_db()
        assert command.state == "delivered"
        assert post_receipt(concentrator, number, {"result": "failed"}).status_code == 204

    def test_receipts_of_others_are_404(
        self, concentrator: Concentrator, other_concentrator: Concentrator, command: Command
    ) -> None:
        Client().get("/api/v1/commands", headers=bearer(concentrator))
        assert_problem(post_receipt(other_concentrator, command.pk, {"result": "delivered"}), 404)
        assert_problem(post_receipt(concentrator, command.pk + 1, {"result": "delivered"}), 404)

    @pytest.mark.parametrize("body", [{}, {"result": "done"}, [], "x"])
    def test_a_receipt_in_no_form_is_400(self, concentrator: Concentrator, command: Command, body: Any) -> None:
        assert_problem(post_receipt(concentrator, command.pk, body), 400)

    @pytest.mark.parametrize("limit", ["0", "101", "x", ""])
    def test_limits(self, concentrator: Concentrator, limit: str) -> None:
        response = Client().get(f"/api/v1/commands?limit={limit}", headers=bearer(concentrator))
        assert_problem(response, 400, "limit")

    def test_nobody_without_a_token(self, command: Command, admin_client: Client) -> None:
        for client in (Client(), admin_client):
            assert client.get("/api/v1/commands").status_code == 401
            assert client.post(f"/api/v1/commands/{command.pk}/receipt").status_code in (401, 403)

    def test_too_many_looks_are_429(self, concentrator: Concentrator, settings: Settings) -> None:
        settings.COMMAND_RATE = "2/hour"
        headers = bearer(concentrator)
        answers = [Client().get("/api/v1/commands", headers=headers) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 429]
        assert int(answers[2]["Retry-After"]) > 0


def test_a_fleet_key_that_does_not_open_is_no_fault_of_the_caller(device: Device) -> None:
    fleet_key = provisioning.create_fleet_key("changed")
    DeviceKey.objects.filter(pk=device.row().pk).update(
        source="derived", fleet_key=fleet_key, wrapped=None, master_key_version=None
    )
    FleetKey.objects.update(wrapped=b"changed")
    assert_problem(Operator("add_command", "rotate_devicekey").give(device, kind="set_key"), 503)
    assert not Command.objects.exists()


def test_without_the_master_key_nothing_is_done_and_that_is_said(
    concentrator: Concentrator, device: Device, command: Command, settings: Settings, tmp_path: Path
) -> None:
    headers = bearer(concentrator)
    settings.MASTER_KEY_FILE = tmp_path / "gone"
    operator = Operator("add_command", "rotate_devicekey")
    rotator = User.objects.create_user("rotator")
    rotator.user_permissions.add(Permission.objects.get(codename="rotate_devicekey"))
    client = Client()
    client.force_login(rotator)
    for response in (
        Client().get("/api/v1/commands", headers=headers),
        operator.give(device, kind="read_now"),
        operator.give(device, kind="set_key"),
        client.post("/api/v1/rotations", {"name": "x", "everything": True}, content_type="application/json"),
    ):
        assert_problem(response, 503)
        assert response["Retry-After"] == "60"
    command.refresh_from_db()
    assert (command.state, command.attempts, Command.objects.count()) == ("queued", 0, 1)
    assert not RotationWave.objects.exists()
    assert not DownlinkCounter.objects.exists()


class Operator:
    """A user with some permissions, by HTTP."""

    def __init__(self, *permissions: str) -> None:
        user = User.objects.create_user("operator", password="secret")
        user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
        credentials = base64.b64encode(b"operator:secret").decode()
        self.headers = {"Authorization": f"Basic {credentials}"}

    def give(self, device: Device, **body: Any) -> Any:
        url = f"/api/v1/meters/{device.title.hex()}/commands"
        return Client().post(url, body, content_type="application/json", headers=self.headers)

    def cancel(self, device: Device, number: int) -> Any:
        return Client().delete(f"/api/v1/meters/{device.title.hex()}/commands/{number}", headers=self.headers)

    def see(self, device: Device) -> Any:
        return Client().get(f"/api/v1/meters/{device.title.hex()}/commands", headers=self.headers)


class TestOperators:
    @pytest.mark.parametrize("kind", ["read_now", "set_clock"])
    def test_giving_a_command(self, device: Device, kind: str) -> None:
        operator = Operator("add_command", "view_command")
        response = operator.give(device, kind=kind)
        assert response.status_code == 201
        (row,) = response.json()
        assert (row["kind"], row["state"], row["created_by"], row["attempts"]) == (kind, "queued", "operator", 0)
        assert operator.see(device).json() == [row]
        record = AuditRecord.objects.get()
        assert (record.act, record.actor, record.source) == (f"command.{kind}", "operator", "127.0.0.1")
        assert record.subject == {"device": device.title.hex(), "commands": [row["number"]]}

    def test_resends_follow_the_gap_report(self, device: Device) -> None:
        device.meter.commissioned_at = START
        device.meter.save()
        times = {"from": START.isoformat(), "to": (START + timedelta(hours=2)).isoformat()}
        response = Operator("add_command").give(device, kind="resend", **times)
        assert [row["parameters"] for row in response.json()] == [
            {"from_s": int(START.timestamp()), "to_s": int(START.timestamp()) + 7200}
        ]

    def test_keys_need_a_right_of_their_own(self, device: Device) -> None:
        operator = Operator("add_command")
        assert_problem(operator.give(device, kind="set_key"), 403, "may not change keys")
        assert not Command.objects.exists()
        User.objects.get().user_permissions.add(Permission.objects.get(codename="rotate_devicekey"))
        response = operator.give(device, kind="set_key")
        assert response.status_code == 201
        assert response.json()[0]["parameters"] == {"epoch": 2}

    def test_a_new_key_may_be_of_another_scheme(self, device: Device) -> None:
        operator = Operator("add_command", "rotate_devicekey")
        for wrong, says in (
            ({"scheme": "rot13"}, "scheme: "),
            ({"scheme": "concentrator"}, "is not a valid choice"),
            ({"scheme": "mac", "algorithm": 10}, "scheme mac has no keys for"),
            ({"scheme": "sealed"}, "there is no agreement key"),
            ({"scheme": "sealed", "agreement_key": "hes-9"}, "no agreement key hes-9"),
            ({"scheme": "hop"}, "not assigned to a concentrator with a system title"),
            ({"interval_minutes": 15}, "set_key optionally scheme"),
        ):
            assert_problem(operator.give(device, kind="set_key", **wrong), 400, says)
        assert not Command.objects.exists()
        assert operator.give(device, kind="set_key", scheme="session", algorithm=11).status_code == 201
        pending = DeviceKey.objects.get(state="pending")
        assert (pending.scheme, pending.algorithm) == ("session", 11)
        assert_problem(operator.give(device, kind="read_now", scheme="session"), 400)

    def test_another_interval_length(self, device: Device) -> None:
        response = Operator("add_command").give(
            device, kind="set_interval", interval_minutes=15, **{"from": "2036-01-01T00:00:00Z"}
        )
        assert response.status_code == 201
        assert response.json()[0]["parameters"] == {"interval_minutes": 15, "from_s": 2082758400}
        assert AuditRecord.objects.latest("number").act == "command.set_interval"

    @pytest.mark.parametrize(
        "body",
        [
            {},
            {"kind": "disconnect"},
            {"kind": "set_interval"},
            {"kind": "set_interval", "interval_minutes": 0},
            {"kind": "set_interval", "interval_minutes": 30},
            {"kind": "set_interval", "interval_minutes": 15, "to": "2036-01-01T00:00:00Z"},
            {"kind": "set_interval", "interval_minutes": 15, "from": "2020-01-01T00:00:00Z"},
            {"kind": "set_interval", "interval_minutes": 15, "from": "9999-12-31T23:59:59Z"},
            {"kind": "read_now", "interval_minutes": 15},
            {"kind": "resend"},
            {"kind": "resend", "from": "2026-01-01T00:00:00Z"},
            {"kind": "resend", "from": "x", "to": "2026-01-01T00:00:00Z"},
            {"kind": "read_now", "from": "2026-01-01T00:00:00Z", "to": "2026-01-02T00:00:00Z"},
            {"kind": "resend", "from": START.isoformat(), "to": START.isoformat(), "register": "1-0:1.8.0"},
        ],
    )
    def test_bad_commands_are_400(self, device: Device, body: dict[str, str]) -> None:
        assert_problem(Operator("add_command").give(device, **body), 400)
        assert not Command.objects.exists()

    def test_what_nobody_has_fetched_can_be_cancelled(self, concentrator: Concentrator, device: Device) -> None:
        operator = Operator("add_command", "delete_command", "rotate_devicekey")
        number = operator.give(device, kind="set_key").json()[0]["number"]
        assert operator.cancel(device, number).status_code == 204
        assert Command.objects.get().state == "cancelled"
        assert not DeviceKey.objects.filter(state="pending").exists()
        assert AuditRecord.objects.latest("number").act == "command.cancel"
        assert_problem(operator.cancel(device, number), 409)
        fetched = operator.give(device, kind="read_now").json()[0]["number"]
        Client().get("/api/v1/commands", headers=bearer(concentrator))
        assert_problem(operator.cancel(device, fetched), 409)
        assert_problem(operator.cancel(device, fetched + 1), 404)
        (other,) = commission(1, concentrator)
        assert_problem(operator.cancel(other, fetched), 404)

    def test_cancelling_needs_rights(self, device: Device, command: Command) -> None:
        operator = Operator("add_command", "view_command")
        assert_problem(operator.cancel(device, command.pk), 403)
        User.objects.get().user_permissions.add(Permission.objects.get(codename="delete_command"))
        (key_command,) = queue.enqueue_keys([device.meter], "tester", timezone.now())
        assert_problem(operator.cancel(device, key_command.pk), 403, "may not change keys")
        assert operator.cancel(device, command.pk).status_code == 204

    def test_rights(self, device: Device) -> None:
        operator = Operator()
        assert_problem(operator.give(device, kind="read_now"), 403)
        assert_problem(operator.see(device), 403)
        assert_problem(Client().get(f"/api/v1/meters/{device.title.hex()}/commands"), 401)

    def test_a_meter_that_is_not_there(self, device: Device) -> None:
        operator = Operator("add_command", "view_command")
        device.meter.system_title = b"\xff" * 8
        assert_problem(operator.see(device), 404)
        assert_problem(operator.give(device, kind="read_now"), 404)

    def test_no_transfer_key_is_said(self, concentrator: Concentrator) -> None:
        (bare,) = commission(1, concentrator)
        response = Operator("add_command", "rotate_devicekey").give(bare, kind="set_key")
        assert_problem(response, 400, "no transfer key")
