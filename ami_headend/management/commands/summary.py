"""manage.py summary: what the head-end is doing, once or every few seconds."""

import time
from datetime import timedelta
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.db import OperationalError
from django.utils import timezone
from rich.console import Console
from rich.table import Table

from ami_headend.core.commands import DomainCommand
from ami_headend.local.display import Lines
from concentrators.commands.rotation_progress import Rotation, rotations
from concentrators.ingest.activity import Activity, activity

_MINUTES_MAX = 10 * 366 * 24 * 60
_EVERY_MAX_S = 86_400
_ROTATIONS = 5


class Command(DomainCommand):
    _lines: Lines | None = None  # on a terminal, where a summary replaces the one before
    help = "Print frames posted, verified, accepted, duplicate and refused by kind, the rate, and the queue."
    examples = "examples:\n  manage.py summary\n  manage.py summary --minutes 1440\n  manage.py summary --every 5"

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--minutes", type=float, default=60.0, help="how far to look back (60)")
        parser.add_argument("--every", type=float, help="print again after this many seconds, until Ctrl-C")
        parser.add_argument("--title", default="", help="a line to print above")

    def handle(self, *args: Any, minutes: float, every: float | None, title: str, **options: Any) -> None:
        if not 0 < minutes <= _MINUTES_MAX or not (every is None or 0 < every <= _EVERY_MAX_S):
            raise CommandError(
                f"--minutes must be above 0 and at most {_MINUTES_MAX}, --every above 0 and at most {_EVERY_MAX_S}"
            )
        since = timezone.now() - timedelta(minutes=minutes)
        try:
            before = activity(since)
            started = last = time.monotonic()
            if every is None:
                self._print(before, title, None)
                return
            if self.stdout.isatty():
                self._lines = Lines([], "summary")
            while True:
                time.sleep(max(0.0, every - (time.monotonic() - started) % every))
                now, seen = time.monotonic(), activity(since)
                self._print(seen, title, (seen.verified - before.verified) / (now - last))
                before, last = seen, now
        except OperationalError as error:
            raise CommandError(f"The database does not answer: {str(error).splitlines()[0]}") from error
        finally:
            if self._lines is not None:
                self._lines.close()

    def _print(self, seen: Activity, title: str, frames_per_second: float | None) -> None:
        console = Console(width=100, highlight=False)
        with console.capture() as text:
            if title:
                console.print(title, soft_wrap=True, markup=False)
            console.print(table(seen, frames_per_second))
            console.print(refusals(seen), soft_wrap=True)
            for line in rotated(rotations(_ROTATIONS)):
                console.print(line, soft_wrap=True, markup=False)
        if self._lines is None:
            # With --every, an empty line ends each summary, for readers that replace it.
            self.stdout.write(text.get() + "\n" * (frames_per_second is not None), ending="")
            self.stdout.flush()
            return
        for line in [*text.get().splitlines(), ""]:
            self._lines.line("summary", line)


def refusals(seen: Activity) -> str:
    """Return the rejected frames by kind in one line."""
    return "refused: " + (", ".join(f"{kind} {number:,}" for kind, number in seen.failures.items()) or "none")


def rotated(found: list[Rotation]) -> list[str]:
    """Return the rotations in progress, one a line; if there are none, the last one."""
    going_on = [one for one in found if one.is_going_on] or found[:1]
    return [
        f"rotation: {one.kind}, {one.name}: {one.state}, {one.done:,} of {one.total:,}"
        + (f", {one.failures:,} failed" if one.failures else "")
        for one in going_on
    ]


def table(seen: Activity, frames_per_second: float | None) -> Table:
    """Return one row of figures."""
    figures = Table()
    for heading in ("posted", "verified", "accepted", "duplicate", "refused", "frames/s", "uplinks waiting"):
        figures.add_column(heading, justify="right")
    rate = "" if frames_per_second is None else f"{frames_per_second:,.0f}"
    numbers = (seen.posted, seen.verified, seen.accepted, seen.duplicate, seen.rejected)
    figures.add_row(*(f"{number:,}" for number in numbers), rate, f"{seen.queue:,}")
    return figures
