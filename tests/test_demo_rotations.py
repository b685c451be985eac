"""The demo's rotations: one after the other, each kind in its turn, never two at once."""

from datetime import timedelta
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone
from pytest_django import Settings

from ami_headend.local import demo_rotations
from concentrators.commands import rollouts
from concentrators.commands.rotation_progress import Kind, Rotation, rotations
from concentrators.models import RotationWave, WaveState
from keyvault import master_key as masterkey
from keyvault.device_keys import provisioning
from keyvault.device_keys.provisioning import NewKey, create_fleet_key
from keyvault.master_key import rewrap
from keyvault.models import DeviceKey, KeyState, MasterKeyRotation
from keyvault.tasks import rewrap_master_key
from tests.concentrators.fleet import commission
from tests.factories import ConcentratorFactory

pytestmark = pytest.mark.django_db


@pytest.fixture
def enqueued(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rotations of the master key that were given to the queue."""
    ids: list[int] = []
    monkeypatch.setattr(rewrap_master_key, "delay", ids.append)
    return ids


@pytest.fixture(autouse=True)
def master_key(settings: Settings, tmp_path: Path) -> None:
    """A master key of the test's own: it gets further versions."""
    settings.MASTER_KEY_FILE = tmp_path / "master.keys"
    masterkey.provider().init()


@pytest.fixture
def fleet() -> None:
    """Meters with transfer keys, one of them with a derived key."""
    devices = commission(4, ConcentratorFactory.create())
    provisioning.provision_stored([NewKey(device.title, 0) for device in devices])
    DeviceKey.objects.filter(system_title=devices[0].title, epoch=1).delete()
    provisioning.provision_derived(create_fleet_key("first"), [NewKey(devices[0].title, 1)])


def end_waves() -> None:
    """All that goes on has ended, as far as waves and the master key are concerned."""
    for wave in RotationWave.objects.filter(state=WaveState.RUNNING):
        rollouts.cancel(wave.pk, demo_rotations.ACTOR, timezone.now())
    for rotation in MasterKeyRotation.objects.exclude(state="finished"):
        while rewrap.rewrap_batch(rotation.pk):
            pass


def test_each_kind_has_its_turn_and_never_two_at_once(fleet: None, enqueued: list[int]) -> None:
    now = timezone.now()
    begun = []
    for _ in range(4):
        begun.append(demo_rotations.begin_next(now))
        assert demo_rotations.begin_next(now) is None
        end_waves()
    assert [str(one).split(":")[0].split(" ")[0] for one in begun] == ["wave", "master", "wave", "wave"]
    assert enqueued == [MasterKeyRotation.objects.get().pk]
    assert [one.kind for one in sorted(rotations(9), key=lambda one: one.began_at)] == [
        Kind.DEVICE_KEYS,
        Kind.MASTER_KEY,
        Kind.FLEET_KEY,
        Kind.DEVICE_KEYS,
    ]
    assert DeviceKey.objects.filter(state=KeyState.COMPROMISED).count() == 2
    # The master key and compromises rest for a while; the others go on.
    assert "keys of" in str(demo_rotations.begin_next(timezone.now()))


def test_a_wave_that_does_not_end_is_waited_for_so_long(fleet: None, enqueued: list[int]) -> None:
    now = timezone.now()
    demo_rotations.begin_next(now)
    assert demo_rotations.begin_next(now + timedelta(minutes=14)) is None
    assert demo_rotations.begin_next(now + timedelta(minutes=16)) is not None


def test_where_nothing_can_be_rotated_nothing_begins(db: None, enqueued: list[int]) -> None:
    assert demo_rotations.begin_next(timezone.now()) is None
    provisioning.provision_stored([NewKey(bytes(8), 0)])  # no meter has it: there is the master key alone to rotate
    assert str(demo_rotations.begin_next(timezone.now())).startswith("master key")
    end_waves()
    assert demo_rotations.begin_next(timezone.now()) is None


def test_the_command_tells_what_it_begins(fleet: None) -> None:
    out = StringIO()
    call_command("demo_scenes", "--once", stdout=out)
    assert "begins wave" in out.getvalue()
    with pytest.raises(CommandError, match="--every must be"):
        call_command("demo_scenes", "--every", "0")


def test_rotations_tell_how_far_they_are(fleet: None, enqueued: list[int]) -> None:
    demo_rotations.begin_next(timezone.now())
    (one,) = rotations(5)
    assert isinstance(one, Rotation)
    assert (one.kind, one.state, one.done, one.total, one.is_going_on) == ("device keys", "running", 0, 4, True)
