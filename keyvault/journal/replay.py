"""Bringing a restored database up to what the key journal holds: acts that came after its dump are done again.

Records are applied in the order of their numbers, each as absolute as the act was, so that a replay may begin
before the dump's own place, or be run twice. Every layer applies the kinds that it wrote.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, Protocol

from django.db import connection, transaction

from ami_headend.core import locks
from ami_headend.core.sql import execute, fetch_rows, int_array, octets_array
from keyvault import journal, master_key
from keyvault.audit import chain
from keyvault.audit.chain import Actor
from keyvault.journal.reading import Journal
from keyvault.journal.segments import JournalRecord
from keyvault.models import Approval, AuditKey, Backup, MasterKeyRotation, RotationState
from keyvault.schemes.table import USUAL

CLOCK_MAY_LAG = timedelta(seconds=60)

Apply = Callable[[JournalRecord], object]


class ReplayError(Exception):
    """The journal cannot be replayed into this database; nothing was changed. The message says why."""


class Replayer(Protocol):
    """What one layer does of a replay: the kinds of records that it applies, and what it settles in the end."""

    @property
    def kinds(self) -> Mapping[str, Apply]: ...

    def conclude(self, now: datetime) -> Iterable[str]:
        """Settle what a restored database must not go on with; says what was settled, and what people have to do."""


@dataclass
class ReplayReport:
    """Result of a replay: records by kind, the latest number, and notes for the operator."""

    records: Counter[str] = field(default_factory=Counter)
    last_number: int = 0
    notes: list[str] = field(default_factory=list)


def restored_from() -> Backup | None:
    """The backup whose state, or a later one, this database has for certain: the journal goes on from its number.

    Of a database restored from a backup that one, whose row is unfinished in its own dump; of any other the last whole.
    """
    rows = Backup.objects.exclude(finished_at=None) if journal.is_open() else Backup.objects.all()
    return rows.order_by("-journal_number").first()


def pause() -> None:
    """Let nothing be verified, and no act on keys be done, until a replay: the database was restored in other ways."""
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

    Raises ReplayError where the clock is behind the journal (downlink counters would be used twice) or a record
    is of an unknown kind; MasterKeyError and AuditError. Then nothing was changed, and the vault stays as it was.
    """
    _check_clock(found, now)
    with transaction.atomic():
        _lock()
        outcome = apply(found, replayers, now, progress)
        execute(
            "SELECT setval('keyvault_journal_number', greatest(%s, last_value)) FROM keyvault_journal_number",
            max(outcome.last_number, 1),
        )
        execute("INSERT INTO keyvault_journal_replayed DEFAULT VALUES ON CONFLICT DO NOTHING")
        head = chain.head()
        journal.append(journal.RESTORED, [head.number, head.mac])  # what the journal knows beyond it was not whole
        told = {**subject, "records": sum(outcome.records.values()), "up_to": outcome.last_number}
        chain.record(actor, "database.restore", told, "the key journal was replayed")
    return outcome


def apply(
    found: Journal,
    replayers: Sequence[Replayer],
    now: datetime,
    progress: Callable[[int], object] = lambda records: None,
) -> ReplayReport:
    """Apply the records and settle the rest, in the caller's transaction, and open nothing: a drill ends here."""
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
    return outcome


def _lock() -> None:
    """Nobody else does an act on keys until the transaction ends."""
    locks.take(locks.KEY_JOURNAL)


def _check_clock(found: Journal, now: datetime) -> None:
    last_at = datetime.fromtimestamp(found.last_at_us / 1_000_000, UTC)
    if now < last_at - CLOCK_MAY_LAG:
        raise ReplayError(
            f"this machine's clock says {now:%Y-%m-%d %H:%M:%S} UTC, and the key journal was last written at "
            f"{last_at:%Y-%m-%d %H:%M:%S}: set the clock right first, for counters of commands go by it"
        )


