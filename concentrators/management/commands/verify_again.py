"""Door to concentrators.ingest.reverification."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import CommandError

from ami_headend.core.commands import DomainCommand, bars
from ami_headend.core.text import counted
from concentrators.ingest.reverification import ready, verify_all_again, waiting_uplinks
from concentrators.ingest.transaction_retry import TransientError
from meters.registry.lookup import RegistryError, parse_system_title


class Command(DomainCommand):
    help = """Judge frames again that wait as unknown_device or unknown_epoch, where key and meter stand by now, and
parked ones, whose fault may be mended.

The frames are taken from the kept octets of their uplinks, each exactly once: verdicts and counts
move, readings and totals are stored as usual. import_keys does this by itself; this command is for
meters that were registered after their keys, and for a run that was interrupted.

Examples:
  manage.py verify_again --all-waiting --dry-run
  manage.py verify_again --all-waiting
  manage.py verify_again --meters 0024befffe804ff1 0024befffe804ff2
  manage.py verify_again --uplinks 17 18
"""
    refusals = (RegistryError,)

    def add_arguments(self, parser: ArgumentParser) -> None:
        which = parser.add_mutually_exclusive_group(required=True)
        which.add_argument("--all-waiting", action="store_true", help="all waiting frames that can be opened now")
        which.add_argument("--meters", nargs="+", metavar="TITLE", help="only frames of these system titles")
        which.add_argument("--uplinks", nargs="+", type=int, metavar="ID", help="only waiting frames of these uplinks")
        parser.add_argument("--dry-run", action="store_true", help="only show how many frames would be judged")

    def handle(self, *args: Any, **options: Any) -> None:
        titles = None if options["meters"] is None else {parse_system_title(text) for text in options["meters"]}
        waiting = waiting_uplinks(options["uplinks"])
        try:
            with bars() as progress:
                done = progress.step("uplinks with waiting frames", len(waiting))
                if options["dry_run"]:
                    found = [one.frames for one in ready(waiting, titles, done)]
                else:
                    outcome = verify_all_again(waiting, titles, done)
        except TransientError as error:
            raise CommandError(f"{error}. What was judged stays; run the command again for the rest.") from None
        if options["dry_run"]:
            self.stdout.write(
                f"{counted(sum(found), 'waiting frame')} of {counted(len(found), 'uplink')} can be judged now; "
                "nothing changed."
            )
        else:
            self.stdout.write(f"{outcome}.")
