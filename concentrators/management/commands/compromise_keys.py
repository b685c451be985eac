"""manage.py compromise_keys: cut device keys off, at once and for good."""

from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.db.models import QuerySet
from django.utils import timezone

from ami_headend.core import eui64
from ami_headend.core.commands import DomainCommand
from ami_headend.core.eui64 import Eui64Error
from concentrators.commands import compromises, guard
from concentrators.fleet import concentrator_keys
from concentrators.fleet.selection import find_concentrator
from concentrators.models import WaveState
from keyvault.audit import chain
from keyvault.audit.chain import AuditError
from keyvault.device_keys import fleet_keys
from keyvault.device_keys.provisioning import ProvisioningError
from keyvault.master_key import MasterKeyError
from keyvault.models import DeviceKey, KeyState
from meters.registry.lookup import RegistryError


class Command(DomainCommand):
    help = (
        "Cut off keys that others may know: from now on every worker refuses their frames, late ones too, and no"
        " command is sealed with them. This cannot be undone; rotate_device_keys sends new keys."
    )
    examples = (
        "examples:\n"
        "  manage.py compromise_keys --device 0024befffe804ff1\n"
        "      every epoch of the device from 1 on; its transfer key still brings it the next one\n"
        "  manage.py compromise_keys --device 0024befffe804ff1 --epoch 0\n"
        "      its transfer key: the next one takes a shipment or a visit\n"
        "  manage.py compromise_keys --fleet-key spring-2026 --yes\n"
        "      every key that was derived from it, also transfer keys\n"
        "  manage.py compromise_keys --concentrator DCU-17\n"
        "      every epoch of the concentrator from 1 on; a wave gives all its meters new keys\n\n"
        "then: manage.py rotate_device_keys begin --name leak --compromised\n"
        "exit status: 0 done, and audited; 1 nothing was done; 2 cut off, and a wave is still to begin."
    )
    refusals = (AuditError, MasterKeyError, ProvisioningError, Eui64Error, RegistryError)
    nothing_done = ". Nothing was done."

    def add_arguments(self, parser: CommandParser) -> None:
        which = parser.add_mutually_exclusive_group(required=True)
        which.add_argument("--device", action="append", metavar="TITLE", help="system title; repeatable")
        which.add_argument("--fleet-key", metavar="NAME", help="all that is derived from that fleet key")
        which.add_argument("--concentrator", metavar="NAME", help="a concentrator that holds keys")
        parser.add_argument("--epoch", type=int, metavar="N", help="this epoch alone (with --device, --concentrator)")
        parser.add_argument("--yes", action="store_true", help="do not ask")

    def handle(self, *args: Any, **options: Any) -> None:
        keys = _keys(options)
        ids = list(keys.exclude(state=KeyState.COMPROMISED).order_by("pk").values_list("pk", flat=True))
        if not ids:
            raise CommandError("all of these keys are compromised already")
        if not options["yes"]:
            devices = keys.values("system_title").distinct().count()
            try:
                which = f"{_counted(len(ids), 'key')} of {_counted(devices, 'device')}"
                answer = input(f"Mark {which} as compromised, for good? Type yes: ")
            except EOFError:
                answer = ""
            if answer.strip() != "yes":
                raise CommandError("not confirmed: nothing was done")
        moved, waves, undone = compromises.cut_off(ids, chain.command_actor(), timezone.now())
        self.stdout.write(f"{_counted(moved, 'key')} marked as compromised.")
        for wave in waves:
            held = f" {guard.told(wave.approval)}." if wave.state == WaveState.HELD else ""
            began = "waits" if held else "began"
            self.stdout.write(f"Wave {wave.pk} {began}, {wave}: all meters of that concentrator get new keys.{held}")
        if undone:
            to_do = "Then: manage.py rotate_device_keys begin --name NAME --concentrator CONCENTRATOR"
            raise CommandError("\n  ".join(["Still to do:", *undone, to_do]), returncode=2)


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"


def _keys(options: dict[str, Any]) -> QuerySet[DeviceKey]:
    epoch = options["epoch"]
    if options["fleet_key"] is not None:
        if epoch is not None:
            raise CommandError("--epoch does not go with --fleet-key: all keys derived from it are compromised")
        return DeviceKey.objects.filter(fleet_key=fleet_keys.find(options["fleet_key"]))
    if options["concentrator"] is not None:
        devices = [concentrator_keys.of(find_concentrator(options["concentrator"]))]
    else:
        devices = [eui64.parse(text) for text in options["device"]]
    keys = DeviceKey.objects.filter(system_title__in=devices)
    keys = keys.filter(epoch__gt=0) if epoch is None else keys.filter(epoch=epoch)
    known = {bytes(title) for title in keys.values_list("system_title", flat=True)}
    for title in devices:
        if title not in known:
            raise CommandError(f"device {title.hex()} has no {'such key' if epoch is not None else 'key of its own'}")
    return keys
