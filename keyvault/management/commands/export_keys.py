"""Door to keyvault.keyexport."""

import re
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone
from rich.console import Console
from rich.progress import Progress

from keyvault import audit, keyexport, transport
from keyvault.audit import AuditError
from keyvault.masterkey import MasterKeyError
from keyvault.shipmentfile import ShipmentError
from keyvault.transport import TransportKeyError

_SYSTEM_TITLE = re.compile(r"[0-9a-fA-F]{16}", re.ASCII)


class Command(BaseCommand):
    help = """Write the keys of named meters into a new shipment, wrapped under a transport key.

Of each meter its active key and its transfer key. The file is as import_keys takes it
(docs/shipments.md), mode 0600, gzip where its name ends in .gz; it never overwrites another. The
export is audited.

Examples:
  manage.py export_keys --transport-key transport.key --meters 0024befffe804ff1 --output meter.jsonl
  manage.py export_keys --transport-key transport.key --meters-from titles.txt --output meters.jsonl.gz
"""

    def create_parser(self, *args: Any, **kwargs: Any) -> Any:
        return super().create_parser(*args, formatter_class=RawDescriptionHelpFormatter, **kwargs)

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--transport-key", type=Path, required=True, metavar="FILE")
        which = parser.add_mutually_exclusive_group(required=True)
        which.add_argument("--meters", nargs="+", metavar="TITLE", help="system titles")
        which.add_argument("--meters-from", type=Path, metavar="FILE", help="a file of system titles, one a line")
        parser.add_argument("--output", type=Path, required=True, metavar="FILE")
        parser.add_argument("--shipment", metavar="NAME", help="the shipment's name; default: export and the time")

    def handle(self, *args: Any, **options: Any) -> None:
        titles = _titles(options["meters"] or _lines_of(options["meters_from"]))
        name = options["shipment"] or f"export {timezone.now():%Y%m%dT%H%M%SZ}"
        try:
            transport_key = transport.load(options["transport_key"])
            with Progress(console=Console(stderr=True), transient=True) as bars:
                bar = bars.add_task("wrapping", total=len(titles))
                exported = keyexport.export(
                    titles,
                    transport_key,
                    options["output"],
                    name,
                    audit.command_actor(),
                    lambda count: bars.advance(bar, count),
                )
        except (TransportKeyError, ShipmentError, MasterKeyError, AuditError) as error:
            raise CommandError(f"{error}. Nothing was exported.") from None
        self.stdout.write(
            f"Exported {exported.keys} keys and {exported.transfer_keys} transfer keys to {options['output']}, "
            f"wrapped under {transport_key.fingerprint.hex()}.\nSHA-256 of the file: {exported.sha256.hex()}"
        )


def _lines_of(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError as error:
        raise CommandError(f"cannot read {path}: {error.strerror}. Nothing was exported.") from None
    except UnicodeDecodeError:
        raise CommandError(f"{path} is no text. Nothing was exported.") from None


def _titles(words: list[str]) -> list[bytes]:
    for word in words:
        if not _SYSTEM_TITLE.fullmatch(word):
            raise CommandError(f"system title {ascii(word)[:80]} is not 16 hex digits. Nothing was exported.")
    if not words:
        raise CommandError("no system titles are given. Nothing was exported.")
    return [bytes.fromhex(word) for word in words]
