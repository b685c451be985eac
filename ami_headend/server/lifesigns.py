"""Signs of life: the loop of each process writes one at every turn; the supervisor counts for how long one has not.

Silence is counted while the supervisor itself is awake. Where it was stopped, or the machine slept, each look counts
for ``_LOOK_MAX_S`` at most, and the signs that came meanwhile are read first: nobody is taken for frozen for that.
"""

import os
import struct
from contextlib import suppress

_SIGN = struct.Struct("=i")  # the process id; a write of so few octets is never torn
_READ_OCTETS = 1024 * _SIGN.size
_LOOK_MAX_S = 2.0
_FIRST_LEAST_S = 60.0  # until the first sign: a process that starts has more to do than one that serves


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


class Silence:
    """For how long each process has given no sign, in seconds during which somebody listened."""

    def __init__(self, most_s: float) -> None:
        self._most_s = most_s
        self._silent_s: dict[int, float] = {}
        self._unheard: set[int] = set()
        self._looked_s: float | None = None

    def begin(self, pid: int) -> None:
        """A process was started."""
        self._silent_s[pid] = 0.0
        self._unheard.add(pid)

    def forget(self, pid: int) -> None:
        """It ended."""
        self._silent_s.pop(pid, None)
        self._unheard.discard(pid)

    def frozen(self, now_s: float, heard: set[int]) -> list[int]:
        """Who has been silent for too long, by the monotonic clock and the signs since the last look."""
        passed_s = 0.0 if self._looked_s is None else min(now_s - self._looked_s, _LOOK_MAX_S)
        self._looked_s = now_s
        for pid in self._silent_s:
            self._silent_s[pid] = 0.0 if pid in heard else self._silent_s[pid] + passed_s
        self._unheard -= heard
        return [pid for pid, silent_s in self._silent_s.items() if silent_s >= self._allowed_s(pid)]

    def _allowed_s(self, pid: int) -> float:
        return max(self._most_s, _FIRST_LEAST_S) if pid in self._unheard else self._most_s
