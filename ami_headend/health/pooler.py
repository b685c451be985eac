"""Whether a pooler stands between the head-end and its database, and whether sessions stay whole behind it.

A pooler tells each client another process id than that of the server process. In session mode a session has one server
process for as long as it lives. In transaction mode two sessions get the same one, or one session another one as soon
as the first is taken: locks of sessions, prepared statements and time limits are somebody else's (docs/scaling.md).
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager

from django.db import connection
from django.db.backends.base.base import BaseDatabaseWrapper

from ami_headend.core.sql import select

_ATTEMPTS = 5
_MODE = "Set pool_mode = session for this database: the head-end holds locks and settings in its sessions."
_BOUNDS = (
    "A pooler drops what sessions ask for (ignore_startup_parameters), and options of DATABASE_URL take its place. "
    "Give the role what it lacks: ALTER ROLE ... SET idle_in_transaction_session_timeout = '10min' (docs/scaling.md)."
)


def sessions() -> tuple[bool, str, str]:
    """Check that sessions are whole, and end if they do nothing in a transaction. One query where no pooler is."""
    process, bound = select(
        "SELECT pg_backend_pid(), extract(epoch FROM current_setting('idle_in_transaction_session_timeout')::interval)"
    )[0]
    connected = connection.connection
    is_pooled = connected is not None and connected.info.backend_pid != process
    if is_pooled and _is_shared():
        return False, "a pooler gives a session another server process with each transaction", _MODE
    if not bound:
        found = "no time limit is in force: one that hangs in a transaction holds its locks for ever"
        return False, found, _BOUNDS
    return True, "each has a server process of its own" + ", behind a pooler" * is_pooled, ""


def _is_shared() -> bool:
    """Whether two sessions that are both open meet in one server process, or one of them meets two."""
    with _session() as first, _session() as second:
        return is_shared(first, second)


def is_shared(first: Callable[..., int], second: Callable[..., int]) -> bool:
    """Do the same by two sessions: each gives the number of its process, and goes on to hold it if it is told to."""
    for _ in range(_ATTEMPTS):
        before, other = first(), second(is_held=True)
        if other == before or first() != before:
            return True
        second()
    return False


@contextmanager
def _session() -> Iterator[Callable[..., int]]:
    """Open a session of its own; give what asks it for its server process."""
    with ExitStack() as stack:
        opened = stack.enter_context(closing(connection.copy()))

        def process(*, is_held: bool = False) -> int:
            _end(opened)
            opened.set_autocommit(not is_held)
            with opened.cursor() as cursor:
                cursor.execute("SELECT pg_backend_pid()")
                (found,) = cursor.fetchone()
            return int(found)

        stack.callback(_end, opened)
        yield process


def _end(opened: BaseDatabaseWrapper) -> None:
    """End the transaction that is open, if one is."""
    if not opened.get_autocommit():
        opened.rollback()
        opened.set_autocommit(True)
