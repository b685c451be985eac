"""Signs of life: the loop of each process writes one at every turn, and the supervisor measures silence.

Signs that came while the supervisor was stopped are read before silence is measured (``core.lifesign.Silence``).
"""

import os
import struct
from contextlib import suppress

_SIGN = struct.Struct("=i")  # the process id; so short a write is never split
_READ_OCTETS = 1024 * _SIGN.size


class Lifesigns:
    """One pipe for all processes, made before they are forked: they write, the supervisor reads."""

    def __init__(self) -> None:
        self.read_end, self.write_end = os.pipe()
        for end in (self.read_end, self.write_end):
            os.set_blocking(end, False)

    def of_child(self) -> int:
        """Return the writing end in the child, and close the other one."""
        os.close(self.read_end)
        return self.write_end

    def read(self) -> set[int]:
        """Return the process ids of all signs since the last call."""
        found: set[int] = set()
        with suppress(BlockingIOError):
            while octets := os.read(self.read_end, _READ_OCTETS):
                found.update(pid for (pid,) in _SIGN.iter_unpack(octets))
        return found


def show(write_end: int) -> None:
    """Send a sign of life. If the pipe is full, its reader is asleep and has enough signs."""
    with suppress(BlockingIOError, BrokenPipeError):
        os.write(write_end, _SIGN.pack(os.getpid()))
