"""manage.py resend_gaps: asks meters again for missing intervals."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError, CommandParser
from django.utils import timezone
from rich.console import Console

from ami_headend.core.commands import DomainCommand, bars
from ami_headend.core.text import counted
from concentrators.commands import gap_recovery, guard
from concentrators.commands.queue import DownlinkError
from concentrators.management import choosing
from keyvault.audit import chain
from keyvault.audit.chain import AuditError
from keyvault.master_key import MasterKeyError
from meters.archive.files import ArchiveError
from meters.models import Register
from meters.readings.gaps import GapsError
from meters.readings.obis import LOAD_PROFILE
from meters.registry.lookup import RegistryError


class Command(DomainCommand):
    help = (
        "Ask meters again for missing intervals: one resend command for each gap, never two for the same gap. "
        "Concentrators fetch the commands. With RESEND_GAPS=1 this runs by schedule."
    )
    examples = (
        "examples:\n"
        "  manage.py resend_gaps --all --days 3 --dry-run\n"
        "  manage.py resend_gaps --concentrator DCU-17\n"
        "  manage.py resend_gaps --meter 0024befffe804ff1 --days 30 --register 1-0:2.29.0\n\n"
        "exit status: 0 done; 1 it could not be done, and nothing was."
    )
    refusals = (ArchiveError, DownlinkError, GapsError, RegistryError, AuditError, MasterKeyError)

    def add_arguments(self, parser: CommandParser) -> None:
        choosing.add_arguments(parser)
        parser.add_argument("--days", type=int, default=7, metavar="N", help="how far back to look (7)")
        parser.add_argument(
            "--register", default=LOAD_PROFILE, metavar="OBIS", help=f"interval register ({LOAD_PROFILE})"
        )
        parser.add_argument("--dry-run", action="store_true", help="show what would be asked for, and ask nothing")

    def handle(self, *args: Any, **options: Any) -> None:
        if not 1 <= options["days"] <= settings.RETENTION_DAYS:
            raise CommandError(
                f"--days takes a number from 1 to {settings.RETENTION_DAYS}, the days that readings are stored"
            )
        register = Register.objects.filter(obis_code=options["register"]).first()
        if register is None:
            raise CommandError(f"there is no register {options['register']}")
        now = timezone.now()
        selection = choosing.selection(options)
        with _progress(self.stderr, gap_recovery.selected(selection, now).count()) as done:
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
        if outcome.approval is not None:
            self.stdout.write(f"{guard.told(outcome.approval)}.")
        done_so = "held" if outcome.approval else "queued"
        would = "would be " if options["dry_run"] else ""
        self.stdout.write(
            f"{counted(outcome.meters, 'meter has', 'meters have')} {counted(outcome.gaps, 'gap')}: "
            f"{counted(outcome.commands, 'resend')} {would}{done_so},"
            f" {outcome.put_off} put off to another day; the others were asked for before."
        )


_TELL_EVERY_S = 10.0


@contextmanager
def _progress(stderr: Any, meters: int) -> Iterator[Callable[[int], None]]:
    """How far it is: a bar on a terminal, and a line every ten seconds elsewhere."""
    if Console(stderr=True).is_terminal:
        with bars() as progress:
            yield progress.step("looking for gaps", meters)
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
