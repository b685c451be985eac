"""Fleet keys: made, listed, and replaced by a wave over the meters whose keys are derived from one."""

from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from concentrators.commands import downlink, rollouts
from concentrators.models import Command, Concentrator, RotationWave, WaveState
from keyvault.audit.chain import Actor
from keyvault.cose.kdf import derived_device_key
from keyvault.device_keys import provisioning
from keyvault.device_keys.provisioning import NewKey, create_fleet_key
from keyvault.device_keys.unwrapping import open_keys
from keyvault.models import AuditRecord, DeviceKey, FleetKey
from tests.concentrators.fleet import Device, commission, judged
from tests.concentrators.obedient import Receiver
from tests.factories import MeterFactory

pytestmark = pytest.mark.django_db
OLD, NEW = bytes(range(32)), "summer"


def run(*words: str) -> str:
    out = StringIO()
    call_command("fleet_key", *words, stdout=out, stderr=StringIO())
    return out.getvalue()


@pytest.fixture
def spring(db: None) -> FleetKey:
    return create_fleet_key("spring", OLD)


@pytest.fixture
def derived(concentrator: Concentrator, spring: FleetKey) -> Device:
    """A meter whose key is derived from a fleet key, beside one with a random key."""
    (device,) = commission(1, concentrator)
    DeviceKey.objects.filter(system_title=device.title).delete()
    provisioning.provision_derived(spring, [NewKey(device.title, epoch) for epoch in (0, 1)])
    device.key = derived_device_key(OLD, device.title, 1)
    provisioning.provision_devices([bytes(MeterFactory.create().system_title)])
    return device


def test_making_one_is_audited(db: None) -> None:
    assert run("make", "spring") == "Made fleet key spring.\n"
    assert AuditRecord.objects.get().act == "fleet_key.make"
    assert run("list").startswith("spring: made ")


def test_the_list_tells_what_hangs_on_each(derived: Device) -> None:
    assert "under keys derived from it: 1; keys derived from it that are still accepted: 1\n" in run("list")


def test_a_new_one_goes_to_the_devices_of_the_old_one_in_a_wave(concentrator: Concentrator, derived: Device) -> None:
    assert run("rotate", "spring", NEW, "--dry-run") == f"1 meter would get a key derived from {NEW}.\n"
    assert not RotationWave.objects.exists()
    assert f"Made fleet key {NEW}; wave" in run("rotate", "spring", NEW)
    now = timezone.now()
    assert rollouts.step(now) == 1
    (offer,) = downlink.offer(concentrator.pk, 10, now)
    renewed = Receiver.of(derived).renewed(offer.octets)
    (row,) = DeviceKey.objects.filter(system_title=derived.title, epoch=2)
    new = FleetKey.objects.get(name=NEW)
    assert (row.fleet_key, row.wrapped, open_keys([row.pk])[0].octets) == (new, None, renewed.key)
    assert renewed.key != derived_device_key(OLD, derived.title, 2)
    assert judged(concentrator, [renewed.frame(1), derived.frame(0)]) == {"accepted": 2}
    assert "under keys derived from it: 0; keys derived from it that are still accepted: 1\n" in run("list")
    assert rollouts.step(now) == 0
    assert RotationWave.objects.get().state == WaveState.FINISHED
    acts = list(AuditRecord.objects.order_by("number").values_list("act", flat=True))
    assert acts == ["fleet_key.make", "device_key.rotate"]


def test_a_wave_may_take_derived_keys_to_another_fleet_key_or_random_ones_to_one(
    concentrator: Concentrator, derived: Device
) -> None:
    out = StringIO()
    run("make", NEW)
    call_command(
        "rotate_device_keys", "begin", "--name", "x", "--derived-from", "spring", "--fleet-key", NEW, stdout=out
    )
    assert "1 meter" in out.getvalue()
    wave = RotationWave.objects.get()
    assert wave.fleet_key == FleetKey.objects.get(name=NEW)
    with pytest.raises(rollouts.WaveError):
        rollouts.replace_fleet_key(FleetKey.objects.get(name="spring"), "z", Actor("t", "t"), timezone.now(), 10, 1)
    assert not FleetKey.objects.filter(name="z").exists()


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["make", ""], "up to 100 printable characters"),
        (["make", "x" * 101], "up to 100 printable characters"),
        (["make", "spring"], "exists already"),
        (["rotate", "autumn", NEW], "there is no fleet key autumn"),
        (["rotate", "spring", NEW], "no meter that can get a new key now"),
    ],
)
def test_bad_input_is_said_and_nothing_made(spring: FleetKey, words: list[str], reason: str) -> None:
    with pytest.raises(CommandError, match=reason):
        run(*words)
    assert FleetKey.objects.count() == 1
    assert not RotationWave.objects.exists()


def test_a_taken_name_begins_no_wave(derived: Device) -> None:
    create_fleet_key(NEW)
    with pytest.raises(CommandError, match="exists already"):
        run("rotate", "spring", NEW)
    assert not RotationWave.objects.exists()
    assert not Command.objects.exists()
