"""The key journal: every act on keys that must not be forgotten, outside of the database.

Whoever changes keys writes the act here before its transaction commits. A database that was restored
from an older dump is brought up to it by ``keyvault.journal.replay``; until then it holds no vault that is
open: nothing is verified, and no act on keys is done.
"""

import logging
import time
from collections.abc import Callable
from typing import Any

from django.db import connection

from ami_headend.core.locks import KEY_JOURNAL
from ami_headend.core.sql import fetch_rows
from keyvault.journal.segments import JournalRecord
from keyvault.journal.writing import JournalError, probe, write
from keyvault.master_key import MasterKeyError

__all__ = [
    "COMMITTED",
    "LOCK",
    "OPEN",
    "RESTORED",
    "Append",
    "JournalError",
    "NotReplayedError",
    "Postponed",
    "append",
    "check_open",
    "is_open",
    "note",
    "probe",
]

logger = logging.getLogger(__name__)

Append = Callable[[str, Any], object]  # takes an act, its kind and body: ``append``, or that of ``Postponed``

COMMITTED = "audit_committed"  # the record of the audit chain before it is committed: [number, mac]
RESTORED = "audit_restored"  # the chain goes on from here after a restore: [number, mac]

# A condition for statements. The table has one row, which no dump holds: a restored database is not open.
OPEN = "EXISTS (SELECT 1 FROM keyvault_journal_replayed)"


class NotReplayedError(JournalError):
    """The database was restored from a dump, and what came later was not replayed into it yet."""

    def __init__(self) -> None:
        super().__init__(
            "this database was restored, and the key journal was not replayed into it yet: manage.py restore --replay"
        )


def append(kind: str, body: Any) -> int:
    """Write an act to the journal, on the disk when this returns, in the transaction that does it; gives its number.

    Numbers grow in the order of the acts, over all hosts: it is called after the statements that lock
    what the act changes. Raises JournalError where it cannot be written: then the act must not happen. Should
    the transaction not commit, the journal tells of an act that was not done, which a replay survives.
    """
    if not connection.in_atomic_block:
        raise RuntimeError("an act is journaled in the transaction that does it")
    [(number, is_replayed)] = fetch_rows(
        f"""WITH locked AS MATERIALIZED (SELECT pg_advisory_xact_lock_shared(%s))
            SELECT nextval('keyvault_journal_number'), {OPEN} FROM locked""",
        KEY_JOURNAL,
    )
    if not is_replayed:
        raise NotReplayedError
    write(JournalRecord(number, time.time_ns() // 1000, kind, body))
    return int(number)


class Postponed:
    """Acts of a transaction that are written to the journal only once nothing is likely to undo them any more."""

    def __init__(self) -> None:
        self._acts: list[tuple[str, Any]] = []

    def append(self, kind: str, body: Any) -> None:
        """Take an act that was done; it is written by ``write``, in the same transaction."""
        self._acts.append((kind, body))

    def write(self) -> None:
        """Write the acts in their order, each as ``journal.append`` does; nothing is asked where there are none."""
        for kind, body in self._acts:
            append(kind, body)


def note(number: int, kind: str, body: Any) -> None:
    """Write what became of the act of that number, after its transaction; where that fails, the act stands."""
    try:
        write(JournalRecord(number, time.time_ns() // 1000, kind, body))
    except MasterKeyError as error:
        logger.warning("the key journal lacks that act %d was committed: %s", number, error)


def is_open() -> bool:
    """Whether the journal was replayed into this database, or it never was restored. One query."""
    return bool(fetch_rows(f"SELECT {OPEN}")[0][0])


def check_open() -> None:
    """NotReplayedError where the database was restored and the journal not replayed."""
    if not is_open():
        raise NotReplayedError
