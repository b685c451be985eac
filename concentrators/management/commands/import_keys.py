"""Door to keyvault.device_keys.shipments, and to concentrators.ingest.reverification after it."""

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError
from django.db import IntegrityError

from ami_headend.core.commands import DomainCommand, bars
from ami_headend.core.csv_tables import BadLine
from ami_headend.core.text import counted
from concentrators.fleet import concentrator_keys
from concentrators.ingest.reverification import verify_all_again, waiting_uplinks
from concentrators.ingest.transaction_retry import TransientError
from keyvault.audit import chain
from keyvault.audit.chain import AuditError
from keyvault.device_keys import shipment_file, shipment_kek, shipments
from keyvault.device_keys.provisioning import ProvisioningError
from keyvault.device_keys.shipment_file import Shipment, ShipmentError
from keyvault.device_keys.shipment_kek import TransportKeyError
from keyvault.device_keys.shipments import ShipmentReport
from keyvault.master_key import MasterKeyError
from keyvault.schemes.table import USUAL


class Command(DomainCommand):
    help = """Import a shipment of device keys, wrapped under a transport key: all of it, or nothing.

The format is described in docs/shipments.md: JSON Lines, plain or gzip, one meter a line. The
transport key is a file of 32 octets or 64 hex digits, mode 0600. Keys that stand already are
unchanged; patterned, published and repeated keys are refused. Frames that waited for one of the
keys are verified again afterwards, from the kept octets.

Examples:
  manage.py import_keys shipment.jsonl --transport-key transport.key --dry-run
  manage.py import_keys shipment.jsonl.gz --transport-key transport.key --sha256 9f2c...
  manage.py import_keys visit.jsonl --transport-key transport.key --replace-transfer-key
"""
    refusals = (TransportKeyError, ShipmentError, ProvisioningError, MasterKeyError, AuditError)
    nothing_done = ". Nothing was imported."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("shipment", type=Path)
        parser.add_argument("--transport-key", type=Path, required=True, metavar="FILE")
        parser.add_argument("--sha256", metavar="HEX", help="refuse another file than the one with this SHA-256")
        parser.add_argument(
            "--agreement-key",
            metavar="NAME",
            help="agreement key for public keys and for scheme sealed, if there are several",
        )
        parser.add_argument("--dry-run", action="store_true", help="check everything, change nothing")
        parser.add_argument(
            "--replace-transfer-key",
            action="store_true",
            help="replace existing transfer keys by those of the shipment",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        dry_run = options["dry_run"]
        try:
            with bars() as progress:
                transport_key = shipment_kek.load(options["transport_key"])
                shipment = shipment_file.read(options["shipment"])
                _check_sha256(shipment, options["sha256"])
                shipment.bad.extend(_misplaced(shipment))
                report = shipments.import_(
                    shipment,
                    transport_key,
                    chain.command_actor(),
                    replace_transfer_keys=options["replace_transfer_key"],
                    agreement_key=options["agreement_key"],
                    dry_run=dry_run,
                    progress=progress,
                )
        except IntegrityError:
            raise CommandError("Keys of the same devices were made meanwhile. Nothing was imported.") from None
        self.refuse(report.bad)
        self.stdout.write(f"{'Would import' if dry_run else 'Imported'} {shipment.header.shipment}: {_told(report)}.")
        self.stdout.write(f"SHA-256 of the file: {shipment.sha256.hex()}")
        if not dry_run:
            self._verify_again({line.system_title for line in shipment.lines})

    def _verify_again(self, system_titles: set[bytes]) -> None:
        waiting = waiting_uplinks()
        try:
            with bars() as progress:
                done = progress.step("uplinks with waiting frames", len(waiting))
                outcome = verify_all_again(waiting, system_titles, done)
        except TransientError as error:
            raise CommandError(
                f"The keys are imported, but not all waiting frames could be verified: {error}. "
                "Run manage.py verify_again --all-waiting."
            ) from None
        self.stdout.write(f"{outcome}.")


def _misplaced(shipment: Shipment) -> list[BadLine]:
    """Lines with a key of a meter for a concentrator, or the other way round."""
    keyed = [line for line in shipment.lines if line.key is not None or line.public is not None]
    reasons = concentrator_keys.misplaced({line.system_title: line.scheme or USUAL for line in keyed})
    return [
        BadLine(line.line, f"system title {line.system_title.hex()} {reasons[line.system_title]}")
        for line in keyed
        if line.system_title in reasons
    ]


def _check_sha256(shipment: Shipment, wanted: str | None) -> None:
    if wanted is None and any(line.public is not None for line in shipment.lines):
        raise ShipmentError(
            "the shipment has public keys, which no transport key protects: give the SHA-256 that its sender told you "
            "(--sha256)"
        )
    if wanted is not None and wanted.lower() != shipment.sha256.hex():
        raise ShipmentError(f"the file's SHA-256 is {shipment.sha256.hex()}, not the one given with --sha256")


def _told(report: ShipmentReport) -> str:
    words = f"{counted(report.active, 'active key')}, {report.pending} pending"
    words += f", {counted(report.transfer_keys, 'transfer key')}"
    if report.replaced:
        words += f", {counted(report.replaced, 'transfer key')} replaced"
    if report.agreed:
        words += f", {counted(report.agreed, 'meter')} agreed with"
    words += f", {report.unchanged} unchanged"
    if report.at_last_epoch:
        words += (
            f"; WARNING: {counted(report.at_last_epoch, 'device has', 'devices have')} keys of epoch 65535, the last "
            "one, and can never get another key"
        )
    if report.without_transfer_key:
        lacking = counted(report.without_transfer_key, "device has", "devices have")
        words += f"; {lacking} no transfer key, and no key command gets there"
    return words
