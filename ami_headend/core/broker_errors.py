"""Errors of the broker, and a pause after each, for web, workers and schedule."""

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from kombu.exceptions import OperationalError
from limits.errors import StorageError
from redis.exceptions import RedisError

T = TypeVar("T")

# Whatever keeps Redis from taking a task: unreachable, hung (a timeout), loading, read-only, out of memory, unable to
# save (MISCONF), or with another password. None is a fault of the task, and all pass once Redis is mended. Kombu and
# limits wrap some of them and let others through; OSError is a socket's own.
BROKER_ERRORS: tuple[type[Exception], ...] = (OperationalError, StorageError, RedisError, OSError)
REST_S = 5.0


def summary(error: BaseException) -> str:
    """Return the first line of the error for logs, or its class name if it has no text."""
    return str(error).partition("\n")[0] or type(error).__name__


class RestingError(OSError):
    """Redis is not called now, because it did not answer a moment ago."""


class Rest:
    """Lets a process call Redis only once in ``rest_s`` while it does not answer, so that few callers wait for
    timeouts.

    Callers must be right without Redis too.
    """

    def __init__(self, rest_s: float = REST_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._rest_s, self._clock = rest_s, clock
        self._lock = threading.Lock()
        self._until_s: float | None = None

    def ask(self, question: Callable[[], T]) -> T:
        """Return the answer of ``question``. Raise one of BROKER_ERRORS if it fails, and at once while Redis rests."""
        with self._lock:
            if self._until_s is not None:
                if self._clock() < self._until_s:
                    raise RestingError("Redis did not answer a moment ago")
                self._until_s = self._clock() + self._rest_s  # this caller tries; the others do not wait for it
        try:
            answer = question()
        except BROKER_ERRORS:
            with self._lock:
                self._until_s = self._clock() + self._rest_s
            raise
        with self._lock:
            self._until_s = None
        return answer


redis = Rest()  # one for the process: rates and tasks are on the same server
