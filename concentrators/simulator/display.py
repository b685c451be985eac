"""What a run shows on a terminal: how far it is, and the closing report. No Django."""

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from ami_headend.core.text import counted
from concentrators.simulator.closing_report import Closing


def progress(console: Console) -> Progress:
    """Bars with numbers, times, and a note in their field ``note``."""
    return Progress(
        TextColumn("{task.description:26}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
    )


class Bars:
    """A bar for each thing that is compared, from when that begins."""

    def __init__(self, shown: Progress) -> None:
        self._shown = shown
        self._bars: dict[str, TaskID] = {}

    def look(self, what: str, done: int, of: int) -> None:
        if what not in self._bars:
            self._bars[what] = self._shown.add_task(what, note="")
        self._shown.update(self._bars[what], completed=done, total=of)


def print_closing(closing: Closing, console: Console) -> None:
    """Print every line of the report, then the differences."""
    table = Table(title="Sent, and stored in the head-end", title_justify="left")
    table.add_column("")
    for heading in ("truth", "head-end", ""):
        table.add_column(heading, justify="right")
    for line in closing.lines:
        table.add_row(
            line.what, f"{line.expected:,}", f"{line.found:,}", "" if line.expected == line.found else "differs"
        )
    console.print(table)
    for difference in closing.differences:
        console.print(f"DIFFERS: {difference}", markup=False)
    console.print(
        f"{counted(len(closing.differences), 'difference')}." if closing.differences else "Truth and totals are equal."
    )