class KeyReplayer:
    """The kinds that keyvault writes."""

    def __init__(self, found: Journal) -> None:
        self._audited: dict[int, tuple[dict[str, Any], bytes]] = {}
        self._at_device = _last_mentions(found)

    @property
    def kinds(self) -> Mapping[str, Apply]:
        return {
            "fleet_key": lambda record: _fleet_key(*record.body),
            "audit_key": lambda record: _audit_key(*record.body),
            "keys": lambda record: _keys(*record.body),
            "activated": lambda record: _activated(*record.body),
            "state": lambda record: _state(*record.body),
            "given": lambda record: _given(*record.body),
            "gone": self._gone,
            "sealed": lambda record: _sealed(*record.body),
            "audit": self._audit,
            "backup": lambda record: _backup(record.body),
            journal.COMMITTED: lambda record: None,  # of people who look for a chain that was cut off
            journal.RESTORED: lambda record: None,
        }

    def conclude(self, now: datetime) -> list[str]:
        notes = []
        missing = len(self._audited) - self._carry_on_audit()
        if missing:
            notes.append(f"{missing} records of the audit chain could not be put back: those before them are missing")
        active = master_key.current().active_version
        rotations = MasterKeyRotation.objects.exclude(state=RotationState.FINISHED).exclude(to_version=active)
        if rotations.update(state=RotationState.FINISHED, finished_at=now):
            notes.append("A rotation to an older master key version is ended: manage.py master_key rotate --resume")
        open_ = Approval.objects.filter(used_at=None, refused_at=None, expires_at__gt=now)
        if expired := open_.update(expires_at=now):
            notes.append(f"{expired} open approvals are expired: they may have been used. Ask for them again")
        return notes

    def _audit(self, record: JournalRecord) -> None:
        content, mac = record.body
        self._audited[content["number"]] = content, mac  # the later one: the one before was not committed

    def _carry_on_audit(self) -> int:
        known = chain.head().number
        ahead = [self._audited[number] for number in sorted(self._audited) if number > known]
        return len(self._audited) - len(ahead) + (chain.carry_on(ahead) if ahead else 0)

    def _gone(self, record: JournalRecord) -> None:
        """Pending keys that were cancelled, but for those that went to their device all the same, later."""
        keys = [key for key in record.body if self._at_device.get((key[0], key[1]), 0) < record.number]
        ids = int_array(
            row[0]
            for row in fetch_rows(
                """SELECT k.id FROM unnest(%s::bytea[], %s::int[], %s::bytea[]) AS n(title, epoch, fingerprint)
                   JOIN keyvault_devicekey k ON k.system_title = n.title AND k.epoch = n.epoch
                   WHERE k.state = 'pending' AND k.offered_at IS NULL AND k.fingerprint = n.fingerprint""",
                *_titles_and_epochs(keys),
                octets_array(key[2] or b"" for key in keys),
            )
        )
        for table in ("keyvault_invocationcounter", "keyvault_downlinkcounter", "keyvault_tagfailures"):
            execute(f"DELETE FROM {table} WHERE key_id = ANY(%s::int[])", ids)
        execute("DELETE FROM keyvault_devicekey WHERE id = ANY(%s::int[])", ids)


class _Key(NamedTuple):
    """A key as it stands in the journal."""

    id: int
    title: bytes
    epoch: int
    algorithm: int
    source: str
    fleet_key_id: int | None
    wrapped: bytes | None
    master_key_version: int | None
    fingerprint: bytes
    scheme: str = USUAL  # of a journal from before there were others


def _last_mentions(found: Journal) -> dict[tuple[bytes, int], int]:
    """The number of the last record that says that a pending key went to its device, by title and epoch."""
    last: dict[tuple[bytes, int], int] = {}
    for record in found:
        match record.kind:
            case "sealed":
                brought = [(kid[:8], epoch) for _, kid, _, epoch in record.body[1] if epoch is not None]
            case "activated" | "given":
                brought = [(key[0], key[1]) for key in record.body[1]]
            case _:
                continue
        last.update(dict.fromkeys(brought, record.number))
    return last


def _titles_and_epochs(keys: Sequence[Sequence[Any]]) -> tuple[str, str]:
    return octets_array(key[0] for key in keys), int_array(key[1] for key in keys)


