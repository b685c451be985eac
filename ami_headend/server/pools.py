"""Threads that answer, in independent pools. Each request has a deadline, and each queue a limit."""

import copy
import logging
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from http import HTTPStatus
from typing import Any, NamedTuple

from django.db import connections
from psycopg import Error as DriverError

from ami_headend.server.channel import ClientChannel
from ami_headend.server.request_classes import Pool
from ami_headend.server.requests import RefusedRequestError

logger = logging.getLogger(__name__)

_QUEUE_MAX = 256
_RETRY_AFTER_S = 5
_STUCK_AFTER_S = 30.0  # beyond twice the deadline: nothing that was cut off takes so long
_CUT_AFTER_S = 1.0  # PostgreSQL's own limits come first, because they leave the connection intact


class Size(NamedTuple):
    """The number of threads of a pool, and the deadline of an answer in seconds; half of it may be spent in
    the queue.
    """

    threads: int
    answer_s: float


class _Worker(threading.Thread):
    """One thread of a pool, with its own database connection, whose statements have time limits."""

    def __init__(self, pool: "_Threads", number: int) -> None:
        super().__init__(name=f"{pool.name}-{number}", daemon=True)
        self._pool = pool
        self._connection: Any = None
        self.queued_s: float | None = None  # when its present request came to the pool
        self.channel: ClientChannel | None = None
        self.is_cut = False

    def run(self) -> None:
        self._connection = _limited(self._pool.size.answer_s)
        while (channel := self._pool.take(self)) is not None:
            try:
                channel.service()
            except Exception:
                logger.exception("a request failed in the server")
            finally:
                self._pool.done(self)
        connections.close_all()

    def cut(self) -> None:
        """Stop waiting for a database that does not answer: the statement fails as if the connection had broken."""
        self.is_cut = True
        logger.error("%s: no answer within %g s, so the wait for the database was ended", self.name, self._pool.size[1])
        # The connection may have been closed just now, or not exist. (dup: nobody else closes this descriptor.)
        with (
            suppress(OSError, DriverError, AttributeError),
            socket.socket(fileno=os.dup(self._connection.connection.fileno())) as own,
        ):
            own.shutdown(socket.SHUT_RDWR)


class _Threads:
    """The queue and the threads of one pool."""

    def __init__(self, name: str, size: Size) -> None:
        self.name, self.size = name, size
        self._queue: deque[tuple[ClientChannel, float]] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._workers = [_Worker(self, number) for number in range(size.threads)]
        for worker in self._workers:
            worker.start()

    def put(self, channel: ClientChannel) -> bool:
        """Queue a channel's next request; False if the queue is full."""
        with self._changed:
            if self._stopping or len(self._queue) >= _QUEUE_MAX:
                return False
            self._queue.append((channel, time.monotonic()))
            self._changed.notify()
            return True

    def take(self, worker: _Worker) -> ClientChannel | None:
        """Return the next channel for a worker; None to stop."""
        with self._changed:
            while not self._queue:
                if self._stopping:
                    return None
                self._changed.wait()
            worker.channel, worker.queued_s = self._queue.popleft()
            return worker.channel

    def done(self, worker: _Worker) -> None:
        with self._changed:
            worker.queued_s, worker.channel, worker.is_cut = None, None, False

    def overdue(self, now_s: float) -> list[ClientChannel]:
        """Remove requests that waited too long from the queue and return them; end database waits that took
        too long.
        """
        oldest_s = now_s - self.size.answer_s
        oldest_queued_s = now_s - self.size.answer_s / 2
        with self._changed:
            for worker in self._workers:
                if worker.queued_s is not None and not worker.is_cut and worker.queued_s < oldest_s - _CUT_AFTER_S:
                    worker.cut()
            found = []
            while self._queue and self._queue[0][1] < oldest_queued_s:
                found.append(self._queue.popleft()[0])
            return found

    def is_stuck(self, now_s: float) -> bool:
        """Whether every thread of the pool has been at one request far beyond its deadline, so that none will end."""
        oldest_s = now_s - 2 * self.size.answer_s - _STUCK_AFTER_S
        with self._changed:
            return all(worker.queued_s is not None and worker.queued_s < oldest_s for worker in self._workers)

    def is_busy(self) -> bool:
        with self._changed:
            return bool(self._queue) or any(worker.queued_s is not None for worker in self._workers)

    def stop(self) -> None:
        """Let the threads end once the queue is empty."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()


class Pools:
    """waitress' task dispatcher: sends each request to the pool of its class."""

    def __init__(self, sizes: Mapping[Pool, Size]) -> None:
        self._pools = {pool: _Threads(pool.value, size) for pool, size in sizes.items()}

    def add_task(self, channel: ClientChannel) -> None:
        """Queue the first request of a channel; if its pool's queue is full, refuse it."""
        request = channel.requests[0]
        if request.error is None and not self._pools[request.request_class.pool].put(channel):
            request.error = _busy()
        if request.error is not None and not self._pools[Pool.LIVE].put(channel):
            channel.will_close = True

    def tick(self, now_s: float) -> None:
        """Refuse requests that waited too long, and end those that take too long."""
        for pool in self._pools.values():
            for channel in pool.overdue(now_s):
                channel.requests[0].error = _busy()
                self.add_task(channel)

    def is_stuck(self, now_s: float) -> bool:
        """Whether one kind of request gets no more answers, as in a deadlock: only a new process helps."""
        stuck = [name.value for name, pool in self._pools.items() if pool.is_stuck(now_s)]
        if stuck:
            logger.error("no thread for %s has finished a request for a long time", " and ".join(stuck))
        return bool(stuck)

    def is_busy(self) -> bool:
        """Whether any work is in progress."""
        return any(pool.is_busy() for pool in self._pools.values())

    def shutdown(self, cancel_pending: bool = True, timeout: float = 0) -> None:
        """Let all threads end; ``is_busy`` is False once they have."""
        for pool in self._pools.values():
            pool.stop()


def _busy() -> RefusedRequestError:
    detail = "The head-end is busy with requests of this kind; try again later."
    return RefusedRequestError(HTTPStatus.SERVICE_UNAVAILABLE, detail, _RETRY_AFTER_S)


def _limited(answer_s: float) -> Any:
    """Return this thread's database connection, with a limit for statements and half of it for locks."""
    connection = connections["default"]
    own = copy.deepcopy(connection.settings_dict)
    limits = f"-c statement_timeout={answer_s * 1000:.0f} -c lock_timeout={answer_s * 500:.0f}"
    own["OPTIONS"]["options"] = f"{own['OPTIONS'].get('options', '')} {limits}".strip()
    own["OPTIONS"]["connect_timeout"] = max(1, min(own["OPTIONS"].get("connect_timeout", 5), round(answer_s / 2)))
    connection.settings_dict = own
    return connection
