"""Signs of life of a process' main loop to whoever started it, as systemd's watchdog takes them (sd_notify).

A datagram goes to the socket that the environment names in ``NOTIFY_SOCKET``. The main loop itself sends it, and no
thread beside it: a loop that hangs gives none. ``Listener`` is the other end, for who is not systemd.
"""

import logging
import os
import socket
from contextlib import suppress
from pathlib import Path

logger = logging.getLogger(__name__)

EVERY_S = 2.0
VARIABLE = "NOTIFY_SOCKET"
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
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender, suppress(BlockingIOError):
        try:
            sender.sendto(_SIGN, address)
        except (FileNotFoundError, ConnectionRefusedError) as error:
            logger.warning("nobody takes this process' signs of life at %s: %s", VARIABLE, error.strerror)


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
