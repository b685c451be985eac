"""Signs of life: the loop of each process writes one at every turn; the supervisor counts for how long one has not.

Signs that came while the supervisor was stopped are read before silence is counted (``core.lifesign.Silence``).
"""

import os
import struct
from contextlib import suppress

_SIGN = struct.Struct("=i")  # the process id; a write of so few octets is never torn
_READ_OCTETS = 1024 * _SIGN.size


class Lifesigns:
    """One pipe for all processes, made before they are forked: they write, the supervisor reads."""

    def __init__(self) -> None:
        self.read_end, self.write_end = os.pipe()
        for end in (self.read_end, self.write_end):
            os.set_blocking(end, False)

    def of_child(self) -> int:
        """In the child: the end that it writes to; the other one is closed."""
        os.close(self.read_end)
        return self.write_end

    def read(self) -> set[int]:
        """The process ids of all signs that have come since the last time."""
        found: set[int] = set()
        with suppress(BlockingIOError):
            while octets := os.read(self.read_end, _READ_OCTETS):
                found.update(pid for (pid,) in _SIGN.iter_unpack(octets))
        return found


def show(write_end: int) -> None:
    """Tell that this process lives; where the pipe is full, its reader sleeps, and has signs enough."""
    with suppress(BlockingIOError, BrokenPipeError):
        os.write(write_end, _SIGN.pack(os.getpid()))
