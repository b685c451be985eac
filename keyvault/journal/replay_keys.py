"""Replays the records of the key journal about keys: applies them to the tables of a restored database.

Each record says the result of its act. The act of a record may not have been committed: then a later record says
something else in its place, and that one counts.
"""

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from django.db import connection

from ami_headend.core.sql import execute, fetch_rows, int_array, octets_array
from keyvault.journal.reading import Journal
from keyvault.models import TABLES_OF_A_KEY, AuditKey
from keyvault.schemes.table import USUAL


class _Key(NamedTuple):
    """A key as the journal has it."""

    id: int
    title: bytes
    epoch: int
    algorithm: int
    source: str
    fleet_key_id: int | None
    wrapped: bytes | None
    master_key_version: int | None
    fingerprint: bytes
    scheme: str = USUAL  # older journals have no scheme
    agreement_key_id: int | None = None


def last_mentions(found: Journal) -> dict[tuple[bytes, int], int]:
    """Return, by title and epoch, the number of the last record that a pending key went to its device."""
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


def titles_and_epochs(keys: Sequence[Sequence[Any]]) -> tuple[str, str]:
    """Return titles and epochs of keys as two arrays for a statement."""
    return octets_array(key[0] for key in keys), int_array(key[1] for key in keys)


def delete_keys(ids: str) -> None:
    """Delete device keys (an array of ids) and the rows that refer to them."""
    for table in TABLES_OF_A_KEY:
        execute(f"DELETE FROM {table} WHERE key_id = ANY(%s::int[])", ids)
    execute("DELETE FROM keyvault_devicekey WHERE id = ANY(%s::int[])", ids)


def _was_committed(column: str, number: int, others: Collection[int]) -> bool:
    """Return whether a fleet or agreement key was committed, as far as is known; ``others`` have the same name.

    Of several, the one with the highest number was committed: when it was made, there was no other. The rest is deleted
    with the device keys of the same acts.
    """
    if number < max(others, default=0):
        return False
    gone = int_array(set(others) - {number})
    keys = fetch_rows(f"SELECT id FROM keyvault_devicekey WHERE {column}_id = ANY(%s::int[])", gone)
    delete_keys(int_array(row[0] for row in keys))
    execute(f"DELETE FROM keyvault_{column.replace('_', '')} WHERE id = ANY(%s::int[])", gone)
    return True


def fleet_key(number: int, name: str, wrapped: bytes, version: int) -> None:
    """A fleet key that was made."""
    others = [row[0] for row in fetch_rows("SELECT id FROM keyvault_fleetkey WHERE name = %s", name)]
    if _was_committed("fleet_key", number, others):
        execute(
            """INSERT INTO keyvault_fleetkey (id, name, wrapped, master_key_version, created_at)
               VALUES (%s, %s, %s, %s, now()) ON CONFLICT (id) DO NOTHING""",
            number,
            name,
            wrapped,
            version,
        )
    move_past("keyvault_fleetkey", number)


def agreement_key(number: int, name: str, key_version: int, public: bytes, wrapped: bytes, version: int) -> None:
    """A version of an agreement key; the newest is the active one."""
    move_past("keyvault_agreementkey", number)
    rows = fetch_rows("SELECT id, version FROM keyvault_agreementkey WHERE name = %s", name)
    if not _was_committed("agreement_key", number, [other for other, its in rows if its == key_version]):
        return
    execute(
        """UPDATE keyvault_agreementkey SET state = 'replaced', replaced_at = now()
           WHERE name = %s AND version < %s AND state = 'active'""",
        name,
        key_version,
    )
    execute(
        """INSERT INTO keyvault_agreementkey (id, name, version, public, wrapped, master_key_version, state, created_at)
           VALUES (%s, %s, %s, %s, %s, %s, %s, now()) ON CONFLICT (id) DO NOTHING""",
        number,
        name,
        key_version,
        public,
        wrapped,
        version,
        "replaced" if any(its > key_version for _, its in rows) else "active",
    )


def agreement_key_cut_off(number: int, public: bytes, at_s: int) -> None:
    """A version of an agreement key that was cut off; the keys of it come as ``state``."""
    execute(
        """UPDATE keyvault_agreementkey SET state = 'cut_off', cut_off_at = to_timestamp(%s)
           WHERE id = %s AND public = %s""",
        at_s,
        number,
        public,
    )


def public_keys(rows: Sequence[Sequence[bytes]]) -> None:
    """The owner of each public key; if an earlier record says otherwise, its act was not committed."""
    execute(
        """INSERT INTO keyvault_devicepublickey (public, system_title, created_at)
           SELECT public, title, now() FROM unnest(%s::bytea[], %s::bytea[]) AS n(public, title)
           ON CONFLICT (public) DO UPDATE SET system_title = excluded.system_title""",
        octets_array(public for public, _ in rows),
        octets_array(title for _, title in rows),
    )


def audit_key(wrapped: bytes, version: int) -> None:
    """The key of the audit chain."""
    if not AuditKey.objects.exists():
        AuditKey.objects.create(wrapped=wrapped, master_key_version=version)


