"""manage.py rotate_device_keys: new device keys in waves."""

from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils import timezone

from ami_headend.core.commands import DomainCommand
from ami_headend.core.text import counted
from concentrators.commands import guard, operator, rollouts
from concentrators.commands.operator import OperatorOrder
from concentrators.commands.queue import DownlinkError
from concentrators.commands.rollouts import WaveError
from concentrators.management import choosing
from concentrators.models import CommandKind, CommandState, RotationWave
from keyvault.audit import chain
from keyvault.audit.chain import AuditError
from keyvault.device_keys import agreement_keys, fleet_keys
from keyvault.device_keys.epochs import EpochError
from keyvault.device_keys.provisioning import ProvisioningError
from keyvault.master_key import MasterKeyError
from keyvault.schemes.table import SchemeError
from meters.registry.lookup import RegistryError, look_up

_LISTED = 20


class Command(DomainCommand):
    help = (
        "Give meters new device keys: begin a wave for a selection of meters, show its progress, pause, resume or "
        "cancel it. Workers and the schedule (celery beat) carry it out."
    )
    examples = (
        "examples:\n"
        "  manage.py rotate_device_keys begin --name spring --older-than 365 --rate 2000 --dry-run\n"
        "  manage.py rotate_device_keys begin --name DCU-17 --concentrator DCU-17 --failure-budget 5\n"
        "  manage.py rotate_device_keys begin --name leak --compromised --rate 100000\n"
        "  manage.py rotate_device_keys begin --name one --meter 0024befffe804ff1\n"
        "  manage.py rotate_device_keys begin --name sessions --all --scheme session --rate 500\n"
        "  manage.py rotate_device_keys begin --name seal --all --scheme sealed --agreement-key hes-1\n"
        "  manage.py rotate_device_keys one --meter 0024befffe804ff1 --scheme session      at once, without a wave\n"
        "  manage.py rotate_device_keys status\n"
        "  manage.py rotate_device_keys resume --wave 3 --failure-budget 40\n\n"
        "exit status: 0 done; 1 it could not be done, and nothing was."
    )
    refusals = (
        WaveError,
        RegistryError,
        DownlinkError,
        EpochError,
        SchemeError,
        ProvisioningError,
        AuditError,
        MasterKeyError,
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("action", choices=["begin", "one", "status", "pause", "resume", "cancel"])
        parser.add_argument("--wave", type=int, metavar="N", help="number of the wave, from status")
        chosen = parser.add_argument_group("which meters (begin; a meter must meet all given criteria)")
        choosing.add_arguments(chosen)
        chosen.add_argument("--older-than", type=int, metavar="DAYS", help="keys that have been active for this long")
        chosen.add_argument("--compromised", action="store_true", help="meters whose newest key is compromised")
        chosen.add_argument("--derived-from", metavar="NAME", help="keys derived from that fleet key")
        chosen.add_argument(
            "--agreed-with", metavar="NAME:VERSION", help="keys that go with that version of an agreement key"
        )
        how = parser.add_argument_group("how (begin)")
        how.add_argument("--name", default="", help="name of the wave")
        how.add_argument("--rate", type=int, default=1000, metavar="N", help="key commands queued an hour (1000)")
        how.add_argument(
            "--failure-budget", type=int, metavar="N", help="commands that may fail before the wave stops (10)"
        )
        how.add_argument("--algorithm", type=int, metavar="ALG", help="COSE alg of the new keys (unchanged)")
        how.add_argument("--scheme", metavar="NAME", help="move the meters to this scheme (unchanged)")
        how.add_argument("--fleet-key", metavar="NAME", help="derive the new keys from it (source of the old keys)")
        how.add_argument("--agreement-key", metavar="NAME", help="for keys that are agreed on, and for scheme sealed")
        how.add_argument("--dry-run", action="store_true", help="show how many meters would get a key, and stop")

    def handle(self, *args: Any, action: str, **options: Any) -> None:
        if action == "begin":
            self._begin(options)
        elif action == "one":
            self._one(options)
        elif action == "status":
            self._status(options["wave"])
        else:
            self._move(action, options)

    def _begin(self, options: dict[str, Any]) -> None:
        now = timezone.now()
        derived_from = None if options["derived_from"] is None else fleet_keys.find(options["derived_from"])
        more = {"older_than_days": options["older_than"], "compromised": options["compromised"]}
        agreed_with = None if options["agreed_with"] is None else agreement_keys.find_text(options["agreed_with"])
        selection = choosing.selection(options, derived_from=derived_from, agreed_with=agreed_with, **more)
        if options["dry_run"]:
            number = rollouts.selected(selection, now).count()
            held = guard.forecast(chain.command_actor(), CommandKind.SET_KEY, number, now)
            self.stdout.write(
                f"{counted(number, 'meter')} would get a new key."
                + (f" The wave would wait for a second person: {held}." if held else "")
            )
            return
        budget = 10 if options["failure_budget"] is None else options["failure_budget"]
        fleet_key = None if options["fleet_key"] is None else fleet_keys.find(options["fleet_key"])
        wave = rollouts.begin(
            options["name"],
            selection,
            chain.command_actor(),
            now,
            options["rate"],
            budget,
            options["algorithm"],
            fleet_key,
            options["scheme"],
            options["agreement_key"],
        )
        meters = counted(rollouts.progress(wave).meters, "meter")
        if wave.approval is not None:
            self.stdout.write(f"Wave {wave.pk} ({wave.name}) waits: {meters}. {guard.told(wave.approval)}.")
        else:
            self.stdout.write(f"Wave {wave.pk} ({wave.name}) has begun: {meters}.")

    def _one(self, options: dict[str, Any]) -> None:
        named = options["meter"] or []
        if len(named) != 1:
            raise CommandError("name one meter: rotate_device_keys one --meter TITLE. For more, begin a wave.")
        meter, now = look_up(named[0]), timezone.now()
        order = OperatorOrder(
            CommandKind.SET_KEY,
            scheme=options["scheme"],
            algorithm=options["algorithm"],
            agreement_key=options["agreement_key"],
        )
        (command,) = operator.give(meter, order, chain.command_actor(), now)
        if command.state == CommandState.HELD:
            self.stdout.write(f"Command {command.pk} to meter {meter} waits. {guard.told(command.approval)}.")
            return
        self.stdout.write(f"Command {command.pk} brings meter {meter} its key of epoch {command.parameters['epoch']}.")

    def _status(self, wave_id: int | None) -> None:
        found = RotationWave.objects.order_by("-pk")
        if wave_id is not None:
            found = found.filter(pk=wave_id)
            if not found:
                raise CommandError(f"there is no rotation wave {wave_id}")
        for wave in found[:_LISTED]:
            standing = rollouts.progress(wave)
            states = ", ".join(f"{number} {state}" for state, number in sorted(standing.states.items()))
            self.stdout.write(
                f"{wave.pk} {wave.name}: {wave.state}; {counted(standing.meters, 'meter')}, {standing.waiting} waiting"
                f"{', ' + states if states else ''}; {wave.rate_per_hour} an hour,"
                f" {standing.failures} of {counted(wave.failure_budget, 'failure')}"
            )
        if not found:
            self.stdout.write("There is no wave yet.")

    def _move(self, action: str, options: dict[str, Any]) -> None:
        wave_id = options["wave"]
        if wave_id is None:
            raise CommandError(f"name the wave: manage.py rotate_device_keys {action} --wave N")
        actor = chain.command_actor()
        if action == "pause":
            wave = rollouts.pause(wave_id, actor)
        elif action == "resume":
            wave = rollouts.resume(wave_id, actor, options["failure_budget"])
        else:
            wave = rollouts.cancel(wave_id, actor, timezone.now())
        self.stdout.write(f"Wave {wave.pk} is {wave.state}.")
