"""Command 7: meters are told the system title of their concentrator, when they are assigned or it gets one."""

from datetime import datetime, timedelta
from pathlib import Path

import pytest
from django.test import Client
from django.utils import timezone

from concentrators.commands import concentrator_titles, downlink, operator, queue, rollouts
from concentrators.commands.operator import OperatorOrder
from concentrators.commands.queue import CommandRequest, DownlinkError
from concentrators.fleet import concentrator_keys
from concentrators.fleet.assignments import assign
from concentrators.fleet.selection import Selection
from concentrators.models import Command, CommandKind, CommandState, Concentrator
from keyvault.audit.chain import Actor
from keyvault.device_keys import command_sealing, provisioning
from keyvault.device_keys.command_sealing import PlainCommand
from keyvault.device_keys.provisioning import NewKey
from keyvault.models import DeviceKey, DownlinkCounter
from meters.models import MeterStatus
from tests.builders import KNOWN_KEY, KNOWN_TITLE
from tests.concentrators.fleet import Device, commission
from tests.concentrators.obedient import Receiver
from tests.concentrators.statements import counting
from tests.factories import ConcentratorFactory, MeterFactory
from tests.toy_schemes import toys

pytestmark = pytest.mark.django_db
TITLE, OTHER_TITLE = bytes.fromhex("0024befffe00c001"), bytes.fromhex("0024befffe00c002")
ACTOR = Actor("ann", "test")


@pytest.fixture
def home() -> Concentrator:
    return ConcentratorFactory.create(system_title=TITLE)


def told(device: Device) -> list[tuple[str, str]]:
    rows = Command.objects.filter(meter=device.meter, kind=CommandKind.SET_CONCENTRATOR).order_by("pk")
    return [(row.state, row.parameters["title"]) for row in rows]


def test_known_answer() -> None:
    device = Device(MeterFactory.create(system_title=KNOWN_TITLE), KNOWN_KEY)
    provisioning.provision_stored([NewKey(KNOWN_TITLE, 1, KNOWN_KEY)])
    DownlinkCounter.objects.create(key=DeviceKey.objects.get(), last=0x6955B90005)
    at = datetime.fromisoformat("2026-01-01T00:00:00Z")
    sealed = command_sealing.seal([PlainCommand(24, device.title, (7, 24, TITLE))], at)
    assert (octets := sealed[24].octets.hex()) in "".join(Path("docs/frame.md").read_text().split())
    assert octets == (
        "d08357a301181e044a0024befffe804ff1000106456955b90006a0581db3cb60deb893c7625f8fd9655f720c5391a2b8226d689f18a0c1fb716a"
    )


def test_a_meter_is_told_when_it_is_assigned(concentrator: Concentrator, home: Concentrator) -> None:
    (device,) = commission(1, None)
    assign([(device.meter.pk, concentrator.pk)], timezone.now() - timedelta(days=2))
    assert told(device) == []  # that one has no title
    assign([(device.meter.pk, home.pk)], timezone.now() - timedelta(days=1))
    assert told(device) == [("queued", TITLE.hex())]
    (offered,) = downlink.offer(home.pk, 10, timezone.now())
    assert Receiver(device, b"").open(offered.octets)[2] == [7, offered.number, TITLE]
    assign([(device.meter.pk, home.pk)], timezone.now())
    assert len(told(device)) == 1  # nothing changed


def test_none_leaves_before_the_assignment_holds_and_the_last_one_counts(home: Concentrator) -> None:
    (device,) = commission(1, None)
    other, now = ConcentratorFactory.create(system_title=OTHER_TITLE), timezone.now()
    assign([(device.meter.pk, home.pk)], now - timedelta(hours=1))
    assign([(device.meter.pk, other.pk)], now + timedelta(hours=1))
    assert told(device) == [("cancelled", TITLE.hex()), ("queued", OTHER_TITLE.hex())]
    assert downlink.offer(home.pk, 10, now + timedelta(minutes=50)) == []
    assert len(downlink.offer(other.pk, 10, now + timedelta(hours=1, seconds=1))) == 1


def test_all_are_told_a_title_that_is_new(concentrator: Concentrator) -> None:
    one, suspended = commission(2, concentrator)
    type(suspended.meter).objects.filter(pk=suspended.meter.pk).update(status=MeterStatus.SUSPENDED)
    concentrator_keys.give(ACTOR, concentrator, TITLE)
    concentrator_keys.give(ACTOR, concentrator, TITLE)
    assert (told(one), told(suspended)) == ([("queued", TITLE.hex())], [])
    concentrator_keys.give(ACTOR, concentrator, OTHER_TITLE)
    assert told(one) == [("cancelled", TITLE.hex()), ("queued", OTHER_TITLE.hex())]


def test_it_costs_the_same_for_any_number_of_meters(home: Concentrator) -> None:
    costs = []
    for size in (2, 40):
        homes = {device.meter.pk: home.pk for device in commission(size, None)}
        with counting() as statements:
            assert len(concentrator_titles.tell(homes, timezone.now(), timezone.now())) == size
        costs.append(len(statements))
    assert costs[0] == costs[1]


def test_a_wave_moves_to_hop_where_the_concentrator_can_open(concentrator: Concentrator, home: Concentrator) -> None:
    ready, waiting = *commission(1, home), *commission(1, concentrator)
    provisioning.provision_stored([NewKey(device.title, 0) for device in (ready, waiting)])
    wave = rollouts.begin("hop", Selection(everything=True), ACTOR, timezone.now(), 6000, 0, scheme="hop")
    assert rollouts.step(timezone.now()) == 1
    (pending,) = DeviceKey.objects.filter(state="pending")
    assert (bytes(pending.system_title), pending.scheme, pending.algorithm) == (ready.title, "hop", 10)
    assert (told(ready), told(waiting)) == ([("queued", TITLE.hex())], [])
    assert rollouts.progress(wave).meters == 1


def test_an_operator_tells_it_again(admin_client: Client, concentrator: Concentrator, home: Concentrator) -> None:
    (device,) = commission(1, home)
    url = f"/api/v1/meters/{device.title.hex()}/commands"
    (given,) = admin_client.post(url, {"kind": "set_concentrator"}, content_type="application/json").json()
    assert (given["kind"], given["parameters"]) == ("set_concentrator", {"title": TITLE.hex()})
    (elsewhere,) = commission(1, concentrator)
    with pytest.raises(DownlinkError, match="is not assigned to a concentrator with a system title"):
        operator.give(elsewhere.meter, OperatorOrder(CommandKind.SET_CONCENTRATOR), ACTOR, timezone.now())


def test_a_meter_without_aes_takes_no_command(home: Concentrator) -> None:
    (device,) = commission(1, home)
    with toys():
        DeviceKey.objects.filter(system_title=device.title).update(scheme="toy")
        assign([(device.meter.pk, home.pk)], timezone.now())
        for kind in (CommandKind.READ_NOW, CommandKind.SET_KEY):
            with pytest.raises(ValueError, match=r"takes no commands|has no transfer key"):
                operator.give(device.meter, OperatorOrder(kind), ACTOR, timezone.now())
        assert not Command.objects.exists()
        provisioning.provision_stored([NewKey(device.title, 0)])  # with a transfer key it has AES for commands
        queue.enqueue([CommandRequest(device.meter, CommandKind.READ_NOW, {})], "test", timezone.now())
    assert Command.objects.get().state == CommandState.QUEUED
