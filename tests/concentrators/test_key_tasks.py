"""The scheduled work on keys and commands."""

from datetime import timedelta

import pytest
from django.utils import timezone

from concentrators import tasks
from concentrators.models import Command, Concentrator
from keyvault.device_keys import provisioning
from keyvault.device_keys.provisioning import NewKey
from keyvault.models import DeviceKey, InvocationCounter
from tests.concentrators.commands.test_downlink import read_now
from tests.concentrators.fleet import commission

pytestmark = pytest.mark.django_db


def test_commands_expire(concentrator: Concentrator) -> None:
    (device,) = commission(1, concentrator)
    (command,) = read_now(device)
    tasks.expire_commands()
    command.refresh_from_db()
    assert command.state == "queued"
    Command.objects.update(expires_at=timezone.now())
    tasks.expire_commands()
    command.refresh_from_db()
    assert (command.state, command.ended_at is not None) == ("expired", True)


def test_keys_retire(concentrator: Concentrator) -> None:
    (device,) = commission(1, concentrator)
    device.next_epoch(2)
    tasks.retire_keys()
    assert device.row().state == "retiring"
    DeviceKey.objects.filter(pk=device.row().pk).update(retiring_at=timezone.now() - timedelta(days=46))
    tasks.retire_keys()
    assert device.row().state == "retired"


def test_worn_keys_are_replaced(concentrator: Concentrator) -> None:
    (device,) = commission(1, concentrator)
    provisioning.provision_stored([NewKey(device.title, 0)])
    tasks.replace_worn_keys()
    assert not Command.objects.exists()
    InvocationCounter.objects.filter(key=device.row()).update(highest=2**23, floor=2**23)
    tasks.replace_worn_keys()
    assert Command.objects.get().parameters == {"epoch": 2}
