"""What goes wrong in a worker: it dies at a statement, or another one acts between two of its statements."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import psycopg
import pytest
from django.db import DatabaseError, connection, connections

from concentrators.ingest import worker as ingest
from concentrators.ingest.transaction_retry import Foresight, TransientError
from keyvault import master_key

LOCK_TIMEOUT_MS = 10  # of the one that acts between: what the other has locked, it does without
_T = TypeVar("_T")


class KilledError(BaseException):
    """The process is gone, as by kill -9. No code of ours sees it."""


class Fault(NamedTuple):
    """At which statement of a call it strikes, counting from 0, and what happens there; None dies."""

    statement: int
    between: Callable[[], object] | None = None


class Worker:
    """The caches of one worker process: what it believes to know from before."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self.own = ingest.Worker()
        self._master: Any = None
        self.look_first(False)

    def look_first(self, doubts: bool) -> None:
        """Whether the process looks before it takes for true what frames foresee, as where that failed before."""
        self.own.foresight = Foresight()
        if doubts:
            self.own.foresight.failed()

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """What runs in the block runs in that process."""
        provider: Any = master_key.provider()
        before = provider._cached
        provider._cached = self._master
        try:
            yield
        finally:
            self._master = provider._cached
            provider._cached = before


class Faults:
    """Counts the statements of this thread, and strikes."""

    def __init__(self) -> None:
        self._thread = threading.get_ident()
        self._left: int | None = None
        self._act: Callable[[], object] | None = None
        self._dead = False
        self._other = ThreadPoolExecutor(1)

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Every statement of psycopg, and every commit before and after, passes by here."""
        with pytest.MonkeyPatch.context() as patch:
            for name in ("execute", "copy"):
                patch.setattr(psycopg.Cursor, name, self._passing(getattr(psycopg.Cursor, name)))
            patch.setattr(psycopg.Connection, "commit", self._passing(psycopg.Connection.commit, after=True))
            yield
        self._other.submit(lambda: connection.close()).result()  # noqa: PLW0108 - that thread's, not ours

    def run(self, call: Callable[[], _T], fault: Fault | None = None) -> _T | None:
        """What a call gives; None where it was killed, and then its connection is gone."""
        if fault is not None:
            self._left = fault.statement
            self._act = self._die if fault.between is None else self._beside(fault.between)
        try:
            return call()
        except (KilledError, DatabaseError, psycopg.Error):
            if not self._dead:
                raise
            return None
        finally:
            if self._dead:
                _drop_connection()
            self._left = self._act = None
            self._dead = False

    def _die(self) -> None:
        self._dead = True
        raise KilledError

    def _beside(self, act: Callable[[], object]) -> Callable[[], None]:
        def other() -> None:
            with connection.cursor() as cursor:
                cursor.execute(f"SET lock_timeout = {LOCK_TIMEOUT_MS}")
            try:
                act()
            except (DatabaseError, TransientError):
                return  # what it needs, the first one holds: it comes again

        return lambda: self._other.submit(other).result()

    def _passing(self, original: Callable[..., Any], *, after: bool = False) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self._pass()
            result = original(*args, **kwargs)
            if after:
                self._pass()
            return result

        return call

    def _pass(self) -> None:
        if self._left is None or threading.get_ident() != self._thread:
            return
        self._left -= 1
        if self._left < 0 and self._act is not None:
            act, self._left = self._act, None
            act()


def _drop_connection() -> None:
    raw = connection.connection
    if raw is not None:
        raw.close()
    del connections["default"]
