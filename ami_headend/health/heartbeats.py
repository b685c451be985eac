"""Heartbeats: workers, schedules and web hosts report to the database every few seconds that they live.

Heartbeats are written and read with the database's own clock, so that no host's clock makes a dead process look alive.
A thread of the worker's main process writes them, on a connection outside Django, because worker processes are forked
beside it. Each heartbeat holds the difference between the host's clock and the database's, and what is wrong on the
host: others cannot see from where they are that it does not reach Redis, or cannot write its key journal. A process
that ends properly removes its heartbeat, so one that stays and grows old is of a host or process that was lost.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import psycopg
from django.db import connection

from ami_headend.core.broker_errors import summary
from ami_headend.core.sql import fetch_rows

logger = logging.getLogger(__name__)

WORKER, SCHEDULE, WEB = "worker", "schedule", "web"
EVERY_S = 5.0
LIVES_S = 30  # a process without a heartbeat for this long counts as dead
_FORGOTTEN_DAYS = 1
_TROUBLE_LENGTH = 250
_CONNECT_TIMEOUT_S = 5
_BOUNDS = "-c statement_timeout=5s -c lock_timeout=5s"
_TELL = """INSERT INTO ami_headend_heartbeat
               (name, kind, queues, processes, started_at, beat_at, clock_off_s, trouble)
           VALUES (%(name)s, %(kind)s, %(queues)s, %(processes)s, clock_timestamp(), clock_timestamp(), %(off_s)s,
                   %(trouble)s)
           ON CONFLICT (name) DO UPDATE SET kind = excluded.kind, queues = excluded.queues,
               processes = excluded.processes, beat_at = excluded.beat_at, clock_off_s = excluded.clock_off_s,
               trouble = excluded.trouble,
               started_at = CASE WHEN %(begins)s THEN excluded.started_at
                                 ELSE ami_headend_heartbeat.started_at END"""


class Living(NamedTuple):
    """A process with a recent heartbeat; how far its host's clock is ahead of the database's; what is wrong there."""

    name: str
    kind: str
    queues: list[str]
    processes: int
    clock_off_s: float
    trouble: str


class Lost(NamedTuple):
    """A process that did not end properly and has given no sign of life since."""

    name: str
    silent_s: float


def living() -> list[Living]:
    """Return the live processes, by name."""
    rows = fetch_rows(
        """SELECT name, kind, queues, processes, clock_off_s, trouble FROM ami_headend_heartbeat
           WHERE beat_at > clock_timestamp() - make_interval(secs => %s)
             AND beat_at <= clock_timestamp() + interval '2 seconds' ORDER BY name""",
        LIVES_S,
    )
    return [Living(*row) for row in rows]


def lost() -> list[Lost]:
    """Return the processes that were lost within the last day, by name."""
    rows = fetch_rows(
        """SELECT name, extract(epoch FROM clock_timestamp() - beat_at)::float8 FROM ami_headend_heartbeat
           WHERE beat_at <= clock_timestamp() - make_interval(secs => %s)
             AND beat_at > clock_timestamp() - make_interval(days => %s) ORDER BY name""",
        LIVES_S,
        _FORGOTTEN_DAYS,
    )
    return [Lost(*row) for row in rows]


class _Looker(threading.Thread):
    """Looks at the host again and again, beside the heartbeats: a folder or a server that hangs must not stop those."""

    def __init__(self, look: Callable[[], str], ended: threading.Event) -> None:
        super().__init__(name="heartbeat-look", daemon=True)
        self._look, self._ended = look, ended
        self.trouble = ""

    def run(self) -> None:
        while not self._ended.is_set():
            try:
                self.trouble = self._look()[:_TROUBLE_LENGTH]
            except Exception as error:
                logger.exception("this host could not be looked at")
                self.trouble = f"could not be looked at: {error!r}"[:_TROUBLE_LENGTH]
            self._ended.wait(EVERY_S)


class _Keeper(threading.Thread):
    """Writes heartbeats of a process until it ends."""

    def __init__(self, name: str, kind: str, queues: Sequence[str], processes: int, look: Callable[[], str]) -> None:
        super().__init__(name="heartbeat", daemon=True)
        self._row = {"name": name[:120], "kind": kind, "queues": list(queues), "processes": processes}
        self._params: dict[str, Any] = connection.get_connection_params()
        self._ended = threading.Event()
        self._looker = _Looker(look, self._ended)
        self._begins = True
        self._trouble = ""

    def end(self) -> None:
        self._ended.set()
        self.join(2)

    def run(self) -> None:
        self._looker.start()
        while not self._ended.is_set():
            try:
                self._tell_until_it_fails()
            except (psycopg.Error, OSError) as error:
                if summary(error) != self._trouble:
                    self._trouble = summary(error)
                    logger.warning("the heartbeat of this process cannot be written to the database: %s", self._trouble)
                self._ended.wait(EVERY_S)

    def _tell_until_it_fails(self) -> None:
        options = f"{self._params.get('options', '')} {_BOUNDS}".strip()
        params = self._params | {"options": options, "connect_timeout": _CONNECT_TIMEOUT_S, "context": None}
        with psycopg.connect(**params, autocommit=True) as session:
            while True:
                told = {"off_s": _clock_off_s(session), "begins": self._begins, "trouble": self._looker.trouble}
                session.execute(_TELL, {**self._row, **told})
                self._begins, self._trouble = False, ""
                if self._ended.wait(EVERY_S):
                    session.execute("DELETE FROM ami_headend_heartbeat WHERE name = %s", [self._row["name"]])
                    return


def _clock_off_s(session: "psycopg.Connection[Any]") -> float:
    """Return how far this host's clock is ahead of the database's, in seconds; 0 within the time of the query."""
    before = time.time()
    (theirs,) = session.execute("SELECT extract(epoch FROM clock_timestamp())::float8").fetchone() or (before,)
    after = time.time()
    return float(max(before - theirs, 0.0) or min(after - theirs, 0.0))


def schedule_name(host: str) -> str:
    """Return the name of the schedule of a host."""
    return f"beat@{host}"[:120]


def web_name(host: str) -> str:
    """Return the name of the web server of a host."""
    return f"web@{host}"[:120]


_keepers: list[_Keeper] = []


def keep(name: str, kind: str, queues: Sequence[str], processes: int, look: Callable[[], str]) -> None:
    """Write heartbeats of this process until ``end``, or until it dies. ``look`` says what is wrong on its host."""
    keeper = _Keeper(name, kind, queues, processes, look)
    _keepers.append(keeper)
    keeper.start()


def end() -> None:
    """Delete the heartbeats of this process, because it ends."""
    while _keepers:
        _keepers.pop().end()


def forget() -> int:
    """Delete heartbeats of processes that died long ago; return their number."""
    return len(
        fetch_rows(
            """DELETE FROM ami_headend_heartbeat WHERE beat_at < clock_timestamp() - make_interval(days => %s)
               RETURNING name""",
            _FORGOTTEN_DAYS,
        )
    )


def forget_lost(name: str) -> bool:
    """Delete the heartbeat of a process that was lost and does not come back; whether there was one."""
    return name in {one.name for one in lost()} and bool(
        fetch_rows("DELETE FROM ami_headend_heartbeat WHERE name = %s RETURNING name", name)
    )
