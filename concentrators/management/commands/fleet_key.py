"""manage.py fleet_key: the keys from which device keys are derived."""

from collections.abc import Callable
from typing import Any

from django.core.management.base import CommandParser
from django.utils import timezone

from ami_headend.core.commands import DomainCommand
from ami_headend.core.text import counted
from concentrators.commands import guard, rollouts
from concentrators.commands.rollouts import WaveError
from concentrators.fleet.selection import Selection
from keyvault.audit import chain
from keyvault.audit.chain import AuditError
from keyvault.device_keys import fleet_keys
from keyvault.device_keys.provisioning import ProvisioningError
from keyvault.master_key import MasterKeyError


class Command(DomainCommand):
    help = (
        "Make, list or replace fleet keys. To replace one, a new one is made, and a wave gives each meter whose key is "
        "derived from the old one a key that is derived from the new one."
    )
    examples = (
        "examples:\n"
        "  manage.py fleet_key make 2026\n"
        "  manage.py import_meters meters.csv --fleet-key 2026\n"
        "  manage.py fleet_key list\n"
        "  manage.py fleet_key rotate 2026 2027 --rate 2000 --dry-run\n"
        "  manage.py rotate_device_keys status\n\n"
        "exit status: 0 done; 1 it could not be done, and nothing was."
    )
    refusals = (ProvisioningError, WaveError, MasterKeyError, AuditError)

    def add_arguments(self, parser: CommandParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True, metavar="make|list|rotate")
        actions.add_parser("make", help="a new random fleet key, wrapped under the master key").add_argument("name")
        actions.add_parser("list", help="the fleet keys, and how many device keys are derived from each")
        rotate = actions.add_parser("rotate", help="make a new one, and begin the wave that replaces the old one")
        rotate.add_argument("old", help="name of the fleet key to replace")
        rotate.add_argument("new", help="name of the one to make")
        rotate.add_argument("--rate", type=int, default=1000, metavar="N", help="key commands queued an hour (1000)")
        rotate.add_argument(
            "--failure-budget", type=int, default=10, metavar="N", help="commands that may fail before it stops (10)"
        )
        rotate.add_argument("--dry-run", action="store_true", help="show how many meters would get a key, and stop")

    def handle(self, *args: Any, action: str, **options: Any) -> None:
        acts: dict[str, Callable[..., None]] = {"make": self._make, "list": self._list, "rotate": self._rotate}
        acts[action](**options)

    def _make(self, *, name: str, **options: Any) -> None:
        self.stdout.write(f"Made fleet key {fleet_keys.make(name, chain.command_actor())}.")

    def _list(self, **options: Any) -> None:
        standings = fleet_keys.standings()
        for row in standings:
            self.stdout.write(
                f"{row.fleet_key}: made {row.fleet_key.created_at:%Y-%m-%d}; meters that send under keys derived from"
                f" it: {row.active:,}; keys derived from it that are still accepted: {row.usable:,}"
            )
        if not standings:
            self.stdout.write("There is no fleet key yet.")

    def _rotate(self, *, old: str, new: str, rate: int, failure_budget: int, dry_run: bool, **options: Any) -> None:
        standing, now = fleet_keys.find(old), timezone.now()
        if dry_run:
            meters = counted(rollouts.selected(Selection(derived_from=standing), now).count(), "meter")
            self.stdout.write(f"{meters} would get a key derived from {new}.")
            return
        wave = rollouts.replace_fleet_key(standing, new, chain.command_actor(), now, rate, failure_budget)
        self.stdout.write(
            f"Made fleet key {new}; wave {wave.pk} ({wave.name}) {'has begun' if wave.approval is None else 'waits'}: "
            f"{counted(rollouts.progress(wave).meters, 'meter')}. {guard.told(wave.approval)}"
        )
