"""System titles of concentrators that hold keys, and these keys: provisioning, rotation, revocation.

A title belongs to a meter or a concentrator, never both. This module reports a conflict; triggers prevent races.
"""

from collections.abc import Collection, Mapping
from datetime import datetime

from django.db import IntegrityError, transaction

from concentrators.fleet import registry
from concentrators.models import Concentrator
from keyvault import journal
from keyvault.audit import chain
from keyvault.audit.chain import Actor
from keyvault.device_keys import command_sealing, epochs, provisioning
from keyvault.device_keys.command_sealing import KeyCommand
from keyvault.device_keys.key_rows import FIRST_EPOCH, TRANSFER_EPOCH
from keyvault.device_keys.provisioning import NewKey
from keyvault.models import DeviceKey, KeyState
from keyvault.schemes.table import CONCENTRATOR
from meters.models import Meter
from meters.registry.lookup import RegistryError


def of(concentrator: Concentrator) -> bytes:
    """Return the system title (8 octets) of a concentrator; RegistryError if it has none."""
    if concentrator.system_title is None:
        raise RegistryError(f"concentrator {concentrator} has no system title: give it one first")
    return bytes(concentrator.system_title)


def taken(titles: Collection[bytes]) -> dict[bytes, str]:
    """Return the titles that no concentrator can get, each with the reason; two queries.

    Keys of a concentrator may have been imported before its title; keys of a meter are for another scheme.
    """
    found = {}
    keys = DeviceKey.objects.filter(system_title__in=titles, epoch__gt=TRANSFER_EPOCH).exclude(scheme=CONCENTRATOR)
    for title, scheme in keys.values_list("system_title", "scheme"):
        found[bytes(title)] = f"has keys of scheme {scheme}: it is a meter's"
    for title, meter in Meter.objects.filter(system_title__in=titles).values_list("system_title", "serial_number"):
        found[bytes(title)] = f"is that of meter {meter}: a title is a meter's or a concentrator's, never both"
    return found


def misplaced(schemes: Mapping[bytes, str]) -> dict[bytes, str]:
    """Return the titles whose key (given by its scheme) is for another kind of device, each with the reason.

    A meter has no key of a concentrator, nor a concentrator one of a meter. Two queries.
    """
    reports = [title for title, scheme in schemes.items() if scheme == CONCENTRATOR]
    meters = Meter.objects.filter(system_title__in=reports).values_list("system_title", "serial_number")
    found = {
        bytes(title): f"is that of meter {meter}, which has no key of scheme {CONCENTRATOR}" for title, meter in meters
    }
    for title, name in Concentrator.objects.exclude(system_title=None).values_list("system_title", "name"):
        scheme = schemes.get(bytes(title or b""), CONCENTRATOR)
        if scheme != CONCENTRATOR:
            found[bytes(title or b"")] = f"is that of concentrator {name}, which has no key of scheme {scheme}"
    return found


def check(concentrator: Concentrator, title: bytes) -> None:
    """RegistryError if the title belongs to another device, or if the concentrator has keys under another title."""
    if concentrator.pk is not None:
        standing = Concentrator.objects.values_list("system_title", flat=True).get(pk=concentrator.pk)
        if standing is not None and bytes(standing) != title and has_keys(bytes(standing)):
            raise RegistryError(f"concentrator {concentrator} has keys under {bytes(standing).hex()}: its title stays")
    if other := Concentrator.objects.filter(system_title=title).exclude(pk=concentrator.pk).first():
        raise RegistryError(f"system title {title.hex()} is that of concentrator {other}")
    if reason := taken([title]).get(title):
        raise RegistryError(f"system title {title.hex()} {reason}")


def give(actor: Actor, concentrator: Concentrator, title: bytes) -> None:
    """Give a concentrator its system title (8 octets); audited and journaled.

    RegistryError if it cannot have that title; AuditError or MasterKeyError: it has none.
    """
    check(concentrator, title)
    before, concentrator.system_title = concentrator.system_title, title
    try:
        registry.save_as(actor, concentrator, ["system_title"])
    except IntegrityError:
        concentrator.system_title = before
        raise RegistryError(f"system title {title.hex()} was given to another meanwhile") from None


def has_keys(title: bytes) -> bool:
    """Whether there are keys under a title, of any epoch and state."""
    return DeviceKey.objects.filter(system_title=title).exists()


def make_keys(actor: Actor, concentrator: Concentrator, algorithm: int) -> None:
    """Provision random first keys of a concentrator: epoch 1, active, and the transfer key. Audited.

    RegistryError if it has no title, or already has keys; ProvisioningError if the algorithm does not fit.
    """
    title = of(concentrator)
    with transaction.atomic():
        if has_keys(title):
            raise RegistryError(f"concentrator {concentrator} has keys already: rotate gives it the next one")
        transfer = NewKey(title, TRANSFER_EPOCH, None, algorithm)
        provisioning.provision_stored([transfer, NewKey(title, FIRST_EPOCH, None, algorithm, CONCENTRATOR)])
        provisioning.record_provisioned(actor, [title], None)


def rotate(actor: Actor, concentrator: Concentrator) -> int:
    """Begin a concentrator's next key epoch, pending until its first frame; return the epoch. Audited.

    The concentrator fetches the new key itself (``next_key``). EpochError if it has no usable transfer key or no key.
    """
    title = of(concentrator)
    with transaction.atomic():
        (epoch,) = epochs.begin([title]).values()
        subject = {"concentrator": concentrator.name, "device": title.hex(), "epoch": epoch}
        chain.record(actor, "concentrator.rotate", subject, "begun")
    return epoch


def next_key(title: bytes, now: datetime) -> bytes | None:
    """Return the command (docs/frame.md section 10) with a concentrator's pending key; None if none is pending.

    It is sealed each time, under the transfer key and a new counter, which is committed before this returns. The number
    of the command is the epoch. Nothing is sent until a restored database has its journal replayed.
    """
    with transaction.atomic(durable=True):
        journal.check_open()
        pending = DeviceKey.objects.filter(system_title=title, state=KeyState.PENDING, scheme=CONCENTRATOR).first()
        if pending is None or not epochs.offered({title: pending.epoch}, now):
            return None
        sealed = command_sealing.seal([KeyCommand(pending.epoch, title, pending.epoch)], now)
    return sealed[pending.epoch].octets if sealed else None
