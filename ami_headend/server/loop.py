"""The loop of one process: moves octets for all connections, and never waits for a single one."""

import logging
import resource
import selectors
import socket
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Any, NamedTuple

from waitress import wasyncore
from waitress.server import TcpWSGIServer

from ami_headend.server import lifesigns
from ami_headend.server.channel import ClientChannel, Deadlines, serving
from ami_headend.server.pools import Pools
from ami_headend.server.requests import Limits

logger = logging.getLogger(__name__)

BACKLOG = 1024
_TICK_S = 0.5
_ACCEPT_AT_ONCE = 64
_DESCRIPTORS_EACH = 3  # a connection, and the spool files of its request and its answer
_DESCRIPTORS_KEPT = 128
_READ, _WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


class ServerLimits(NamedTuple):
    """The limits of one process."""

    deadlines: Deadlines
    connections: int
    spool_octets: int  # of requests and answers in transit, in memory and on disk
    uplink_max_octets: int
    url_prefix: str  # such as "/ami", or empty
    stop_s: float  # for work in progress when it stops


class Server(TcpWSGIServer):  # type: ignore[misc]
    """waitress' server with a loop whose cost does not depend on idle connections.

    If there are too many connections or they hold too much, it closes those that have been idle or incomplete the
    longest, from the address with the most connections: whoever sends a whole request gets an answer.
    """

    channel_class = ClientChannel
    accepting: bool

    def __init__(
        self, application: Callable[..., Any], listening: socket.socket, pools: Pools, limits: ServerLimits
    ) -> None:
        self._deadlines, self._spool_max, self._stop_s = limits.deadlines, limits.spool_octets, limits.stop_s
        self._connections_max = _affordable(limits.connections)
        self._selector = selectors.DefaultSelector()
        self._touched: deque[Any] = deque()
        self._wake_read, self._wake_write = socket.socketpair()
        for end in (self._wake_read, self._wake_write):
            end.setblocking(False)
        self._selector.register(self._wake_read, _READ)
        self._lifesigns: int | None = None
        self._stops_at_s: float | None = None
        self._is_paused = False
        self._ticked_s = time.monotonic()
        adjustments = Limits(
            sockets=[listening],
            ident=None,
            backlog=BACKLOG,
            recv_bytes=128 * 1024,
            outbuf_overflow=256 * 1024,
            inbuf_overflow=256 * 1024,
            outbuf_high_watermark=1 << 60,
            max_request_header_size=32 * 1024,
            max_request_body_size=1 << 60,  # each class of requests has its own limit
            log_socket_errors=False,
            clear_untrusted_proxy_headers=False,  # ami_headend.core.client_ip knows the proxies
            url_prefix=limits.url_prefix,
        )
        adjustments.uplink_max_octets = limits.uplink_max_octets
        known = (listening.family, listening.type, listening.proto, listening.getsockname())
        super().__init__(
            application, {}, True, listening, dispatcher=pools, adj=adjustments, sockinfo=known, bind_socket=False
        )
        self._selector.register(self.socket, _READ, self)

    # --- the loop -------------------------------------------------------------------------------

    def run(self) -> None:
        """Serve until ``stop``, then until work in progress is done or its time is up."""
        while not self._is_over():
            for key, events in self._selector.select(_TICK_S):
                if key.data is None:
                    self._woken(key.fileobj)
                    continue
                if events & _READ and _is_open(key.data):
                    wasyncore.read(key.data)
                if events & _WRITE and _is_open(key.data):
                    wasyncore.write(key.data)
                self._renew(key.data)
            while self._touched:
                self._renew(self._touched.popleft())
            now_s = time.monotonic()
            if now_s - self._ticked_s >= _TICK_S:
                passed_s, self._ticked_s = now_s - self._ticked_s, now_s
                self._tick(now_s, passed_s)
        for channel in list(self.active_channels.values()):
            channel.handle_close()

    def stop(self) -> None:
        """Accept no more connections, and end once work in progress is done. Safe in a signal handler."""
        if self._stops_at_s is None:
            self._stops_at_s = time.monotonic() + self._stop_s
            self._wake()

    def stop_when_closed(self, other_end: int) -> None:
        """Stop when the other end of a pipe is closed, which means that its process has died."""
        self._selector.register(other_end, _READ)

    def show_life_to(self, pipe: int) -> None:
        """Send a sign of life through a pipe at every turn, as long as threads answer too."""
        self._lifesigns = pipe
        lifesigns.show(pipe)

    def _woken(self, by: Any) -> None:
        if by is self._wake_read:
            self._wake_read.recv(65536)
        else:
            self._selector.unregister(by)
            self.stop()

    def _is_over(self) -> bool:
        if self._stops_at_s is None:
            return False
        if self.accepting:
            self.accepting = False
            if not self._is_paused:
                self._selector.unregister(self.socket)
            self.socket.close()
        for channel in list(self.active_channels.values()):
            if not channel.requests and not channel.total_outbufs_len and channel.request is None:
                channel.handle_close()
        return not self.active_channels or time.monotonic() > self._stops_at_s

    def _renew(self, channel: Any) -> None:
        """Watch for the events that the channel waits for now; close it if that is all that is left."""
        if channel is self or not _is_open(channel):
            return
        if channel.will_close:
            channel.handle_close()  # without waiting until it is writable: its client may never read
            return
        wanted = (_READ if channel.readable() else 0) | (_WRITE if channel.writable() else 0)
        if wanted == channel.watched:
            return
        if channel.watched and wanted:
            self._selector.modify(channel.socket, wanted, channel)
        elif wanted:
            self._selector.register(channel.socket, wanted, channel)
        else:
            self._selector.unregister(channel.socket)
        channel.watched = wanted

    # --- called by threads --------------------------------------------------------------------------

    def pull_trigger(self) -> None:
        """Called by waitress: the channel of this thread has something to send, or waits for something else."""
        channel = serving()
        if channel is not None:
            self.touch(channel)

    def touch(self, channel: ClientChannel) -> None:
        """Let the loop look at a channel."""
        self._touched.append(channel)
        self._wake()

    def _wake(self) -> None:
        try:
            self._wake_write.send(b"x")
        except BlockingIOError:
            pass  # the loop is awake already
        except OSError:
            if self._stops_at_s is None:
                raise

    def forget(self, channel: ClientChannel) -> None:
        """Stop watching a channel that is about to be closed."""
        if channel.watched:
            self._selector.unregister(channel.socket)
            channel.watched = 0

    # --- connections ------------------------------------------------------------------------------

    def handle_accept(self) -> None:
        for _ in range(_ACCEPT_AT_ONCE):
            try:
                accepted = self.accept()
                if accepted is None:
                    return
                connection, address = accepted
                self.set_socket_options(connection)
            except OSError as error:
                logger.warning("a connection could not be accepted: %s", error.strerror)
                self._pause()
                return
            if len(self.active_channels) >= self._connections_max:
                self._evict(1 + self._connections_max // 50)
            self._renew(self.channel_class(self, connection, address, self.adj, map=self._map))

    def _pause(self) -> None:
        """Accept no connection until the next tick: without file descriptors, the loop would do nothing else."""
        if not self._is_paused:
            self._is_paused = True
            self._selector.unregister(self.socket)

    def _go_on(self) -> None:
        if self._is_paused and self.accepting:
            self._is_paused = False
            self._selector.register(self.socket, _READ, self)

    def _evict(self, number: int) -> None:
        """Close connections without work: from the address with the most first, then the longest idle or incomplete."""
        by_address = Counter(channel.addr[0] for channel in self.active_channels.values())
        candidates = [(key, channel) for channel in self.active_channels.values() if (key := channel.age_key)]
        candidates.sort(key=lambda one: (-by_address[one[1].addr[0]], one[0]))
        for _, channel in candidates[:number]:
            channel.handle_close()
        logger.warning("too many connections: %d idle or incomplete ones were closed", len(candidates[:number]))

    def _tick(self, now_s: float, passed_s: float) -> None:
        held: list[tuple[int, ClientChannel]] = []
        for channel in list(self.active_channels.values()):
            channel.tick(now_s, passed_s, self._deadlines)
            if octets := channel.held_octets:
                held.append((octets, channel))
            if channel.will_close:
                channel.handle_close()
        self.task_dispatcher.tick(now_s)
        if self._lifesigns is not None and not self.task_dispatcher.is_stuck(now_s):
            lifesigns.show(self._lifesigns)
        self._let_go(held)
        self._go_on()

    def _let_go(self, held: list[tuple[int, ClientChannel]]) -> None:
        """Cut off the clients that hold the most octets, until the total is within its limit."""
        total = sum(octets for octets, _ in held)
        for octets, channel in sorted(held, key=lambda one: -one[0]):
            if total <= self._spool_max:
                return
            logger.error("%d octets wait for clients: the largest answer, to %s, is cut off", total, channel.addr[0])
            channel.handle_close()
            total -= octets

    def readable(self) -> bool:
        return self.accepting


def _is_open(channel: Any) -> bool:
    return channel._fileno is not None  # noqa: SLF001 - waitress has no other name for it


def _affordable(connections: int) -> int:
    """Return the number of connections, limited by the files that the process may open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections * _DESCRIPTORS_EACH + _DESCRIPTORS_KEPT
    if soft < wanted:
        soft = min(wanted, hard) if hard != resource.RLIM_INFINITY else wanted
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return max(1, min(connections, (soft - _DESCRIPTORS_KEPT) // _DESCRIPTORS_EACH))
