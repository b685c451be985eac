"""Lines of several processes on one terminal or in one file; on a terminal, with a panel below that refreshes."""

import re
import sys
import time
from collections.abc import Sequence
from typing import TextIO

from rich.console import Console
from rich.live import Live
from rich.text import Text

SYSTEM = "system"
_COLOURS = ("cyan", "yellow", "green", "magenta", "blue", "bright_cyan", "bright_magenta")
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")


class Lines:
    """Prints each line with the time and the name of its process.

    The output of the process ``panel`` comes in blocks that end with an empty line. On a terminal, each block replaces
    the one before, below all other lines; elsewhere its lines are printed like others, but only if they changed.
    """

    def __init__(self, names: Sequence[str], panel: str = "", out: TextIO | None = None) -> None:
        self._console = Console(file=out or sys.stdout, highlight=False, soft_wrap=True)
        self._width = max(map(len, [SYSTEM, *names]))
        self._colours = {name: _COLOURS[n % len(_COLOURS)] for n, name in enumerate(names)}
        self._panel, self._block, self._shown = panel, list[str](), list[str]()
        self._live: Live | None = None

    def line(self, name: str, text: str) -> None:
        text = _ESCAPES.sub("", text)
        if name != self._panel:
            self._write(name, text)
        elif text.strip():
            self._block.append(text)
        else:
            self._show(self._block)
            self._block = []

    def close(self) -> None:
        """Leave the panel as it is, with the cursor below it."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _write(self, name: str, text: str) -> None:
        prefix = Text(f"{time.strftime('%H:%M:%S')} {name:<{self._width}} | ", style=self._colours.get(name, "bold"))
        self._console.print(prefix + Text(text))

    def _show(self, block: list[str]) -> None:
        if not block or block == self._shown:
            return
        self._shown = block
        if not self._console.is_terminal:
            for text in block:
                self._write(self._panel, text)
            return
        if self._live is None:
            self._live = Live(console=self._console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
            self._live.start()
        self._live.update(Text("\n".join(block), no_wrap=True, overflow="ellipsis"), refresh=True)
