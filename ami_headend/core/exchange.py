"""One deadline for a whole exchange over a socket: look-up, connection, TLS, every octet of both directions.

A timeout of a socket begins anew with every octet, so that a peer that sends one now and then holds its caller without
end. Here a timer shuts the connection down when the time is over, whatever is being waited for.
"""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator, Sequence


class ExchangeDeadlineError(OSError):
    """The time for the exchange is over; nothing more is read or written."""


class Exchange:
    """What is left of the time, and the sockets that end with it. ``exchange`` makes one."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._end = time.monotonic() + seconds
        self._guarded: list[socket.socket] = []
        self._lock = threading.Lock()

    @property
    def is_over(self) -> bool:
        """Whether the time is over: what failed since then failed for that."""
        return time.monotonic() >= self._end

    def left_s(self) -> float:
        """Seconds that are left; DeadlineError where none is."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise ExchangeDeadlineError(f"it took longer than {self._seconds:g} seconds")
        return left

    def look_up(self, host: str, port: int) -> list[str]:
        """The addresses of a name, in the order in which the system prefers them; OSError where it has none.

        The system's resolver knows no deadline: it is asked in a thread, which is left to itself when the time is over.
        """
        found: list[list[str] | OSError] = []

        def ask() -> None:
            try:
                entries = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
                found.append(list(dict.fromkeys(str(entry[4][0]) for entry in entries)))
            except UnicodeError as error:
                found.append(OSError(f"{host!r} is no host name: {error}"))
            except OSError as error:
                found.append(error)

        thread = threading.Thread(target=ask, name="look-up", daemon=True)
        thread.start()
        thread.join(self.left_s())
        self.left_s()
        if isinstance(found[0], OSError):
            raise found[0]
        return found[0]

    def connect(self, addresses: Sequence[str], port: int) -> socket.socket:
        """A connection to the first address that takes one. The error of the last where none does."""
        failed = OSError("there is no address to connect to")
        for number, address in enumerate(addresses):
            left = self.left_s() / (len(addresses) - number)  # one that does not answer leaves time for the next
            try:
                connected = socket.create_connection((address, port), timeout=left)
            except OSError as error:
                failed = error
                continue
            self._guard(connected)
            if self.is_over:  # the timer may have come before there was anything to shut down
                connected.close()
            connected.settimeout(self.left_s())
            return connected
        raise failed

    def _guard(self, connected: socket.socket) -> None:
        with self._lock:
            self._guarded.append(connected.dup())  # TLS takes the socket over; the connection stays the same

    def end(self) -> None:
        """Shut down the connections; each caller that waits on one gets an error at once."""
        with self._lock:
            for one in self._guarded:
                with contextlib.suppress(OSError):  # the peer may have gone before
                    one.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Give back what was guarded."""
        with self._lock:
            for one in self._guarded:
                one.close()
            self._guarded.clear()


@contextlib.contextmanager
def exchange(seconds: float) -> Iterator[Exchange]:
    """An exchange that ends after ``seconds``, whatever the peer does. What fails by then is a DeadlineError."""
    this = Exchange(seconds)
    timer = threading.Timer(seconds, this.end)
    timer.daemon = True
    timer.start()
    try:
        yield this
    except OSError as error:
        if this.is_over and not isinstance(error, ExchangeDeadlineError):
            raise ExchangeDeadlineError(f"it took longer than {seconds:g} seconds ({error})") from error
        raise
    finally:
        timer.cancel()
        this.close()