def _fleet_key(number: int, name: str, wrapped: bytes, version: int) -> None:
    execute("DELETE FROM keyvault_fleetkey WHERE name = %s AND id <> %s", name, number)  # of an act not committed
    execute(
        """INSERT INTO keyvault_fleetkey (id, name, wrapped, master_key_version, created_at)
           VALUES (%s, %s, %s, %s, now()) ON CONFLICT (id) DO NOTHING""",
        number,
        name,
        wrapped,
        version,
    )
    move_past("keyvault_fleetkey", number)


def _audit_key(wrapped: bytes, version: int) -> None:
    if not AuditKey.objects.exists():
        AuditKey.objects.create(wrapped=wrapped, master_key_version=version)


# A key that frames came under is the device's own: only one that never was used gives way to another of its epoch.
# A key of another device may have the id, where the journal of a host was missing at a restore before.
_UPSERT_KEYS = """
    INSERT INTO keyvault_devicekey AS k (id, system_title, epoch, algorithm, source, fleet_key_id, wrapped,
        master_key_version, fingerprint, scheme, state, version, created_at)
    SELECT CASE WHEN EXISTS (SELECT 1 FROM keyvault_devicekey d
                             WHERE d.id = n.id AND (d.system_title <> n.title OR d.epoch <> n.epoch))
                THEN nextval(pg_get_serial_sequence('keyvault_devicekey', 'id')) ELSE n.id END,
           n.title, n.epoch, n.algorithm, n.source, n.fleet_key_id, n.wrapped, n.version, n.fingerprint, n.scheme,
           %s, 1, now()
    FROM unnest(%s::int[], %s::bytea[], %s::int[], %s::int[], %s::text[], %s::int[], %s::bytea[], %s::int[],
                %s::bytea[], %s::text[])
         AS n(id, title, epoch, algorithm, source, fleet_key_id, wrapped, version, fingerprint, scheme)
    ON CONFLICT (system_title, epoch) DO UPDATE
    SET algorithm = excluded.algorithm, source = excluded.source, fleet_key_id = excluded.fleet_key_id,
        wrapped = excluded.wrapped, master_key_version = excluded.master_key_version,
        fingerprint = excluded.fingerprint, scheme = excluded.scheme, state = excluded.state,
        version = k.version + 1, offered_at = NULL
    WHERE k.fingerprint IS DISTINCT FROM excluded.fingerprint
      AND (k.epoch = 0
           OR NOT EXISTS (SELECT 1 FROM keyvault_invocationcounter c WHERE c.key_id = k.id AND c.highest >= 0))
    RETURNING k.id, k.version
"""
# What stands in the place of a new active or pending key was written by an act that was not committed.
_GIVE_WAY = """
    UPDATE keyvault_devicekey k SET state = 'retired', version = k.version + 1
    FROM unnest(%s::bytea[], %s::int[]) AS n(title, epoch)
    WHERE k.system_title = n.title AND k.epoch <> n.epoch AND k.epoch > 0 AND n.epoch > 0 AND k.state = %s
      AND NOT EXISTS (SELECT 1 FROM keyvault_devicekey s WHERE s.system_title = n.title AND s.epoch = n.epoch)
    RETURNING k.id, k.version
"""


def _keys(state: str, rows: Sequence[Sequence[Any]]) -> None:
    """Keys that were stored, and transfer keys that took the place of others; what stands already stays as it is."""
    keys = [_Key(*row) for row in rows]
    move_past("keyvault_devicekey", max(key.id for key in keys))
    gone = fetch_rows(_GIVE_WAY, *_titles_and_epochs([key[1:3] for key in keys]), state)
    columns = [list(column) for column in zip(*keys, strict=True)]
    with connection.cursor() as cursor:  # unlike prepared statements of ours, it takes what may be NULL
        cursor.execute(_UPSERT_KEYS, [state, *columns])
        new = cursor.fetchall()
    execute(
        """INSERT INTO keyvault_invocationcounter AS c (key_id, key_version, highest, floor)
           SELECT id, version, -1, 0 FROM unnest(%s::int[], %s::int[]) AS n(id, version)
           ON CONFLICT (key_id) DO UPDATE SET key_version = excluded.key_version""",
        int_array(row[0] for row in (*gone, *new)),
        int_array(row[1] for row in (*gone, *new)),
    )


