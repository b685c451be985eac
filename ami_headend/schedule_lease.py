"""Which beat is at work: one of those on all hosts holds a lease in the database, the others wait for it.

The lease is a row with an end that the holder moves ahead, all by the database's clock. A row rather than an advisory
lock: it is the same behind PgBouncer, and after a host that lost power or its network the server would keep that lock
for minutes. Who cannot renew stops by its own monotonic clock before the lease can end, so no two are at work. Who
waits takes the lease over, too, if it has not moved for as long by the monotonic clock of the one who waits: the
database's clock may have been set back meanwhile.
"""

import logging
import os
import secrets
import threading
import time
from typing import Any, NamedTuple

import psycopg
from django.db import connection

from ami_headend.core.broker_errors import summary
from ami_headend.core.sql import fetch_rows

logger = logging.getLogger(__name__)

LEASE_S = 10.0  # after a kill another is at work within this and ASK_S
RENEW_S = 2.0
ASK_S = 1.0  # how often who waits asks
_MARGIN_S = 2.0  # it stops so long before the lease ends
_BOUNDS = "-c statement_timeout=2s -c lock_timeout=2s"
_TAKE = """UPDATE ami_headend_schedulelease
           SET taken_at = CASE WHEN holder = %(holder)s THEN taken_at ELSE clock_timestamp() END,
               holder = %(holder)s, host = %(host)s, until = clock_timestamp() + make_interval(secs => %(lease_s)s)
           WHERE id = 1 AND (holder = %(holder)s OR until < clock_timestamp()
                             OR (holder = %(still)s AND until = %(still_until)s)) RETURNING id"""
_LOOK = "SELECT holder, until FROM ami_headend_schedulelease WHERE id = 1"
_GIVE_UP = "UPDATE ami_headend_schedulelease SET until = clock_timestamp() WHERE id = 1 AND holder = %(holder)s"


class Holder(NamedTuple):
    """The host whose beat is at work, and for how many seconds its lease goes on; none is at work if not above 0."""

    host: str
    left_s: float


def holder() -> Holder | None:
    """Return who holds the lease, or held it last; None if no beat has ever run."""
    rows = fetch_rows(
        """SELECT host, extract(epoch FROM until - clock_timestamp())::float8 FROM ami_headend_schedulelease
           WHERE id = 1 AND holder <> ''"""
    )
    return Holder(*rows[0]) if rows else None


class Lease(threading.Thread):
    """The lease as one process sees it. A thread renews it, because a database may hang; it counts as not held then."""

    def __init__(self) -> None:
        super().__init__(name="schedule-lease", daemon=True)
        host = os.uname().nodename
        self._row = {"holder": f"{host}:{os.getpid()}:{secrets.token_hex(8)}", "host": host[:120], "lease_s": LEASE_S}
        self._params: dict[str, Any] = connection.get_connection_params()
        self._good_until = float("-inf")
        self._ended = threading.Event()
        self._trouble = ""
        self._others: tuple[Any, ...] | None = None  # lease, as it was first seen at ``_others_since``
        self._others_since = 0.0

    def is_held(self) -> bool:
        """Return whether this process is the one at work."""
        return time.monotonic() < self._good_until and not self._ended.is_set()

    def give_up(self) -> None:
        """End the lease, so that another beat goes on at once."""
        self._ended.set()
        self.join(3)

    def run(self) -> None:
        while not self._ended.is_set():
            try:
                self._renew_until_it_fails()
            except (psycopg.Error, OSError) as error:
                if summary(error) != self._trouble:
                    self._trouble = summary(error)
                    logger.warning("the lease of the schedule cannot be renewed: %s", self._trouble)
                self._ended.wait(ASK_S)

    def _renew_until_it_fails(self) -> None:
        options = f"{self._params.get('options', '')} {_BOUNDS}".strip()
        params = self._params | {"options": options, "connect_timeout": 2, "context": None}
        with psycopg.connect(**params, autocommit=True) as session:
            while not self._ended.is_set():
                # The lease begins after ``asked``: by this process's clock it ends sooner than by the database's.
                asked = time.monotonic()
                is_taken = session.execute(_TAKE, self._row | self._still(asked)).rowcount == 1
                self._trouble = ""
                self._good_until = asked + LEASE_S - _MARGIN_S if is_taken else float("-inf")
                if not is_taken:
                    self._watch(session)
                self._ended.wait(RENEW_S if is_taken else ASK_S)
            session.execute(_GIVE_UP, self._row)

    def _watch(self, session: psycopg.Connection[Any]) -> None:
        found = session.execute(_LOOK).fetchone()
        if found != self._others:
            self._others, self._others_since = found, time.monotonic()

    def _still(self, now: float) -> dict[str, Any]:
        """Return another's lease if it has not moved for LEASE_S by this process's clock: its holder does nothing."""
        if self._others is None or now - self._others_since <= LEASE_S:
            return {"still": None, "still_until": None}
        return dict(zip(("still", "still_until"), self._others, strict=True))
