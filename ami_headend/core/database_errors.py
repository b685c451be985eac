"""Classifies errors of PostgreSQL by SQLSTATE (appendix A of its manual), for the whole project.

Exception classes say too little: a read-only database raises an InternalError, and a column of changed type a
NotSupportedError. Both pass by themselves, while some OperationalErrors never do.
"""

import enum

from django.core.exceptions import ObjectDoesNotExist
from django.db import DatabaseError, Error, InterfaceError, OperationalError, connections
from psycopg import Error as DriverError
from psycopg import InterfaceError as DriverInterfaceError
from psycopg import OperationalError as DriverOperationalError

_STATEMENT_TIMEOUT = "57014"
_LOST_RACES = frozenset({"23503", "23505"})  # a foreign key that names no row (any more), a key that is there already
_NOTHING_STORED = "did not affect any rows."  # ends what Django says of a row that save() was to change and is gone
_STATEMENT_AT_FAULT = "42"  # syntax, names, types, rights: the values do not matter


class Trouble(enum.Enum):
    """A fault of the database that is no fault of the statement; the value describes it in a few words."""

    AWAY = "does not answer"
    READ_ONLY = "cannot be written"
    BUSY = "took too long over a lock or a statement"
    FULL = "has no room, memory or connections left"
    CHANGED = "has another schema than this process expects"
    RIGHTS = "refuses a right that this process needs"


# The longest matching prefix decides. Any other state is a fault of the statement or of its values.
_BY_SQLSTATE = {
    "08": Trouble.AWAY,
    "28": Trouble.RIGHTS,  # the password or the role is refused
    "57P": Trouble.AWAY,  # shut down, crashed, starting
    "58": Trouble.AWAY,  # its disk
    "3D000": Trouble.AWAY,  # no such database (yet)
    "25006": Trouble.READ_ONLY,
    _STATEMENT_TIMEOUT: Trouble.BUSY,
    "55": Trouble.BUSY,
    "40": Trouble.BUSY,  # deadlock, serialization: another transaction won
    "25P03": Trouble.BUSY,  # a transaction, or a pause inside one, took too long
    "25P04": Trouble.BUSY,
    "53": Trouble.FULL,
    "0A000": Trouble.CHANGED,  # "cached plan must not change result type"
    "26000": Trouble.CHANGED,  # the prepared statement is gone
    "42703": Trouble.CHANGED,  # no such column
    "42804": Trouble.CHANGED,  # a column of another type
    "42883": Trouble.CHANGED,  # no such function, or operator for the type
    "42P01": Trouble.CHANGED,  # no such table
    "42501": Trouble.RIGHTS,
}
_LONGEST = max(map(len, _BY_SQLSTATE))
# The session itself is useless now; a new one may reach another server, or make new plans.
_OF_THE_SESSION = frozenset({Trouble.AWAY, Trouble.READ_ONLY, Trouble.CHANGED, Trouble.RIGHTS})


def sqlstate(error: BaseException | None) -> str:
    """Return the five characters of SQLSTATE of an error of Django or the driver; empty if the server sent none."""
    driver = error if isinstance(error, DriverError) else getattr(error, "__cause__", None)
    return getattr(driver, "sqlstate", None) or ""


def trouble_of(error: BaseException | None) -> Trouble | None:
    """Return what is wrong with the database; None if the error is the statement's fault or no error of a database."""
    if not isinstance(error, Error | DriverError):
        return None
    state = sqlstate(error)
    if not state:  # the connection broke or was never made, so no server sent a state
        lost = (OperationalError, InterfaceError, DriverOperationalError, DriverInterfaceError)
        return Trouble.AWAY if isinstance(error, lost) else None
    for length in range(_LONGEST, 1, -1):
        if found := _BY_SQLSTATE.get(state[:length]):
            return found
    return None


def is_lost_race(error: BaseException | None) -> bool:
    """Whether a row that a transaction looked for was made, or one that it names removed, before it wrote."""
    return is_gone(error) or (isinstance(error, Error | DriverError) and sqlstate(error) in _LOST_RACES)


def is_gone(error: BaseException | None) -> bool:
    """Whether a row was deleted after it was looked at: it is not found again, or no row was stored."""
    if isinstance(error, ObjectDoesNotExist):
        return not isinstance(error, AttributeError)  # a relation that is empty is a fault of ours
    return type(error) is DatabaseError and str(error).endswith(_NOTHING_STORED)


def would_come_with_any_values(error: BaseException | None) -> bool:
    """Whether the error is due to the database or to the text of the statement alone, not to the values in it.

    False for a statement that took too long and for a broken connection: the values may be the reason.
    """
    state = sqlstate(error)
    if state.startswith(_STATEMENT_AT_FAULT):
        return True
    return state not in ("", _STATEMENT_TIMEOUT) and not state.startswith("40") and trouble_of(error) is not None


def is_writable() -> bool:
    """Whether the database accepts writes: it is no standby, and no setting makes it read-only. One query."""
    with connections["default"].cursor() as cursor:
        cursor.execute("SELECT NOT (pg_is_in_recovery() OR current_setting('transaction_read_only')::bool)")
        return bool(cursor.fetchone()[0])


def close_spoilt_connections(trouble: Trouble) -> None:
    """Close this thread's connections if their sessions are the trouble; the next statement opens new ones.

    Connections inside a transaction stay open: whoever began the transaction must end it first.
    """
    if trouble in _OF_THE_SESSION:
        for connection in connections.all(initialized_only=True):
            if not connection.in_atomic_block:
                connection.close()
