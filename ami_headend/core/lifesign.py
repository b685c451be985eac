"""Signs of life of a process' main loop to whoever started it, as systemd's watchdog takes them (sd_notify).

A datagram goes to the socket that the environment names in ``NOTIFY_SOCKET``. The main loop itself sends it, and no
thread beside it: a loop that hangs gives none. ``Listener`` is the other end, for who is not systemd.

``Silence`` is counted while whoever listens is awake. Where it was stopped, or the machine slept, each look counts for
``_LOOK_MAX_S`` at most: nobody is taken for frozen for that.
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
_FIRST_LEAST_S = 60.0  # until the first sign: a process that starts has more to do than one that serves
_SIGN = b"READY=1\nWATCHDOG=1"  # ready: the first one; systemd takes no notice of the others


def show() -> None:
    """Tell that the main loop of this process goes round; nothing where nobody listens.

    A sign that is not taken is left out: the next one comes soon, and a full socket holds signs enough.
    """
    address = os.environ.get(VARIABLE)
    if not address:
        return
    if address.startswith("@"):  # Linux' abstract names
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender:
            sender.sendto(_SIGN, address)
    except BlockingIOError:
        return  # full
    except OSError as error:  # whatever it is, the main loop goes on
        logger.warning("nobody takes this process' signs of life at %s: %s", VARIABLE, error.strerror or error)


class Listener:
    """The socket of one process, for as long as whoever starts it lives; at a path of at most 107 octets."""

    def __init__(self, path: Path) -> None:
        self.address = str(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.bind(self.address)

    def heard(self) -> bool:
        """Whether a sign has come since the last time."""
        heard = False
        with suppress(BlockingIOError):
            while True:
                heard |= b"WATCHDOG=1" in self._socket.recv(4096).split(b"\n")
        return heard

    def close(self) -> None:
        self._socket.close()


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
