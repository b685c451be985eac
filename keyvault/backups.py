"""The register of backups: a backup is entered before it is made, so that no master key version it needs is destroyed.

The layer above makes the dump itself (``ami_headend/backup``).
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, NamedTuple

from django.db import connection, transaction
from django.db.models import Q, QuerySet

from ami_headend.core.locks import KEY_JOURNAL
from ami_headend.core.sql import fetch_rows
from keyvault import journal
from keyvault.audit import chain
from keyvault.audit.chain import Actor, Head
from keyvault.master_key import census
from keyvault.master_key.rotation_lock import keys_for_wrapping
from keyvault.models import Backup

_POLL_S = 0.1
WAIT_S = 600
_DATES = ("made_at", "keep_until", "finished_at", "pruned_at")


class BackupError(Exception):
    """A backup cannot be made, accepted as complete, or pruned; the message says why and what to do."""


class DumpState(NamedTuple):
    """A state of the database of which a dump can be made, and its numbers."""

    id: str
    audit_head: Head


def register(name: str, place: str, keep_until: datetime, actor: Actor, now: datetime) -> Backup:
    """Enter a backup that is to be made; audited, journaled. After MasterKeyError or AuditError do not make it."""
    with transaction.atomic():
        active_version = keys_for_wrapping().active_version
        number = _last_journal_number()  # acts before the snapshot have lower numbers, or are replayed once more
        backup = Backup.objects.create(
            name=name,
            place=place,
            made_at=now,
            keep_until=keep_until,
            journal_number=number,
            versions=[count.version for count in census.census()],
            active_version=active_version,
        )
        _journal(backup)
        chain.record(actor, "backup.create", _subject(backup), "begun")
    return backup


@contextmanager
def snapshot(wait_s: float = WAIT_S) -> Iterator[DumpState]:
    """Export a snapshot in which every act is done that was in the journal when the backup was entered.

    Waits for running acts; others continue. BackupError if one takes longer than ``wait_s``.
    """
    _wait_for_acts(wait_s)
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        cursor.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
        cursor.execute("SELECT pg_export_snapshot()")
        identity: str = cursor.fetchone()[0]
        yield DumpState(identity, chain.head())


def finish(backup: Backup, sha256: bytes, octets: int, actor: Actor, now: datetime) -> None:
    """Note that a backup is complete."""
    with transaction.atomic():
        backup.sha256, backup.octets, backup.finished_at = sha256, octets, now
        backup.save(update_fields=["sha256", "octets", "finished_at"])
        _journal(backup)
        chain.record(actor, "backup.create", {**_subject(backup), "sha256": sha256.hex(), "octets": octets})


def forget(backup: Backup, actor: Actor, now: datetime, result: str) -> None:
    """Note that a backup is gone, or was never completed: it needs no master key version any more."""
    with transaction.atomic():
        backup.pruned_at = now
        backup.save(update_fields=["pruned_at"])
        _journal(backup)
        chain.record(actor, "backup.prune", _subject(backup), result)


def retained() -> QuerySet[Backup]:
    """Return the backups that exist, or may exist, the oldest first."""
    return Backup.objects.filter(pruned_at=None).order_by("made_at")


def needing(version: int) -> QuerySet[Backup]:
    """Return the backups that need a master key version, themselves or for a replay of the journal."""
    return retained().filter(Q(versions__contains=[version]) | Q(active_version__lte=version))


def _subject(backup: Backup) -> dict[str, Any]:
    return {"backup": backup.name, "place": backup.place, "journal_number": backup.journal_number}


def _journal(backup: Backup) -> None:
    fields = {name: getattr(backup, name) for name in ("name", "place", "journal_number", "active_version", "octets")}
    fields["versions"] = list(backup.versions)
    fields["sha256"] = None if backup.sha256 is None else bytes(backup.sha256)
    for name in _DATES:
        at = getattr(backup, name)
        fields[name] = None if at is None else at.timestamp()
    journal.append("backup", fields)


def _last_journal_number() -> int:
    number, is_called = fetch_rows("SELECT last_value, is_called FROM keyvault_journal_number")[0]
    return int(number) if is_called else 0


def _wait_for_acts(wait_s: float) -> None:
    """Wait until the transactions that now write to the journal have ended: their records have numbers already."""
    deadline = time.monotonic() + wait_s
    under_way = _acts_under_way()
    while under_way := under_way & _acts_under_way():
        if time.monotonic() > deadline:
            raise BackupError(
                f"acts on keys have been under way for {wait_s:.0f} s (an import?): wait for them to end, and try again"
            )
        time.sleep(_POLL_S)


def _acts_under_way() -> set[str]:
    rows = fetch_rows(
        """SELECT virtualtransaction FROM pg_locks
           WHERE locktype = 'advisory' AND classid = 0 AND objid = %s::bigint AND granted
             AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
             AND pid <> pg_backend_pid()""",
        KEY_JOURNAL,
    )
    return {row[0] for row in rows}
