"""Door to concentrators.fleet.meter_import."""

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import IntegrityError
from django.utils import timezone
from rich.console import Console
from rich.progress import Progress, TaskID

from ami_headend.core.tables import BadLine, FileError
from concentrators.commands.capture_period import IntervalError
from concentrators.fleet.assignments import AssignmentError
from concentrators.fleet.meter_import import KeyPolicy, import_meters
from keyvault.audit.chain import AuditError, command_actor
from keyvault.device_keys.provisioning import ProvisioningError
from keyvault.master_key import MasterKeyError
from keyvault.models import FleetKey
from meters.registry.meter_file import read_meter_file

BAD_LINES_SHOWN = 50


class Command(BaseCommand):
    help = """Import meters from a CSV file, plain or gzip: all lines, or none.

UTF-8, or UTF-16 with a byte order mark; commas, semicolons or tabs between the columns. The first line
names them: system_title (16 hex digits, with or without dashes, colons or dots) and serial_number; where
wanted also name, place, and of that place address, customer_reference, latitude and longitude (degrees,
WGS 84); interval_minutes (default 30), algorithm (default AES-CCM-16-64-128), status (commissioned,
suspended), commissioned_at (a date, or date and time with zone; default now), concentrator (its name).
Lines that say what stands already change nothing, so that a file may be imported again.

Each new meter gets a random key (epoch 1) and transfer key (epoch 0), unless told otherwise.

Examples:
  manage.py import_meters meters.csv --dry-run
  manage.py import_meters meters.csv.gz --no-keys        # keys come with a shipment
  manage.py import_meters meters.csv --fleet-key 2026    # keys derived from that fleet key
  manage.py import_meters moved.csv --update             # change name, place, address, interval, status ...
"""

    def create_parser(self, *args: Any, **kwargs: Any) -> Any:
        return super().create_parser(*args, formatter_class=RawDescriptionHelpFormatter, **kwargs)

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", type=Path)
        parser.add_argument("--dry-run", action="store_true", help="check everything, change nothing")
        parser.add_argument("--update", action="store_true", help="change meters that are registered otherwise")
        keys = parser.add_mutually_exclusive_group()
        keys.add_argument("--fleet-key", metavar="NAME", help="derive keys from this fleet key")
        keys.add_argument("--no-keys", action="store_true", help="make no keys")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            file = read_meter_file(options["file"])
            policy = KeyPolicy(make=not options["no_keys"], fleet_key=_fleet_key(options["fleet_key"]))
            with Progress(console=Console(stderr=True), transient=True) as bars:
                steps: dict[str, TaskID] = {}

                def progress(step: str, count: int) -> None:
                    if step not in steps:
                        steps[step] = bars.add_task(step, total=len(file.lines))
                    bars.advance(steps[step], count)

                dry_run = options["dry_run"] or bool(file.bad)
                report = import_meters(
                    file.lines,
                    timezone.now(),
                    policy,
                    command_actor(),
                    update=options["update"],
                    dry_run=dry_run,
                    progress=progress,
                )
        except (FileError, MasterKeyError, AuditError, ProvisioningError, AssignmentError, IntervalError) as error:
            raise CommandError(f"{error}. Nothing was imported.") from None
        except IntegrityError as error:
            raise CommandError(f"The registry changed meanwhile: {error}. Nothing was imported.") from None
        self._refuse(sorted([*file.bad, *report.bad]))
        self.stdout.write(
            f"{'Would import' if dry_run else 'Imported'}: {report.new} new, {report.changed} changed, "
            f"{report.unchanged} unchanged; {report.assigned} assigned to a concentrator; {report.keyed} given keys."
        )

    def _refuse(self, bad: list[BadLine]) -> None:
        for line, reason in bad[:BAD_LINES_SHOWN]:
            self.stderr.write(f"line {line}: {reason}")
        if len(bad) > BAD_LINES_SHOWN:
            self.stderr.write(f"and {len(bad) - BAD_LINES_SHOWN} more")
        if bad:
            raise CommandError(f"{len(bad)} bad lines: nothing was imported.")


def _fleet_key(name: str | None) -> FleetKey | None:
    if name is None:
        return None
    fleet_key = FleetKey.objects.filter(name=name).first()
    if fleet_key is None:
        raise CommandError(f"there is no fleet key {name}. Nothing was imported.")
    return fleet_key
