"""Door to concentrators.fleet.meter_import."""

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError
from django.db import IntegrityError
from django.utils import timezone

from ami_headend.core.commands import DomainCommand, bars
from ami_headend.core.text import counted
from concentrators.fleet.first_keys import KeyPolicy
from concentrators.fleet.meter_import import REFUSALS, import_file
from keyvault.audit.chain import command_actor
from keyvault.device_keys import fleet_keys
from keyvault.models import FleetKey


class Command(DomainCommand):
    help = """Import meters from a CSV file, plain or gzip: all lines, or none.

UTF-8, or UTF-16 with a byte order mark; commas, semicolons or tabs between the columns. The first line
names them: system_title (16 hex digits, with or without dashes, colons or dots) and serial_number; where
wanted also name, place, and of that place address, customer_reference, latitude and longitude (degrees,
WGS 84); interval_minutes (default 30), scheme (how the meter protects its readings, default ccm), algorithm
(default the scheme's usual one, AES-CCM-16-64-128 in ccm), status (commissioned, suspended), commissioned_at
(a date, or date and time with zone; default now), concentrator (its name), public_key (the meter's X25519
public key, 64 hex digits) or keys ("by certificate"), mask_group (of the mask authorities that the meter was
made with); groups and tags of the meter, place_groups and place_tags of its place: several with | between
them, a group as kind:name (district:North), a tag as a word. They are added, and made where they are new;
manage.py group takes out.
Lines that equal the registry change nothing, so that a file may be imported again.

Each new meter gets a random key (epoch 1) and transfer key (epoch 0), unless told otherwise.
With a public_key both are agreed on with the active version of the head-end's agreement key: nothing secret is
sent to the meter. A meter whose keys are "by certificate" gets none: it may enrol, once (manage.py authority).

Examples:
  manage.py import_meters meters.csv --dry-run
  manage.py import_meters meters.csv.gz --no-keys        # keys come with a shipment
  manage.py import_meters meters.csv --fleet-key 2026    # keys derived from that fleet key
  manage.py import_meters moved.csv --update             # change name, place, address, interval, status ...
"""
    refusals = REFUSALS
    nothing_done = ". Nothing was imported."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", type=Path)
        parser.add_argument("--dry-run", action="store_true", help="check everything, change nothing")
        parser.add_argument("--update", action="store_true", help="change registered meters that differ")
        parser.add_argument(
            "--agreement-key",
            metavar="NAME",
            help="agreement key for public keys and for scheme sealed, if there are several",
        )
        keys = parser.add_mutually_exclusive_group()
        keys.add_argument("--fleet-key", metavar="NAME", help="derive keys from this fleet key")
        keys.add_argument("--no-keys", action="store_true", help="make no keys")

    def handle(self, *args: Any, **options: Any) -> None:
        policy = KeyPolicy(not options["no_keys"], _fleet_key(options["fleet_key"]), options["agreement_key"])
        try:
            with bars() as progress:
                report = import_file(
                    options["file"],
                    policy,
                    command_actor(),
                    timezone.now(),
                    update=options["update"],
                    dry_run=options["dry_run"],
                    progress=progress,
                )
        except IntegrityError as error:
            raise CommandError(f"The registry changed meanwhile: {error}. Nothing was imported.") from None
        self.refuse(report.bad)
        self.stdout.write(
            f"{'Would import' if options['dry_run'] else 'Imported'}: {report.new} new, {report.changed} changed, "
            f"{report.unchanged} unchanged; {report.assigned} assigned to a concentrator; "
            f"{counted(report.keyed, 'given key')}; {report.awaited} may enrol by certificate; "
            f"{counted(report.grouped, 'time')} a meter or a place came into a group."
        )
        if report.schemes_unused:
            self.stdout.write(
                f"{counted(report.schemes_unused, 'new meter has', 'new meters have')} a scheme or an algorithm in the "
                "file, which --no-keys does not store: the shipment of their keys must name it, or the keys are for "
                "ccm."
            )


def _fleet_key(name: str | None) -> FleetKey | None:
    return None if name is None else fleet_keys.find(name)
