"""One connection. The loop moves its octets, never a thread that computes."""

import socket
import threading
import time
from http import HTTPStatus
from typing import Any, NamedTuple

from waitress.channel import HTTPChannel

from ami_headend.server.requests import AnswerTask, CheckedRequest, RefusalTask, RefusedRequestError

SEND_OCTETS = 128 * 1024
_TURN_OCTETS = 1024 * 1024  # sent to one client before others get their turn
_ROTATE_OCTETS = 64 * 1024 * 1024  # spooled: sent octets leave the disk in parts of this size
_PIPELINED_MAX = 32
_LINGER_S = 2.0
_LINGER_OCTETS = 64 * 1024 * 1024


class Deadlines(NamedTuple):
    """The time limits of a client, in seconds, each for the whole step: sending octets slowly gains no time."""

    head_s: float  # from the first octet of a request to the end of its headers
    request_s: float  # to the end of its body
    idle_s: float  # between requests
    answer_s: float  # to read an answer
    answer_grace_s: float  # an answer need not be read at all for this long
    answer_rate: float  # octets a second that must be read after that


class ClientChannel(HTTPChannel):  # type: ignore[misc]
    """waitress' channel with deadlines, which ``tick`` checks, and without a thread that waits for a client."""

    parser_class = CheckedRequest
    task_class = AnswerTask
    error_task_class = RefusalTask
    request: CheckedRequest | None
    current_outbuf_count: int
    watched = 0  # the events that the loop watches for
    lingers = False  # the client may still be sending a refused request

    def __init__(self, server: Any, sock: socket.socket, *arguments: Any, **options: Any) -> None:
        self.began_s = time.monotonic()  # start of the incoming request, or of the silence
        self.is_new = True
        self.sent_octets = 0
        self._answer_began_s: float | None = None
        self._waited_s = 0.0
        self._budget = 0
        self._drains_until_s: float | None = None
        self._drained_octets = 0
        super().__init__(server, sock, *arguments, **options)
        self.sendbuf_len = SEND_OCTETS

    # --- called by the loop ----------------------------------------------------------------------

    def received(self, data: bytes) -> bool:
        before = self.request
        found: bool = super().received(data)
        if self.request is not before:
            self.began_s = time.monotonic()
        self.is_new = False
        if len(self.requests) > _PIPELINED_MAX:
            self.will_close = True
        return found

    def readable(self) -> bool:
        return self._drains_until_s is not None or super().readable()

    def writable(self) -> bool:
        return self.will_close or (self._drains_until_s is None and bool(super().writable()))

    def handle_read(self) -> None:
        if self._drains_until_s is None:
            super().handle_read()
            return
        self._drained_octets += len(self.recv(self.adj.recv_bytes))  # an end of file closes the channel
        if self._drained_octets > _LINGER_OCTETS:
            self.handle_close()

    def handle_write(self) -> None:
        if not (self.lingers and self.close_when_flushed):
            super().handle_write()
            return
        self._flush_exception(self._flush_some)
        if self.will_close:
            self.handle_close()
        elif not self.total_outbufs_len:
            self._drain()

    def _drain(self) -> None:
        """Shut down sending and read on for a while: a reset would destroy the answer at the client."""
        self.close_when_flushed = False
        self._drains_until_s = time.monotonic() + _LINGER_S
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:
            self.handle_close()

    def tick(self, now_s: float, passed_s: float, deadlines: Deadlines) -> None:
        """Check the deadlines; ``passed_s`` is the time since the last check."""
        if self._drains_until_s is not None:
            self.will_close |= now_s > self._drains_until_s
        elif self.total_outbufs_len:
            self._look_at_answer(now_s, passed_s, deadlines)
        else:
            self._answer_began_s, self._waited_s = None, 0.0
            if not self.requests:
                self._look_at_request(now_s - self.began_s, deadlines)

    def _look_at_answer(self, now_s: float, passed_s: float, deadlines: Deadlines) -> None:
        if self._answer_began_s is None:
            self._answer_began_s, self.sent_octets = now_s, 0
        self._waited_s += passed_s
        allowed_s = deadlines.answer_grace_s + self.sent_octets / deadlines.answer_rate
        if self._waited_s > allowed_s or now_s - self._answer_began_s > deadlines.answer_s:
            self.logger.warning("the client did not read its answer in time and was cut off: %s", self.addr[0])
            self.cut()

    def _look_at_request(self, since_s: float, deadlines: Deadlines) -> None:
        request = self.request
        if request is None:
            self.will_close |= since_s > (deadlines.head_s if self.is_new else deadlines.idle_s)
        elif since_s > (deadlines.request_s if request.headers_finished else deadlines.head_s):
            self.refuse(
                RefusedRequestError(HTTPStatus.REQUEST_TIMEOUT, "The request did not arrive completely in time.")
            )

    def refuse(self, refusal: RefusedRequestError) -> None:
        """Refuse a request that did not arrive completely."""
        with self.requests_lock:
            request, self.request = self.request, None
            if request is None or self.requests:
                return
            request.error, request.completed = refusal, True
            self.requests.append(request)
            self.server.add_task(self)

    def cut(self) -> None:
        """Close without sending anything more."""
        self.will_close = True
        with self.outbuf_lock:
            self.total_outbufs_len = 0  # nothing more to flush before the loop closes it
        self.server.touch(self)

    @property
    def age_key(self) -> tuple[int, float] | None:
        """Sort key for closing channels when there are too many, the smallest first; None while it has work."""
        if self.requests or self.will_close:
            return None
        return (1 if self.total_outbufs_len else 0, self.began_s)

    @property
    def held_octets(self) -> int:
        """Octets that are held for this client in memory or on disk."""
        request = self.request
        body = request.body_rcv if request is not None else None
        return int(self.total_outbufs_len) + (len(body) if body is not None else 0)

    # --- also called by threads ------------------------------------------------------------------

    def send(self, data: bytes, do_close: bool = True) -> int:
        if self._budget <= 0:
            return 0
        sent: int = super().send(data, do_close=do_close)
        self._budget -= sent
        self.sent_octets += sent
        return sent

    def _flush_some(self, do_close: bool = True) -> bool:
        self._budget = _TURN_OCTETS
        return bool(super()._flush_some(do_close=do_close))

    def write_soon(self, data: Any) -> int:
        if self.current_outbuf_count >= _ROTATE_OCTETS:
            self.current_outbuf_count = self.adj.outbuf_high_watermark
        return int(super().write_soon(data))

    def service(self) -> None:
        """Answer one request in a thread of its pool."""
        _serving.channel = self
        try:
            super().service()
        finally:
            self.began_s = time.monotonic()
            self.server.touch(self)

    def handle_close(self) -> None:
        if self.request is not None:
            self.request.close()  # closes its spool file too
        super().handle_close()

    def del_channel(self, map: Any = None) -> None:  # noqa: A002 - as waitress calls it
        self.server.forget(self)
        super().del_channel(map)


_serving = threading.local()


def serving() -> ClientChannel | None:
    """Return the channel whose request this thread answers."""
    return getattr(_serving, "channel", None)
