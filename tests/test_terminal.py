"""`make demo` at a terminal: a summary of meters and attackers renews itself, and Ctrl-C ends all without an error."""

import os
import pty
import re
import select
import shutil
import signal
import time
from pathlib import Path

import psutil
import pytest
from django.conf import settings

from ami_headend.local.embedded.processes import is_living
from tests.flows.stack import free_port
from tests.test_commands import embedded_environ, family

_CURSOR_UP = re.compile(rb"\x1b\[1A\x1b\[2K")


def read_until(terminal: int, seen: bytes, wanted: re.Pattern[bytes] | None, seconds: float) -> bytes:
    """What stands on the terminal once the pattern is there, or the other end is closed."""
    end = time.monotonic() + seconds
    while wanted is None or not wanted.search(seen):
        assert time.monotonic() < end, seen[-3000:].decode(errors="replace")
        if select.select([terminal], [], [], 0.5)[0]:
            try:
                octets = os.read(terminal, 1 << 16)
            except OSError:  # Linux says so at the end
                return seen
            if not octets:
                return seen
            seen += octets
    return seen


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_the_demo_at_a_terminal(tmp_path: Path) -> None:
    process, terminal = pty.fork()
    if process == 0:  # the dependencies are there: -o keeps make from looking
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a test run in the background has it ignored
        os.chdir(settings.BASE_DIR)
        words = ["make", "-o", ".venv/.ready", "demo", f"PORT={free_port()}", "ARGS=--every 1 --meters 24"]
        environ = {**embedded_environ(tmp_path / "var"), "TERM": "xterm", "COLUMNS": "120"}
        os.execvpe("make", words, environ)  # noqa: S606 - no shell is wanted
    try:
        seen = read_until(terminal, b"", re.compile(_CURSOR_UP.pattern + rb".*" + _CURSOR_UP.pattern, re.DOTALL), 180)
        seen = read_until(terminal, seen, re.compile(rb"refused: [a-z_]+ [1-9]"), 180)  # attackers
        processes = family(psutil.Process(process))
        assert len(processes) >= 13  # those of up, the simulator and the summary
        os.write(terminal, b"\x03")
        seen = read_until(terminal, seen, None, 90)
    finally:
        os.close(terminal)
        os.waitpid(process, 0)
    assert b"Everything that was started has stopped." in seen
    assert b"***" not in seen
    assert not [one for one in processes if is_living(one)]
