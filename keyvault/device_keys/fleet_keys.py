"""Fleet keys for their owner: make one, and list the device keys that are derived from each."""

from typing import NamedTuple

from django.db import transaction
from django.db.models import Count, Q

from keyvault.audit import chain
from keyvault.audit.chain import Actor
from keyvault.device_keys.provisioning import ProvisioningError, create_fleet_key
from keyvault.models import DeviceKey, FleetKey, KeyState

NAME_MAX = 100
_USABLE = (KeyState.PENDING, KeyState.ACTIVE, KeyState.RETIRING)


class FleetKeyUse(NamedTuple):
    """A fleet key, with the numbers of derived keys that are active, and that may still open frames."""

    fleet_key: FleetKey
    active: int
    usable: int


def make(name: str, actor: Actor) -> FleetKey:
    """Make a random fleet key, wrapped under the master key; audited.

    ProvisioningError for a bad name or one that is taken. After it, MasterKeyError or AuditError nothing was made.
    """
    if not name.strip() or len(name) > NAME_MAX or not name.isprintable():
        raise ProvisioningError(f"a fleet key has a name of up to {NAME_MAX} printable characters")
    with transaction.atomic():
        row = create_fleet_key(name)
        chain.record(actor, "fleet_key.make", {"fleet_key": row.pk, "name": name})
    return row


def find(name: str) -> FleetKey:
    """Return the fleet key of a name; ProvisioningError if there is none."""
    row = FleetKey.objects.filter(name=name).first()
    if row is None:
        raise ProvisioningError(f"there is no fleet key {name}")
    return row


def standings() -> list[FleetKeyUse]:
    """Return every fleet key with its use, the oldest first; two queries."""
    derived = DeviceKey.objects.filter(fleet_key__isnull=False, epoch__gt=0)
    counts = {
        row["fleet_key"]: row
        for row in derived.values("fleet_key").annotate(
            active=Count("pk", filter=Q(state=KeyState.ACTIVE)), usable=Count("pk", filter=Q(state__in=_USABLE))
        )
    }
    none = {"active": 0, "usable": 0}
    return [
        FleetKeyUse(row, counts.get(row.pk, none)["active"], counts.get(row.pk, none)["usable"])
        for row in FleetKey.objects.order_by("pk").defer("wrapped")
    ]
