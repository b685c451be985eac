"""Door to keyvault.device_keys.key_export."""

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone
from rich.console import Console
from rich.progress import Progress

from keyvault.approvals import ApprovalError
from keyvault.audit import chain
from keyvault.audit.chain import AuditError
from keyvault.device_keys import key_export, shipment_kek
from keyvault.device_keys.shipment_file import ShipmentError
from keyvault.device_keys.shipment_kek import TransportKeyError
from keyvault.management import exporting
from keyvault.master_key import MasterKeyError


class Command(BaseCommand):
    help = """Write the keys of named meters into a new shipment, wrapped under a transport key.

Of each meter its active key and its transfer key. The file is as import_keys takes it
(docs/shipments.md), mode 0600, gzip where its name ends in .gz; it never overwrites another. The
export is audited. Where REQUIRE_APPROVAL is on, it must be approved first: manage.py approvals.

Examples:
  manage.py export_keys --transport-key transport.key --meters 0024befffe804ff1 --output meter.jsonl
  manage.py export_keys --transport-key transport.key --meters-from titles.txt --output meters.jsonl.gz
"""

    def create_parser(self, *args: Any, **kwargs: Any) -> Any:
        return super().create_parser(*args, formatter_class=RawDescriptionHelpFormatter, **kwargs)

    def add_arguments(self, parser: ArgumentParser) -> None:
        exporting.add_arguments(parser)
        parser.add_argument("--output", type=Path, required=True, metavar="FILE")
        parser.add_argument("--shipment", metavar="NAME", help="the shipment's name; default: export and the time")

    def handle(self, *args: Any, **options: Any) -> None:
        titles = exporting.titles(options)
        name = options["shipment"] or f"export {timezone.now():%Y%m%dT%H%M%SZ}"
        try:
            transport_key = shipment_kek.load(options["transport_key"])
            with Progress(console=Console(stderr=True), transient=True) as bars:
                bar = bars.add_task("wrapping", total=len(titles))
                exported = key_export.export(
                    titles,
                    transport_key,
                    options["output"],
                    name,
                    chain.command_actor(),
                    lambda count: bars.advance(bar, count),
                )
        except (TransportKeyError, ShipmentError, ApprovalError, MasterKeyError, AuditError) as error:
            raise CommandError(f"{error}. Nothing was exported.") from None
        self.stdout.write(
            f"Exported {exported.keys} keys and {exported.transfer_keys} transfer keys to {options['output']}, "
            f"wrapped under {transport_key.fingerprint.hex()}.\nSHA-256 of the file: {exported.sha256.hex()}"
        )
