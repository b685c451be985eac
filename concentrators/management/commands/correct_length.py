"""Door to concentrators.ingest.length_corrections."""

from argparse import ArgumentParser
from typing import Any

from django.utils import timezone

from ami_headend.core.commands import DomainCommand, time_of
from ami_headend.core.text import counted
from concentrators.commands.capture_period import IntervalError
from concentrators.ingest import length_corrections
from concentrators.ingest.length_corrections import LengthRequest
from keyvault.audit import chain
from keyvault.audit.chain import AuditError
from keyvault.master_key import MasterKeyError
from meters.registry import lookup
from meters.registry.lookup import RegistryError


class Command(DomainCommand):
    help = """Correct the interval length that a meter was registered with, for a span of the past: frames that were
refused as registry_mismatch are judged again, readings and totals of the span move along. Audited.

Without --from the length holds from the meter's beginning on, without --to it still does. Intervals of both lengths
begin at the ends of a span. Refused where readings stand in it that no meter measures in that length. Verification
waits meanwhile: with very many readings, name a --from.

Examples:
  manage.py correct_length SN-1 --minutes 15 --reason "registered with 60 by mistake" --dry-run
  manage.py correct_length SN-1 --minutes 15 --from 2026-03-01T00:00Z --to 2026-04-01T00:00Z --reason "visited"
"""

    refusals = (IntervalError, RegistryError, AuditError, MasterKeyError)
    nothing_done = ". Nothing was changed."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("meter", metavar="SERIAL|TITLE", help="a serial number, or a system title in hex")
        parser.add_argument("--minutes", type=int, required=True, metavar="N", help="the length, 1 to 1440")
        parser.add_argument("--from", dest="start", metavar="TIME", help="UTC; from the beginning, if left out")
        parser.add_argument("--to", dest="end", metavar="TIME", help="end, not included; open, if left out")
        parser.add_argument("--reason", required=True, help="how that is known")
        parser.add_argument("--dry-run", action="store_true", help="only show what would change")

    def handle(self, *args: Any, **options: Any) -> None:
        start, end = (options[name] and time_of(options[name]) for name in ("start", "end"))
        wish = LengthRequest(options["minutes"], start, end, options["reason"])
        meter = lookup.look_up(options["meter"])
        if options["dry_run"]:
            found = length_corrections.look(meter, wish, timezone.now())
        else:
            found = length_corrections.correct(meter, wish, chain.command_actor(), timezone.now())
        if options["dry_run"]:
            self.stdout.write(f"Would correct {counted(found.readings, 'reading')} of meter {meter}; nothing changed.")
        else:
            self.stdout.write(
                f"Meter {meter} is corrected, with {counted(found.readings, 'reading')}. Frames that wait for it "
                "are judged again by the workers."
            )
