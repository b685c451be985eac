"""Signs of life that the main loop of a process sends to its supervisor, in the protocol of systemd (sd_notify).

A datagram goes to the socket named by ``NOTIFY_SOCKET``. The main loop itself sends it, not a thread beside it, so a
loop that hangs sends none. ``Listener`` is the receiving end, for supervisors other than systemd.

``Silence`` only counts while the supervisor is awake. If it was stopped or the machine slept, each check adds
``_LOOK_MAX_S`` at most, so that no process is taken for frozen wrongly.
"""

import logging
import os
import socket
from contextlib import suppress
from pathlib import Path

logger = logging.getLogger(__name__)

EVERY_S = 2.0
VARIABLE = "NOTIFY_SOCKET"
_LOOK_MAX_S = 2.0
_FIRST_LEAST_S = 60.0  # until the first sign: starting takes longer than serving
_SIGN = b"READY=1\nWATCHDOG=1"  # READY matters in the first one only; systemd ignores it later


def show() -> None:
    """Send a sign that the main loop of this process is running; do nothing if nobody listens.

    If the socket is full, the sign is dropped: the socket holds others, and the next one follows soon.
    """
    address = os.environ.get(VARIABLE)
    if not address:
        return
    if address.startswith("@"):  # abstract names of Linux
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender:
            sender.sendto(_SIGN, address)
    except BlockingIOError:
        return  # full
    except OSError as error:  # whatever it is, the main loop goes on
        logger.warning("nobody receives this process' signs of life at %s: %s", VARIABLE, error.strerror or error)


class Listener:
    """The socket of one supervised process; its path has at most 107 octets."""

    def __init__(self, path: Path) -> None:
        self.address = str(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.bind(self.address)

    def heard(self) -> bool:
        """Whether a sign has come since the last call."""
        heard = False
        with suppress(BlockingIOError):
            while True:
                heard |= b"WATCHDOG=1" in self._socket.recv(4096).split(b"\n")
        return heard

    def close(self) -> None:
        self._socket.close()


class Silence:
    """How long each process has been silent, in seconds during which the supervisor listened."""

    def __init__(self, most_s: float) -> None:
        self._most_s = most_s
        self._silent_s: dict[int, float] = {}
        self._unheard: set[int] = set()
        self._looked_s: float | None = None

    def begin(self, pid: int) -> None:
        """Start measuring a new process."""
        self._silent_s[pid] = 0.0
        self._unheard.add(pid)

    def forget(self, pid: int) -> None:
        """Stop measuring a process that ended."""
        self._silent_s.pop(pid, None)
        self._unheard.discard(pid)

    def frozen(self, now_s: float, heard: set[int]) -> list[int]:
        """Return processes that have been silent too long, by the monotonic clock and the signs since the last call."""
        passed_s = 0.0 if self._looked_s is None else min(now_s - self._looked_s, _LOOK_MAX_S)
        self._looked_s = now_s
        for pid in self._silent_s:
            self._silent_s[pid] = 0.0 if pid in heard else self._silent_s[pid] + passed_s
        self._unheard -= heard
        return [pid for pid, silent_s in self._silent_s.items() if silent_s >= self._allowed_s(pid)]

    def _allowed_s(self, pid: int) -> float:
        return max(self._most_s, _FIRST_LEAST_S) if pid in self._unheard else self._most_s
