"""Replays the key journal into a restored database: acts that came after its dump are repeated.

Records are applied in the order of their numbers. Each says the result of its act, so that a replay may begin before
the place of the dump, or run twice. Every app applies the kinds of records that it wrote.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from django.conf import settings
from django.db import transaction

from ami_headend.core import locks
from ami_headend.core.sql import execute, fetch_rows, int_array, octets_array
from ami_headend.core.text import counted
from keyvault import journal, master_key
from keyvault.audit import chain
from keyvault.audit.chain import Actor
from keyvault.journal import replay_enrolment, replay_keys, replay_masking
from keyvault.journal.reading import Journal
from keyvault.journal.segments import JournalRecord
from keyvault.models import Approval, Backup, MasterKeyRotation, RotationState

CLOCK_MAY_LAG = timedelta(seconds=60)

Apply = Callable[[JournalRecord], object]


class ReplayError(Exception):
    """The journal cannot be replayed into this database; nothing was changed. The message says why."""


class Replayer(Protocol):
    """The part of one app in a replay: the kinds of records that it applies, and what it settles at the end."""

    @property
    def kinds(self) -> Mapping[str, Apply]: ...

    def conclude(self, now: datetime) -> Iterable[str]:
        """End what a restored database must not continue; return what was ended, and what people have to do."""


@dataclass
class ReplayReport:
    """Result of a replay: records by kind, the latest number, and notes for the operator.

    ``unchained`` records of the audit chain could not be put back, because those before them are missing: the journal
    of some host was not read.
    """

    records: Counter[str] = field(default_factory=Counter)
    last_number: int = 0
    notes: list[str] = field(default_factory=list)
    unchained: int = 0


def restored_from() -> Backup | None:
    """Return the backup from whose number the journal is replayed: this database has its state, or a later one.

    A database restored from a backup has that one, unfinished in its own dump; any other the last complete one.
    """
    rows = Backup.objects.exclude(finished_at=None) if journal.is_open() else Backup.objects.all()
    return rows.order_by("-journal_number").first()


def pause() -> None:
    """Stop verification and acts on keys until a replay, because the database was restored by other means."""
    with transaction.atomic():
        _lock()
        execute("DELETE FROM keyvault_journal_replayed")


def bring_up(
    found: Journal,
    replayers: Sequence[Replayer],
    actor: Actor,
    now: datetime,
    subject: Mapping[str, Any],
    progress: Callable[[int], object] = lambda records: None,
) -> ReplayReport:
    """Replay the journal, settle the rest and open the vault, in one transaction; audited with ``subject``.

    ReplayError if the clock is behind the journal (downlink counters would be used twice) or a record is of an unknown
    kind; MasterKeyError and AuditError. Then nothing was changed.
    """
    _check_clock(found, now)
    with transaction.atomic():
        _lock()
        outcome = apply(found, replayers, now, progress)
        execute(
            "SELECT setval('keyvault_journal_number', greatest(%s, last_value)) FROM keyvault_journal_number",
            max(outcome.last_number, 1),
        )
        execute("DELETE FROM keyvault_journal_replayed")
        execute("INSERT INTO keyvault_journal_replayed DEFAULT VALUES")
        journal.bind_to_timeline(may_lag=settings.STANDBY_MAY_LAG)
        head = chain.head()
        journal.append(journal.RESTORED, [head.number, head.mac])  # later heads are given up: their records are lost
        told = {**subject, "records": sum(outcome.records.values()), "up_to": outcome.last_number}
        chain.record(actor, "database.restore", told, "the key journal was replayed")
    return outcome


def apply(
    found: Journal,
    replayers: Sequence[Replayer],
    now: datetime,
    progress: Callable[[int], object] = lambda records: None,
) -> ReplayReport:
    """Apply the records and settle the rest, in the caller's transaction; the vault stays closed (for drills)."""
    outcome = ReplayReport(last_number=found.last_number)
    for record in found:
        acts = [replayer.kinds[record.kind] for replayer in replayers if record.kind in replayer.kinds]
        if not acts:
            raise ReplayError(
                f"record {record.number} of the key journal is of kind {record.kind!r}, which this release does not "
                "know: restore with the release that wrote it, or a newer one"
            )
        for act in acts:
            act(record)
        outcome.records[record.kind] += 1
        progress(1)
    for replayer in replayers:
        outcome.notes += replayer.conclude(now)
    outcome.unchained = sum(replayer.unchained for replayer in replayers if isinstance(replayer, KeyReplayer))
    return outcome


def _lock() -> None:
    """Keep everybody else from acts on keys until the transaction ends."""
    locks.take(locks.KEY_JOURNAL)


def _check_clock(found: Journal, now: datetime) -> None:
    last_at = datetime.fromtimestamp(found.last_at_us / 1_000_000, UTC)
    if now < last_at - CLOCK_MAY_LAG:
        raise ReplayError(
            f"this machine's clock says {now:%Y-%m-%d %H:%M:%S} UTC, and the key journal was last written at "
            f"{last_at:%Y-%m-%d %H:%M:%S}: set the clock right first, for counters of commands go by it"
        )