def _activated(at_s: int, keys: Sequence[Sequence[Any]]) -> None:
    where = """FROM unnest(%s::bytea[], %s::int[], %s::bytea[]) AS n(title, epoch, fingerprint)
               JOIN keyvault_devicekey new ON new.system_title = n.title AND new.epoch = n.epoch
                 AND new.fingerprint = n.fingerprint AND new.state = 'pending'"""
    named = (*_titles_and_epochs(keys), octets_array(key[2] or b"" for key in keys))
    execute(
        f"""UPDATE keyvault_devicekey old SET state = 'retiring', retiring_at = to_timestamp(%s) {where}
            WHERE old.system_title = new.system_title AND old.epoch > 0 AND old.state = 'active'""",
        at_s,
        *named,
    )
    execute(
        f"""UPDATE keyvault_devicekey k SET state = 'active', activated_at = to_timestamp(%s) {where}
            WHERE k.id = new.id""",
        at_s,
        *named,
    )


def _state(state: str, keys: Sequence[Sequence[Any]]) -> None:
    """Keys that were moved to a state; a compromised one never leaves that."""
    execute(
        """WITH moved AS (
               UPDATE keyvault_devicekey k SET state = %s, version = k.version + 1,
                   retiring_at = CASE WHEN %s = 'retiring' THEN now() ELSE k.retiring_at END
               FROM unnest(%s::bytea[], %s::int[], %s::bytea[]) AS n(title, epoch, fingerprint)
               WHERE k.system_title = n.title AND k.epoch = n.epoch
                 AND (n.fingerprint = '' OR k.fingerprint = n.fingerprint)
                 AND k.state <> %s AND k.state <> 'compromised'
               RETURNING k.id, k.version
           )
           UPDATE keyvault_invocationcounter c SET key_version = moved.version FROM moved WHERE c.key_id = moved.id""",
        state,
        state,
        *_titles_and_epochs(keys),
        octets_array(key[2] or b"" for key in keys),
        state,
    )


def _given(at_s: int, keys: Sequence[Sequence[Any]]) -> None:
    """Pending keys that went to their devices, or may have."""
    execute(
        """UPDATE keyvault_devicekey k SET offered_at = coalesce(k.offered_at, to_timestamp(%s))
           FROM unnest(%s::bytea[], %s::int[]) AS n(title, epoch)
           WHERE k.system_title = n.title AND k.epoch = n.epoch AND k.state = 'pending'""",
        at_s,
        *_titles_and_epochs(keys),
    )


def _sealed(at_s: int, commands: Sequence[Sequence[Any]]) -> None:
    """Commands that were sealed: their counters are used, and the keys that they bring are with the devices."""
    execute(
        """INSERT INTO keyvault_downlinkcounter AS d (key_id, last)
           SELECT k.id, max(n.counter) FROM unnest(%s::bytea[], %s::int[], %s::bigint[]) AS n(title, epoch, counter)
           JOIN keyvault_devicekey k ON k.system_title = n.title AND k.epoch = n.epoch GROUP BY k.id
           ON CONFLICT (key_id) DO UPDATE SET last = greatest(d.last, excluded.last)""",
        octets_array(kid[:8] for _, kid, _, _ in commands),
        int_array(int.from_bytes(kid[8:], "big") for _, kid, _, _ in commands),
        int_array(counter for _, _, counter, _ in commands),
    )
    _given(at_s, [(kid[:8], epoch) for _, kid, _, epoch in commands if epoch is not None])


def _backup(row: dict[str, Any]) -> None:
    """A backup as its row stood: retained, or pruned."""
    for name in ("made_at", "keep_until", "finished_at", "pruned_at"):
        row[name] = None if row[name] is None else datetime.fromtimestamp(row[name], UTC)
    Backup.objects.update_or_create(name=row.pop("name"), defaults=row)


def move_past(table: str, number: int) -> None:
    """Let ids of a table go on after this one: it was given out, and whoever knows it must not meet another's."""
    sequence = fetch_rows("SELECT pg_get_serial_sequence(%s, 'id')", table)[0][0]
    execute(f"SELECT setval(%s, greatest(%s, last_value)) FROM {sequence}", sequence, number)
