"""manage.py evidence: signed readings with their proof, for whoever trusts the meters' authority and not us."""

from datetime import datetime
from pathlib import Path
from typing import Any

from django.core.management.base import CommandParser

from ami_headend.core.commands import DomainCommand, time_of
from ami_headend.core.text import counted
from keyvault.audit import chain
from keyvault.audit.chain import AuditError
from meters.archive.files import ArchiveError
from meters.readings import evidence
from meters.readings.evidence import EvidenceError, Period
from meters.readings.queries import SelectionError
from meters.registry import lookup
from meters.registry.lookup import RegistryError


class Command(DomainCommand):
    help = (
        "Write readings that meters signed, their signatures, the lists that announced their coupons, and the "
        "certificates of the meters' identities. Anybody with the authority's public key can verify the file without "
        "this head-end: docs/evidence.md has the program. The export is audited."
    )
    examples = (
        "examples:\n"
        "  manage.py evidence export 0024befffe804ff1 --from 2026-01-01T00:00Z --to 2026-02-01T00:00Z "
        "--output january.evidence\n\n"
        "exit status: 0 done; 1 it could not be done, and no file was made."
    )
    refusals = (ArchiveError, EvidenceError, RegistryError, AuditError, SelectionError)
    nothing_done = ". No file was made."

    def add_arguments(self, parser: CommandParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True, metavar="export")
        export = actions.add_parser("export", help="write a file")
        export.add_argument("meters", nargs="+", metavar="METER", help="serial number, or system title")
        export.add_argument("--from", dest="start", type=time_of, required=True, metavar="TIME")
        export.add_argument("--to", dest="end", type=time_of, required=True, metavar="TIME", help="end, not included")
        export.add_argument("--output", type=Path, required=True, metavar="FILE", help="a new file")

    def handle(
        self, *args: Any, action: str, meters: list[str], start: datetime, end: datetime, output: Path, **options: Any
    ) -> None:
        if start >= end:
            raise EvidenceError("--from is not before --to")
        found = [lookup.look_up(text) for text in meters]
        done = evidence.export(found, Period(start, end), output, chain.command_actor())
        self.stdout.write(
            f"{output}: {counted(done.readings, 'reading')} of {counted(done.meters, 'meter')}, "
            f"with {counted(done.signatures, 'signature')}."
        )
        if not done.signatures:
            self.stderr.write("None of them signed anything in that time.")