class KeyReplayer:
    """Applies the kinds of records that keyvault writes."""

    def __init__(self, found: Journal) -> None:
        self.unchained = 0
        self._audited: dict[int, tuple[dict[str, Any], bytes]] = {}
        self._at_device = replay_keys.last_mentions(found)

    @property
    def kinds(self) -> Mapping[str, Apply]:
        return {
            "fleet_key": lambda record: replay_keys.fleet_key(*record.body),
            "agreement_key": lambda record: replay_keys.agreement_key(*record.body),
            "agreement_key_cut_off": lambda record: replay_keys.agreement_key_cut_off(*record.body),
            "public_keys": lambda record: replay_keys.public_keys(record.body),
            "authority": lambda record: replay_enrolment.authority(*record.body),
            "mask_authority": lambda record: replay_masking.pinned(*record.body),
            "mask_authority_withdrawn": lambda record: replay_masking.withdrawn(*record.body),
            "mask_requests_key": lambda record: replay_masking.requests_key(*record.body),
            "awaited": lambda record: replay_enrolment.awaited(record.body),
            "enrolled": lambda record: replay_enrolment.enrolled(record.body),
            "identities": lambda record: replay_enrolment.identities(record.body),
            "revoked": lambda record: replay_enrolment.revoked(*record.body),
            "audit_key": lambda record: replay_keys.audit_key(*record.body),
            "keys": lambda record: replay_keys.keys(*record.body),
            "activated": lambda record: replay_keys.activated(*record.body),
            "state": lambda record: replay_keys.state(*record.body),
            "given": lambda record: replay_keys.given(*record.body),
            "gone": self._gone,
            "sealed": lambda record: replay_keys.sealed(*record.body),
            "audit": self._audit,
            "backup": lambda record: _backup(record.body),
            journal.COMMITTED: lambda record: None,  # for people who look for a chain that was cut off
            journal.RESTORED: self._restored,
        }

    def conclude(self, now: datetime) -> list[str]:
        notes = []
        self.unchained = len(self._audited) - self._carry_on_audit()
        if self.unchained:
            notes.append(
                f"{counted(self.unchained, 'record')} of the audit chain could not be put back: "
                "what came before is missing"
            )
        active = master_key.current().active_version
        rotations = MasterKeyRotation.objects.exclude(state=RotationState.FINISHED).exclude(to_version=active)
        if rotations.update(state=RotationState.FINISHED, finished_at=now):
            notes.append("A rotation to an older master key version is ended: manage.py master_key rotate --resume")
        open_ = Approval.objects.filter(used_at=None, refused_at=None, expires_at__gt=now)
        if expired := open_.update(expires_at=now):
            notes.append(
                counted(
                    expired,
                    "open approval is expired: it may have been used. Ask for it again",
                    "open approvals are expired: they may have been used. Ask for them again",
                )
            )
        return notes

    def _audit(self, record: JournalRecord) -> None:
        content, mac = record.body
        self._audited[content["number"]] = content, mac  # the later one counts: the earlier one was not committed

    def _restored(self, record: JournalRecord) -> None:
        """Forget the acts that an earlier restore had lost: the chain went on from the head that it found."""
        head = record.body[0]
        self._audited = {number: one for number, one in self._audited.items() if number <= head}

    def _carry_on_audit(self) -> int:
        known = chain.head().number
        ahead = [self._audited[number] for number in sorted(self._audited) if number > known]
        return len(self._audited) - len(ahead) + (chain.carry_on(ahead) if ahead else 0)

    def _gone(self, record: JournalRecord) -> None:
        """Delete pending keys that were cancelled, except those that went to their device later all the same."""
        keys = [key for key in record.body if self._at_device.get((key[0], key[1]), 0) < record.number]
        ids = int_array(
            row[0]
            for row in fetch_rows(
                """SELECT k.id FROM unnest(%s::bytea[], %s::int[], %s::bytea[]) AS n(title, epoch, fingerprint)
                   JOIN keyvault_devicekey k ON k.system_title = n.title AND k.epoch = n.epoch
                   WHERE k.state = 'pending' AND k.offered_at IS NULL AND k.fingerprint = n.fingerprint""",
                *replay_keys.titles_and_epochs(keys),
                octets_array(key[2] or b"" for key in keys),
            )
        )
        replay_keys.delete_keys(ids)


def _backup(row: dict[str, Any]) -> None:
    """Store a backup as its row was: retained, or pruned."""
    for name in ("made_at", "keep_until", "finished_at", "pruned_at"):
        row[name] = None if row[name] is None else datetime.fromtimestamp(row[name], UTC)
    Backup.objects.update_or_create(name=row.pop("name"), defaults=row)
