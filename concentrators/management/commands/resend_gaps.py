"""manage.py resend_gaps: meters are asked again for what is missing."""

import time
from argparse import RawDescriptionHelpFormatter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone
from rich.console import Console
from rich.progress import Progress

from concentrators.commands import gap_recovery
from concentrators.commands.gap_recovery import Selection
from concentrators.commands.queue import DownlinkError
from concentrators.models import Concentrator
from keyvault.audit import chain
from keyvault.audit.chain import AuditError
from keyvault.master_key import MasterKeyError
from meters.models import Register
from meters.readings.gaps import GapsError
from meters.readings.obis import LOAD_PROFILE
from meters.registry.lookup import RegistryError, parse_system_title


class Command(BaseCommand):
    help = (
        "Ask meters again for the intervals that are missing: a resend command for each gap, never twice for the same "
        "one. Concentrators fetch the commands. With RESEND_GAPS=1 the schedule does this by itself."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.formatter_class = RawDescriptionHelpFormatter
        parser.epilog = (
            "examples:\n"
            "  manage.py resend_gaps --all --days 3 --dry-run\n"
            "  manage.py resend_gaps --concentrator DCU-17\n"
            "  manage.py resend_gaps --meter 0024befffe804ff1 --days 30 --register 1-0:2.29.0\n\n"
            "exit status: 0 done; 1 it could not be done, and nothing was."
        )
        parser.add_argument("--meter", action="append", metavar="TITLE", help="system title, 16 hex digits; repeatable")
        parser.add_argument("--concentrator", metavar="NAME", help="meters assigned to it now")
        parser.add_argument("--all", action="store_true", help="every meter in service")
        parser.add_argument("--days", type=int, default=7, metavar="N", help="how far back to look (7)")
        parser.add_argument(
            "--register", default=LOAD_PROFILE, metavar="OBIS", help=f"interval register ({LOAD_PROFILE})"
        )
        parser.add_argument("--dry-run", action="store_true", help="say what would be asked for, and ask nothing")

    def handle(self, *args: Any, **options: Any) -> None:
        if not 1 <= options["days"] <= settings.RETENTION_DAYS:
            raise CommandError(f"--days takes a number from 1 to {settings.RETENTION_DAYS}: no more is kept")
        register = Register.objects.filter(obis_code=options["register"]).first()
        if register is None:
            raise CommandError(f"there is no register {options['register']}")
        now = timezone.now()
        try:
            selection = _selection(options)
            meters = gap_recovery.selected(selection, now).count()
            with _progress(self.stderr, meters) as done:
                outcome = gap_recovery.ask(
                    selection,
                    register,
                    now - timedelta(days=options["days"]),
                    now,
                    chain.command_actor(),
                    now,
                    dry_run=options["dry_run"],
                    done=done,
                )
        except (DownlinkError, GapsError, RegistryError, AuditError, MasterKeyError) as error:
            raise CommandError(str(error)) from None
        would = "would be " if options["dry_run"] else ""
        self.stdout.write(
            f"{outcome.meters} meters have {outcome.gaps} gaps: {outcome.commands} resends {would}queued,"
            f" {outcome.put_off} put off to another day; the others are asked for already."
        )


_TELL_EVERY_S = 10.0


@contextmanager
def _progress(stderr: Any, meters: int) -> Iterator[Callable[[int], None]]:
    """How far it is: a bar on a terminal, and a line every ten seconds elsewhere."""
    console = Console(stderr=True)
    if console.is_terminal:
        with Progress(console=console, transient=True) as progress:
            looking = progress.add_task("looking for gaps", total=meters)
            yield lambda count: progress.advance(looking, count)
        return
    began = told = time.monotonic()
    seen = 0

    def tell(count: int) -> None:
        nonlocal seen, told
        seen += count
        now = time.monotonic()
        if now - told >= _TELL_EVERY_S:
            told = now
            rate = seen / (now - began)
            left = f"about {max(0, meters - seen) / rate:,.0f} s left"
            stderr.write(f"looked at {seen:,} of {meters:,} meters, {rate:,.0f} a second, {left}")

    yield tell


def _selection(options: dict[str, Any]) -> Selection:
    concentrator = None
    if options["concentrator"] is not None:
        concentrator = Concentrator.objects.filter(name=options["concentrator"]).first()
        if concentrator is None:
            raise CommandError(f"there is no concentrator {options['concentrator']}")
    titles = None if options["meter"] is None else [parse_system_title(text) for text in options["meter"]]
    return Selection(titles, concentrator, options["all"])
