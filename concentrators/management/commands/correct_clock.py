"""Door to concentrators.ingest.clock_corrections."""

from argparse import ArgumentParser
from typing import Any

from django.utils import timezone

from ami_headend.core.commands import DomainCommand, time_of
from ami_headend.core.text import counted
from concentrators.ingest import clock_corrections
from concentrators.ingest.clock_corrections import ClockError, ClockRequest
from keyvault.audit import chain
from keyvault.audit.chain import AuditError
from keyvault.master_key import MasterKeyError


class Command(DomainCommand):
    help = """Say that the clock of the head-end was behind: frames that were refused as clock_skew in that span are
judged again, by the corrected time of receipt. Audited.

The span is told by the clock that was behind: from the first wrong time that it gave up to the last. What is ahead of
the corrected time, too, stays refused: that was the meter's clock. Where the clock went back while the head-end ran, it
gave times twice: name the first uplink that has a wrong time.

Examples:
  manage.py correct_clock --from 2026-03-01T09:00Z --to 2026-03-01T11:30Z --behind 3600 --note "NTP was off" --dry-run
  manage.py correct_clock --from 2026-03-01T09:00Z --to 2026-03-01T11:30Z --behind 3600 --note "NTP was off"
"""
    refusals = (ClockError, AuditError, MasterKeyError)
    nothing_done = ". Nothing was changed."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--from", dest="start", required=True, metavar="TIME", help="first wrong time, UTC")
        parser.add_argument("--to", dest="end", required=True, metavar="TIME", help="end, not included")
        parser.add_argument(
            "--behind", type=int, required=True, metavar="SECONDS", help="by how much the times were too low"
        )
        parser.add_argument("--note", required=True, help="how that is known")
        parser.add_argument("--first-uplink", type=int, default=0, metavar="ID", help="leave earlier uplinks unchanged")
        parser.add_argument("--dry-run", action="store_true", help="only show what would be corrected")

    def handle(self, *args: Any, **options: Any) -> None:
        start, end = time_of(options["start"]), time_of(options["end"])
        wish = ClockRequest(start, end, options["behind"], options["note"], options["first_uplink"])
        if options["dry_run"]:
            found = clock_corrections.look(wish, timezone.now())
        else:
            found = clock_corrections.correct(wish, chain.command_actor(), timezone.now())
        if options["dry_run"]:
            ahead = counted(found.frames, "frame that was ahead of our clock", "frames that were ahead of our clock")
            self.stdout.write(f"Would correct {counted(found.uplinks, 'uplink')} with {ahead}; nothing changed.")
        else:
            ahead = counted(
                found.frames, "frame that was ahead of our clock is", "frames that were ahead of our clock are"
            )
            corrected = counted(found.uplinks, "uplink is corrected", "uplinks are corrected")
            self.stdout.write(f"{corrected}; {ahead} judged again by the workers.")
