"""Every state of a key against everything that is done with it. No cell is left out."""

from datetime import timedelta
from pathlib import Path

import pytest
from django.utils import timezone
from pytest_django import Settings

from concentrators.models import Concentrator
from keyvault import master_key
from keyvault.audit.chain import Actor
from keyvault.device_keys import command_sealing, epochs, provisioning
from keyvault.device_keys.command_sealing import KeyCommand, PlainCommand
from keyvault.device_keys.key_rows import purpose_of
from keyvault.device_keys.provisioning import NewKey
from keyvault.device_keys.unwrapping import open_keys
from keyvault.master_key import rewrap
from keyvault.models import DeviceKey
from tests.concentrators.fleet import Device, commission, judged
from tests.factories import ConcentratorFactory

pytestmark = pytest.mark.django_db
ACTOR = Actor("tester", "test")


def key_row(device: Device, epoch: int) -> DeviceKey:
    return DeviceKey.objects.get(system_title=device.title, epoch=epoch)


class Subject:
    """A device brought into a state: ``under_test`` seals with the key that is in it, ``late`` was sealed before."""

    def __init__(self, concentrator: Concentrator, state: str) -> None:
        self.concentrator = concentrator
        (first,) = commission(1, concentrator)
        provisioning.provision_stored([NewKey(first.title, 0)])
        self.title = first.title
        epochs.begin([first.title])
        row = key_row(first, 2)
        second = Device(first.meter, open_keys([row.pk])[0].octets, 2)
        self.under_test = {"old": first, "active": first, "retiring": first, "retired": first}.get(state, second)
        self.late = self.under_test.frame(0)
        now = timezone.now()
        if state in ("old", "retiring", "retired", "compromised"):
            epochs.activate([row.pk], now)
        if state == "old":  # from before the keys that stand: its row is gone
            key_row(first, 1).delete()
        if state == "retired":
            assert epochs.retire_due(now + timedelta(days=46)) == 1
        if state == "compromised":
            epochs.compromise([row.pk], ACTOR)

    def uplink(self) -> dict[str, int]:
        """A new frame."""
        return judged(self.concentrator, [self.under_test.frame(1)])

    def late_uplink(self) -> list[dict[str, int]]:
        """A frame from before, twice."""
        first = judged(self.concentrator, [self.late])
        return [first, judged(self.concentrator, [self.late, self.late])]

    def sealed_under(self) -> set[int]:
        """The epochs that commands are sealed under now: a plain one, and one that brings the pending key."""
        commands: list[PlainCommand | KeyCommand] = [PlainCommand(1, self.title, (2, 1)), KeyCommand(2, self.title, 2)]
        return {int.from_bytes(one.kid[8:], "big") for one in command_sealing.seal(commands, timezone.now()).values()}


ACCEPTED, ONCE = {"accepted": 1}, [{"accepted": 1}, {"duplicate": 2}]


def refused(kind: str) -> list[dict[str, int]]:
    return [{kind: 1}, {kind: 2}]


# state: a new frame; a frame from before, and again; epochs that protect commands (0: the transfer key)
MATRIX = {
    "old": ({"unknown_epoch": 1}, refused("unknown_epoch"), {2}),
    "pending": (ACCEPTED, ONCE, {0, 1}),
    "active": (ACCEPTED, ONCE, {0, 1}),
    "retiring": (ACCEPTED, ONCE, {2}),
    "retired": ({"key_retired": 1}, refused("key_retired"), {2}),
    "compromised": ({"key_retired": 1}, refused("key_retired"), set()),
}


@pytest.fixture(params=MATRIX)
def subject(request: pytest.FixtureRequest) -> tuple[Subject, str]:
    return Subject(ConcentratorFactory.create(), request.param), request.param


def test_uplink(subject: tuple[Subject, str]) -> None:
    device, state = subject
    assert device.uplink() == MATRIX[state][0]


def test_late_uplink(subject: tuple[Subject, str]) -> None:
    device, state = subject
    assert device.late_uplink() == MATRIX[state][1]


def test_downlink(subject: tuple[Subject, str]) -> None:
    device, state = subject
    assert device.sealed_under() == MATRIX[state][2]


@pytest.mark.parametrize("state", MATRIX)
def test_rewrap(state: str, settings: Settings, tmp_path: Path) -> None:
    """A rotation of the master key moves the secrets of keys in every state, and no cell of the matrix."""
    settings.MASTER_KEY_FILE = tmp_path / "master.keys"
    master_key.provider().init()
    subject = Subject(ConcentratorFactory.create(), state)
    secrets = {row.pk: opened(row) for row in DeviceKey.objects.filter(system_title=subject.title)}
    rotation = rewrap.begin(None, ACTOR)
    while rewrap.rewrap_batch(rotation.pk):
        pass
    rows = list(DeviceKey.objects.filter(system_title=subject.title))
    assert {row.master_key_version for row in rows} == {rotation.to_version} == {2}
    assert {row.pk: opened(row) for row in rows} == secrets
    assert len(secrets) == (2 if state == "old" else 3)
    uplink, late, downlink_epochs = MATRIX[state]
    assert subject.sealed_under() == downlink_epochs
    assert subject.uplink() == uplink
    assert subject.late_uplink() == late


def opened(row: DeviceKey) -> bytes:
    """The octets of a stored key, in whichever state it is."""
    title, epoch = bytes(row.system_title), row.epoch
    return master_key.current().unwrap(bytes(row.wrapped or b""), purpose_of(epoch), title, epoch)
