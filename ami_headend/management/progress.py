"""Bars on stderr for the steps of a long command."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from ami_headend.backup.restoring import Step


@contextmanager
def steps() -> Iterator[Step]:
    """Gives what begins a step of so many parts, and gives what hears of its progress."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:

        def step(name: str, total: int | None) -> Callable[[int], object]:
            bar = bars.add_task(name, total=total)
            return lambda done: bars.advance(bar, done)

        yield step
