"""manage.py export_keys: the keys of named devices, wrapped, into a new file."""

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.utils import timezone

from ami_headend.core.commands import DomainCommand, bars
from ami_headend.core.text import counted
from keyvault.approvals import ApprovalError
from keyvault.audit import chain
from keyvault.audit.chain import AuditError
from keyvault.device_keys import key_export, shipment_kek
from keyvault.device_keys.shipment_file import ShipmentError
from keyvault.device_keys.shipment_kek import TransportKeyError
from keyvault.management import exporting
from keyvault.master_key import MasterKeyError


class Command(DomainCommand):
    help = """Write the keys of named meters into a new shipment, wrapped under a transport key.

Of each meter its active key and its transfer key. The file is as import_keys takes it
(docs/shipments.md), mode 0600, gzip where its name ends in .gz; it never overwrites another. The
export is audited. Where REQUIRE_APPROVAL is on, it must be approved first: manage.py approvals.

Examples:
  manage.py export_keys --transport-key transport.key --meters 0024befffe804ff1 --output meter.jsonl
  manage.py export_keys --transport-key transport.key --meters-from titles.txt --output meters.jsonl.gz
"""
    refusals = (TransportKeyError, ShipmentError, ApprovalError, MasterKeyError, AuditError)
    nothing_done = ". Nothing was exported."

    def add_arguments(self, parser: ArgumentParser) -> None:
        exporting.add_arguments(parser)
        parser.add_argument("--output", type=Path, required=True, metavar="FILE")
        parser.add_argument("--shipment", metavar="NAME", help="the shipment's name; default: export and the time")

    def handle(self, *args: Any, **options: Any) -> None:
        titles = exporting.titles(options)
        name = options["shipment"] or f"export {timezone.now():%Y%m%dT%H%M%SZ}"
        transport_key = shipment_kek.load(options["transport_key"])
        with bars() as progress:
            exported = key_export.export(
                titles,
                transport_key,
                options["output"],
                name,
                chain.command_actor(),
                progress.step("wrapping", len(titles)),
            )
        self.stdout.write(
            f"Exported {counted(exported.keys, 'key')} and {counted(exported.transfer_keys, 'transfer key')} to "
            f"{options['output']}, wrapped under {transport_key.fingerprint.hex()}.\n"
            f"SHA-256 of the file: {exported.sha256.hex()}"
        )
