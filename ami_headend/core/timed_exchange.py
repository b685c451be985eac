"""One deadline for a whole exchange over a socket: look-up, connection, TLS, every octet in both directions.

A socket's own timeout starts again with every octet, so a peer that sends one now and then can hold its caller forever.
Here a timer shuts the connection down when the time is up, whatever the caller waits for.
"""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator, Sequence


class ExchangeDeadlineError(OSError):
    """The time for the exchange is up; nothing more is read or written."""


class Exchange:
    """The remaining time, and the sockets that are shut down with it. ``exchange`` makes one."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._end = time.monotonic() + seconds
        self._guarded: list[socket.socket] = []
        self._lock = threading.Lock()

    @property
    def is_over(self) -> bool:
        """Whether the time is up; then it is the reason of any failure."""
        return time.monotonic() >= self._end

    def left_s(self) -> float:
        """Return the seconds that are left; ExchangeDeadlineError if there are none."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise ExchangeDeadlineError(f"it took longer than {self._seconds:g} seconds")
        return left

    def look_up(self, host: str, port: int) -> list[str]:
        """Return the addresses of a host name, in the system's order of preference; OSError if it has none.

        The system's resolver knows no deadline, so it runs in a thread that is abandoned when the time is up.
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
        """Return a connection to the first address that accepts one; the last error if none does."""
        failed = OSError("there is no address to connect to")
        for number, address in enumerate(addresses):
            left = self.left_s() / (
                len(addresses) - number
            )  # leaves time for the next address if this one does not answer
            try:
                connected = socket.create_connection((address, port), timeout=left)
            except OSError as error:
                failed = error
                continue
            self._guard(connected)
            if self.is_over:  # the timer may have fired before there was a socket to shut down
                connected.close()
            connected.settimeout(self.left_s())
            return connected
        raise failed

    def _guard(self, connected: socket.socket) -> None:
        with self._lock:
            self._guarded.append(connected.dup())  # TLS takes the socket over; the connection stays the same

    def end(self) -> None:
        """Shut down the connections, so that every caller waiting on one gets an error at once."""
        with self._lock:
            for one in self._guarded:
                with contextlib.suppress(OSError):  # the peer may have gone before
                    one.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the duplicate sockets."""
        with self._lock:
            for one in self._guarded:
                one.close()
            self._guarded.clear()


@contextlib.contextmanager
def exchange(seconds: float) -> Iterator[Exchange]:
    """Give an exchange that ends after ``seconds``. Failures after that are raised as ExchangeDeadlineError."""
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
