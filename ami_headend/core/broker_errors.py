"""What an error of the broker tells, and for how long it is left alone after one: for web, workers and schedule."""

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from kombu.exceptions import OperationalError
from limits.errors import StorageError
from redis.exceptions import RedisError

T = TypeVar("T")

# Whatever keeps Redis from taking a task: away, hung (a timeout), loading, read-only, out of memory, unable to save
# (MISCONF), another password. All of them pass once it is mended, none is a fault of the task. Kombu and limits wrap
# some of them, let others through as they are, and OSError is a socket's own.
BROKER_ERRORS: tuple[type[Exception], ...] = (OperationalError, StorageError, RedisError, OSError)
REST_S = 5.0


def summary(error: BaseException) -> str:
    """The error in one line for logs: its first line, or its name where it says nothing."""
    return str(error).partition("\n")[0] or type(error).__name__


class RestingError(OSError):
    """Redis is not asked now: it did not answer a moment ago."""


class Rest:
    """Lets a process ask Redis once in ``rest_s`` while it does not answer, so that few wait for its timeouts.

    What is done without Redis must be right without it.
    """

    def __init__(self, rest_s: float = REST_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._rest_s, self._clock = rest_s, clock
        self._lock = threading.Lock()
        self._until_s: float | None = None

    def ask(self, question: Callable[[], T]) -> T:
        """The answer of ``question``; one of BROKER_ERRORS where there is none, at once while Redis rests."""
        with self._lock:
            if self._until_s is not None:
                if self._clock() < self._until_s:
                    raise RestingError("Redis did not answer a moment ago")
                self._until_s = self._clock() + self._rest_s  # this one asks, the others do not wait for it
        try:
            answer = question()
        except BROKER_ERRORS:
            with self._lock:
                self._until_s = self._clock() + self._rest_s
            raise
        with self._lock:
            self._until_s = None
        return answer


redis = Rest()  # of this process: rates and tasks are kept in the same server
