"""System titles of concentrators that hold keys, and those keys: made, renewed and cut off.

A title is a meter's or a concentrator's, never both: triggers hold that against races; here it is said in a sentence.
"""

from collections.abc import Collection
from datetime import datetime

from django.db import IntegrityError, transaction

from concentrators.fleet import registry
from concentrators.models import Concentrator
from keyvault import journal
from keyvault.audit import chain
from keyvault.audit.chain import Actor
from keyvault.device_keys import command_sealing, epochs, provisioning
from keyvault.device_keys.command_sealing import KeyCommand
from keyvault.device_keys.provisioning import FIRST_EPOCH, TRANSFER_EPOCH, NewKey
from keyvault.models import DeviceKey, KeyState
from keyvault.schemes.table import CONCENTRATOR
from meters.models import Meter
from meters.registry.lookup import RegistryError


def of(concentrator: Concentrator) -> bytes:
    """The system title (8 octets) of a concentrator that has one; RegistryError where it has none."""
    if concentrator.system_title is None:
        raise RegistryError(f"concentrator {concentrator} has no system title: give it one first")
    return bytes(concentrator.system_title)


def taken(titles: Collection[bytes]) -> dict[bytes, str]:
    """Those of some titles that a concentrator cannot be given, each with the reason; two queries.

    Its keys may have come before it, with a shipment; those of a meter are of another scheme.
    """
    found = {}
    keys = DeviceKey.objects.filter(system_title__in=titles, epoch__gt=TRANSFER_EPOCH).exclude(scheme=CONCENTRATOR)
    for title, scheme in keys.values_list("system_title", "scheme"):
        found[bytes(title)] = f"has keys of scheme {scheme}: it is a meter's"
    for title, meter in Meter.objects.filter(system_title__in=titles).values_list("system_title", "serial_number"):
        found[bytes(title)] = f"is that of meter {meter}: a title is a meter's or a concentrator's, never both"
    return found


def check(concentrator: Concentrator, title: bytes) -> None:
    """RegistryError where a concentrator cannot have that title: it is another's, or its own keys are under another."""
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

    RegistryError where it cannot have that one; AuditError or MasterKeyError: it has none.
    """
    check(concentrator, title)
    before, concentrator.system_title = concentrator.system_title, title
    try:
        registry.save_as(actor, concentrator)
    except IntegrityError:
        concentrator.system_title = before
        raise RegistryError(f"system title {title.hex()} was given to another meanwhile") from None


def has_keys(title: bytes) -> bool:
    """Whether keys stand under a title, of any epoch and state."""
    return DeviceKey.objects.filter(system_title=title).exists()


def make_keys(actor: Actor, concentrator: Concentrator, algorithm: int) -> None:
    """Give a concentrator its first keys, random ones: epoch 1, active, and its transfer key. Audited.

    RegistryError where it has no title or keys already; ProvisioningError for an algorithm of no such key.
    """
    title = of(concentrator)
    with transaction.atomic():
        if has_keys(title):
            raise RegistryError(f"concentrator {concentrator} has keys already: rotate gives it the next one")
        transfer = NewKey(title, TRANSFER_EPOCH, None, algorithm)
        provisioning.provision_stored([transfer, NewKey(title, FIRST_EPOCH, None, algorithm, CONCENTRATOR)])
        provisioning.record_provisioned(actor, [title], None)


def rotate(actor: Actor, concentrator: Concentrator) -> int:
    """Begin a concentrator's next key epoch, pending until its first frame; gives the epoch. Audited.

    It fetches the new key itself (``next_key``). EpochError where it has no usable transfer key, or no key yet.
    """
    title = of(concentrator)
    with transaction.atomic():
        (epoch,) = epochs.begin([title]).values()
        subject = {"concentrator": concentrator.name, "device": title.hex(), "epoch": epoch}
        chain.record(actor, "concentrator.rotate", subject, "begun")
    return epoch


def next_key(title: bytes, now: datetime) -> bytes | None:
    """The command (docs/frame.md section 10) that brings a concentrator its pending key; None where none is pending.

    Sealed anew each time, under its transfer key and a new counter, which is committed before this returns: the
    octets may leave. Its number is the epoch. Nothing leaves before a restored database has its journal replayed.
    """
    with transaction.atomic(durable=True):
        journal.check_open()
        pending = DeviceKey.objects.filter(system_title=title, state=KeyState.PENDING, scheme=CONCENTRATOR).first()
        if pending is None or not epochs.offered({title: pending.epoch}, now):
            return None
        sealed = command_sealing.seal([KeyCommand(pending.epoch, title, pending.epoch)], now)
    return sealed[pending.epoch].octets if sealed else None
