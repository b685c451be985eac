"""The key journal: files outside the database that hold every act on keys which a restore must not forget.

Code that changes keys writes the act to the journal before its transaction commits. ``keyvault.journal.replay`` repeats
these acts in a database that was restored from an older dump; until then nothing is verified there, and no act on keys
is done.
"""

import logging
import time
from collections.abc import Callable
from typing import Any

from django.db import connection

from ami_headend.core.locks import KEY_JOURNAL
from ami_headend.core.sql import execute, fetch_rows
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
    "bind_to_timeline",
    "check_open",
    "closes_on_promotion",
    "is_open",
    "note",
    "probe",
]

logger = logging.getLogger(__name__)

Append = Callable[[str, Any], object]  # takes the kind and body of an act: ``append``, or the one of ``Postponed``

COMMITTED = "audit_committed"  # the record of the audit chain before it is committed: [number, mac]
RESTORED = "audit_restored"  # the chain goes on from here after a restore: [number, mac]

# A condition in SQL. The table has one row, which no dump contains: a restored database is not open. Nor is one that
# was promoted and need not have every commit: its timeline is another one than that of the row.
OPEN = """EXISTS (SELECT 1 FROM keyvault_journal_replayed AS r
                  WHERE r.timeline IS NULL OR r.timeline = keyvault_timeline())"""


class NotReplayedError(JournalError):
    """The database was restored from a dump, or promoted while it lagged, and later acts are not replayed into it."""

    def __init__(self) -> None:
        super().__init__(
            "this database was restored, or is a standby that was promoted and may lack acts, and the key journal was "
            "not replayed into it yet: manage.py restore --replay"
        )


def append(kind: str, body: Any) -> int:
    """Write an act to the journal, in the transaction that does it, and return its number; it is on the disk then.

    Numbers grow in the order of the acts, over all hosts; so it is called after the statements that lock what the act
    changes. JournalError if it cannot be written: then the act must not happen. If the transaction does not commit, the
    journal has an act that was not done; a replay allows for that.
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
    """Acts of a transaction that are collected, and written to the journal at its end."""

    def __init__(self) -> None:
        self._acts: list[tuple[str, Any]] = []

    def append(self, kind: str, body: Any) -> None:
        """Collect an act that was done; ``write`` writes it, in the same transaction."""
        self._acts.append((kind, body))

    def write(self) -> None:
        """Write the acts in their order, each as ``journal.append`` does; without acts it needs no query."""
        for kind, body in self._acts:
            append(kind, body)


def note(number: int, kind: str, body: Any) -> None:
    """Write the outcome of an act, by its number, after its transaction; if that fails, the act stays done."""
    try:
        write(JournalRecord(number, time.time_ns() // 1000, kind, body))
    except MasterKeyError as error:
        logger.warning("the key journal lacks that act %d was committed: %s", number, error)


def is_open() -> bool:
    """Return whether the database never lost an act, or the journal was replayed into it. One query."""
    return bool(fetch_rows(f"SELECT {OPEN}")[0][0])


def check_open() -> None:
    """NotReplayedError if the database may lack acts and the journal was not replayed."""
    if not is_open():
        raise NotReplayedError


def bind_to_timeline(*, may_lag: bool) -> None:
    """Let every promotion close the vault until a replay, or none. Needs the role that owns the tables.

    A vault that is closed stays so.
    """
    execute(
        """UPDATE keyvault_journal_replayed
           SET timeline = CASE WHEN %s THEN coalesce(timeline, keyvault_timeline())
                               ELSE nullif(timeline, keyvault_timeline()) END""",
        may_lag,
    )


def closes_on_promotion() -> bool | None:
    """Return whether the next promotion closes the vault until a replay; None if it is closed already. One query."""
    rows = fetch_rows(f"SELECT timeline IS NOT NULL FROM keyvault_journal_replayed WHERE {OPEN}")
    return bool(rows[0][0]) if rows else None