# A key under which frames were accepted is the key of the device: only an unused key is replaced by another one of its
# epoch. The id may belong to a key of another device, if an earlier restore lacked the journal of a host. If the fleet
# or agreement key of a key does not exist, the act of both was not committed.
_UPSERT_KEYS = """
    INSERT INTO keyvault_devicekey AS k (id, system_title, epoch, algorithm, source, fleet_key_id, wrapped,
        master_key_version, fingerprint, scheme, agreement_key_id, state, version, created_at)
    SELECT CASE WHEN EXISTS (SELECT 1 FROM keyvault_devicekey d
                             WHERE d.id = n.id AND (d.system_title <> n.title OR d.epoch <> n.epoch))
                THEN nextval(pg_get_serial_sequence('keyvault_devicekey', 'id')) ELSE n.id END,
           n.title, n.epoch, n.algorithm, n.source, n.fleet_key_id, n.wrapped, n.version, n.fingerprint, n.scheme,
           n.agreement_key_id, %s, 1, now()
    FROM unnest(%s::int[], %s::bytea[], %s::int[], %s::int[], %s::text[], %s::int[], %s::bytea[], %s::int[],
                %s::bytea[], %s::text[], %s::int[])
         AS n(id, title, epoch, algorithm, source, fleet_key_id, wrapped, version, fingerprint, scheme,
              agreement_key_id)
    WHERE (n.fleet_key_id IS NULL OR EXISTS (SELECT 1 FROM keyvault_fleetkey f WHERE f.id = n.fleet_key_id))
      AND (n.agreement_key_id IS NULL
           OR EXISTS (SELECT 1 FROM keyvault_agreementkey a WHERE a.id = n.agreement_key_id))
    ON CONFLICT (system_title, epoch) DO UPDATE
    SET algorithm = excluded.algorithm, source = excluded.source, fleet_key_id = excluded.fleet_key_id,
        wrapped = excluded.wrapped, master_key_version = excluded.master_key_version,
        fingerprint = excluded.fingerprint, scheme = excluded.scheme,
        agreement_key_id = excluded.agreement_key_id, state = excluded.state,
        version = k.version + 1, offered_at = NULL
    WHERE (k.fingerprint, k.scheme, k.algorithm, k.agreement_key_id) IS DISTINCT FROM
          (excluded.fingerprint, excluded.scheme, excluded.algorithm, excluded.agreement_key_id)
      AND (k.epoch = 0
           OR NOT EXISTS (SELECT 1 FROM keyvault_invocationcounter c WHERE c.key_id = k.id AND c.highest >= 0)
              AND NOT EXISTS (SELECT 1 FROM keyvault_session s WHERE s.key_id = k.id))
    RETURNING k.id, k.version
"""
# An existing key in the place of a new active or pending key is from an act that was not committed.
_GIVE_WAY = """
    UPDATE keyvault_devicekey k SET state = 'retired', version = k.version + 1
    FROM unnest(%s::bytea[], %s::int[]) AS n(title, epoch)
    WHERE k.system_title = n.title AND k.epoch <> n.epoch AND k.epoch > 0 AND n.epoch > 0 AND k.state = %s
      AND NOT EXISTS (SELECT 1 FROM keyvault_devicekey s WHERE s.system_title = n.title AND s.epoch = n.epoch)
    RETURNING k.id, k.version
"""


def keys(state: str, rows: Sequence[Sequence[Any]]) -> None:
    """Keys that were stored, and transfer keys that replaced others; existing keys stay as they are."""
    keys = [_Key(*row) for row in rows]
    move_past("keyvault_devicekey", max(key.id for key in keys))
    gone = fetch_rows(_GIVE_WAY, *titles_and_epochs([key[1:3] for key in keys]), state)
    columns = [list(column) for column in zip(*keys, strict=True)]
    with connection.cursor() as cursor:  # takes NULL, unlike our prepared statements
        cursor.execute(_UPSERT_KEYS, [state, *columns])
        new = cursor.fetchall()
    execute(
        """INSERT INTO keyvault_invocationcounter AS c (key_id, key_version, highest, floor)
           SELECT id, version, -1, 0 FROM unnest(%s::int[], %s::int[]) AS n(id, version)
           ON CONFLICT (key_id) DO UPDATE SET key_version = excluded.key_version""",
        int_array(row[0] for row in (*gone, *new)),
        int_array(row[1] for row in (*gone, *new)),
    )


def activated(at_s: int, keys: Sequence[Sequence[Any]]) -> None:
    """Pending keys whose first frame was accepted."""
    where = """FROM unnest(%s::bytea[], %s::int[], %s::bytea[]) AS n(title, epoch, fingerprint)
               JOIN keyvault_devicekey new ON new.system_title = n.title AND new.epoch = n.epoch
                 AND new.fingerprint = n.fingerprint AND new.state = 'pending'"""
    named = (*titles_and_epochs(keys), octets_array(key[2] or b"" for key in keys))
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


def state(state: str, keys: Sequence[Sequence[Any]]) -> None:
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
        *titles_and_epochs(keys),
        octets_array(key[2] or b"" for key in keys),
        state,
    )


def given(at_s: int, keys: Sequence[Sequence[Any]]) -> None:
    """Pending keys that went to their devices, or may have."""
    execute(
        """UPDATE keyvault_devicekey k SET offered_at = coalesce(k.offered_at, to_timestamp(%s))
           FROM unnest(%s::bytea[], %s::int[]) AS n(title, epoch)
           WHERE k.system_title = n.title AND k.epoch = n.epoch AND k.state = 'pending'""",
        at_s,
        *titles_and_epochs(keys),
    )


def sealed(at_s: int, commands: Sequence[Sequence[Any]]) -> None:
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
    given(at_s, [(kid[:8], epoch) for _, kid, _, epoch in commands if epoch is not None])


def move_past(table: str, number: int) -> None:
    """Continue the ids of a table after this one: it was assigned, and must never name another row."""
    sequence = fetch_rows("SELECT pg_get_serial_sequence(%s, 'id')", table)[0][0]
    execute(f"SELECT setval(%s, greatest(%s, last_value)) FROM {sequence}", sequence, number)
