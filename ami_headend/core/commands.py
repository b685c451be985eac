"""What commands share: examples in the help, refusals in one sentence, progress bars on stderr, lists of bad lines."""

import json
from argparse import RawDescriptionHelpFormatter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, ClassVar

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils.dateparse import parse_datetime
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from ami_headend.core.csv_tables import BadLine
from ami_headend.core.text import counted

SETTINGS = "settings"  # the tag of checks of what a deployment sets; the others ask of the code
_BAD_LINES_SHOWN = 50


class DomainCommand(BaseCommand):
    """A command that ends with exit status 1 and one sentence if the domain refuses.

    ``refusals`` are the errors that count as a refusal; ``nothing_done`` is appended to each. ``examples`` are printed
    below the options, unchanged.

    Only the system checks of settings are run. The others load every page and concern the code: the web server runs
    them when it starts.
    """

    requires_system_checks: tuple[str, ...] = (SETTINGS,)
    examples = ""
    refusals: ClassVar[tuple[type[Exception], ...]] = ()
    nothing_done = ""

    def create_parser(self, prog_name: str, subcommand: str, **options: Any) -> CommandParser:
        options = {"formatter_class": RawDescriptionHelpFormatter, "epilog": self.examples, **options}
        return super().create_parser(prog_name, subcommand, **options)

    def execute(self, *args: Any, **options: Any) -> str | None:
        try:
            return super().execute(*args, **options)
        except self.refusals as error:
            said = str(error)
            raise CommandError(said.removesuffix(".") + self.nothing_done if self.nothing_done else said) from None

    def refuse(self, bad: Sequence[BadLine]) -> None:
        """Write each bad line of a file to stderr. CommandError if there is any."""
        for line, reason in bad[:_BAD_LINES_SHOWN]:
            self.stderr.write(f"line {line}: {reason}")
        if len(bad) > _BAD_LINES_SHOWN:
            self.stderr.write(f"and {len(bad) - _BAD_LINES_SHOWN} more")
        if bad:
            raise CommandError(f"{counted(len(bad), 'bad line')}: nothing was imported.")

    def write_json(self, found: Any) -> None:
        """Write an object as JSON for programs, with times in ISO 8601."""
        self.stdout.write(json.dumps(found, indent=2, default=datetime.isoformat))


class Bars:
    """A progress bar on stderr for each step of a long command; the bars are erased at the end."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._steps: dict[str, Callable[[int], None]] = {}

    def step(self, name: str, total: int | None = None) -> Callable[[int], None]:
        """Return a function that advances the bar of a step. If ``total`` is unknown, the bar only moves."""
        if name not in self._steps:
            task = self._progress.add_task(name, total=total)
            self._steps[name] = lambda done: self._progress.advance(task, done)
        return self._steps[name]

    def __call__(self, name: str, done: int, total: int | None = None) -> None:
        """Advance the bar of a step, and create it first if it is new."""
        self.step(name, total)(done)


@contextmanager
def bars() -> Iterator[Bars]:
    """Show bars while the block runs."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield Bars(progress)


def time_of(text: str) -> datetime:
    """Parse a time, in UTC if it names no zone. CommandError if it is not a time."""
    try:
        at = parse_datetime(text)
    except ValueError:
        at = None
    if at is None:
        raise CommandError(f"{text[:80]!r} is not a time such as 2026-03-01T09:00Z")
    return at if at.tzinfo else at.replace(tzinfo=UTC)
