"""Door to keyvault.device_keys.shipments, and to concentrators.ingest.reverification after it."""

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import IntegrityError
from rich.console import Console
from rich.progress import Progress, TaskID

from ami_headend.core.tables import BadLine
from concentrators.ingest.attempt import TransientError
from concentrators.ingest.reverification import verify_all_again, waiting_uplinks
from keyvault.audit import chain
from keyvault.audit.chain import AuditError
from keyvault.device_keys import shipment_file, shipment_kek, shipments
from keyvault.device_keys.provisioning import ProvisioningError
from keyvault.device_keys.shipment_file import Shipment, ShipmentError
from keyvault.device_keys.shipment_kek import TransportKeyError
from keyvault.device_keys.shipments import ImportReport
from keyvault.master_key import MasterKeyError

BAD_LINES_SHOWN = 50


class Command(BaseCommand):
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

    def create_parser(self, *args: Any, **kwargs: Any) -> Any:
        return super().create_parser(*args, formatter_class=RawDescriptionHelpFormatter, **kwargs)

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("shipment", type=Path)
        parser.add_argument("--transport-key", type=Path, required=True, metavar="FILE")
        parser.add_argument("--sha256", metavar="HEX", help="refuse another file than the one with this SHA-256")
        parser.add_argument("--dry-run", action="store_true", help="check everything, change nothing")
        parser.add_argument(
            "--replace-transfer-key",
            action="store_true",
            help="put transfer keys of the shipment in the place of others",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        dry_run = options["dry_run"]
        with Progress(console=Console(stderr=True), transient=True) as bars:
            steps: dict[str, TaskID] = {}

            def progress(step: str, count: int, total: int) -> None:
                if step not in steps:
                    steps[step] = bars.add_task(step, total=total)
                bars.advance(steps[step], count)

            try:
                transport_key = shipment_kek.load(options["transport_key"])
                shipment = shipment_file.read(options["shipment"])
                _check_sha256(shipment, options["sha256"])
                report = shipments.import_(
                    shipment,
                    transport_key,
                    chain.command_actor(),
                    replace_transfer_keys=options["replace_transfer_key"],
                    dry_run=dry_run,
                    progress=progress,
                )
            except (TransportKeyError, ShipmentError, ProvisioningError, MasterKeyError, AuditError) as error:
                raise CommandError(f"{error}. Nothing was imported.") from None
            except IntegrityError:
                raise CommandError("Keys of the same devices were made meanwhile. Nothing was imported.") from None
        self._refuse(report.bad)
        self.stdout.write(f"{'Would import' if dry_run else 'Imported'} {shipment.header.shipment}: {_told(report)}.")
        self.stdout.write(f"SHA-256 of the file: {shipment.sha256.hex()}")
        if not dry_run:
            self._verify_again({line.system_title for line in shipment.lines})

    def _refuse(self, bad: list[BadLine]) -> None:
        for line, reason in bad[:BAD_LINES_SHOWN]:
            self.stderr.write(f"line {line}: {reason}")
        if len(bad) > BAD_LINES_SHOWN:
            self.stderr.write(f"and {len(bad) - BAD_LINES_SHOWN} more")
        if bad:
            raise CommandError(f"{len(bad)} bad lines: nothing was imported.")

    def _verify_again(self, system_titles: set[bytes]) -> None:
        waiting = waiting_uplinks()
        try:
            with Progress(console=Console(stderr=True), transient=True) as bars:
                bar = bars.add_task("uplinks with waiting frames", total=len(waiting))
                outcome = verify_all_again(waiting, system_titles, lambda count: bars.advance(bar, count))
        except TransientError as error:
            raise CommandError(
                f"The keys are imported, but not all waiting frames could be verified: {error}. "
                "Run manage.py verify_again --all-waiting."
            ) from None
        self.stdout.write(f"{outcome}.")


def _check_sha256(shipment: Shipment, wanted: str | None) -> None:
    if wanted is not None and wanted.lower() != shipment.sha256.hex():
        raise ShipmentError(f"the file's SHA-256 is {shipment.sha256.hex()}, not the one that was told")


def _told(report: ImportReport) -> str:
    words = f"{report.active} active keys, {report.pending} pending, {report.transfer_keys} transfer keys"
    if report.replaced:
        words += f", {report.replaced} transfer keys replaced"
    words += f", {report.unchanged} unchanged"
    if report.at_last_epoch:
        words += (
            f"; WARNING: the keys of {report.at_last_epoch} devices have epoch 65535, the last there is: no key can "
            "follow them, so that these devices cannot be given another one"
        )
    if report.without_transfer_key:
        words += f"; {report.without_transfer_key} devices have no transfer key: no key command reaches them"
    return words
