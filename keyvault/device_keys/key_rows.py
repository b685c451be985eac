"""Rows of device keys: checked, stored with their counters, replaced, moved to a state; each act is journaled."""

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from enum import Enum
from typing import Any, NamedTuple

from django.db import connection, transaction

from keyvault import journal
from keyvault.cose.structures import SYSTEM_TITLE_OCTETS
from keyvault.device_keys.errors import ProvisioningError
from keyvault.master_key import Purpose
from keyvault.models import DeviceKey, KeySource, KeyState
from keyvault.schemes.table import SCHEMES, USUAL, algorithms_of, has_key_sets

TRANSFER_EPOCH = 0  # of the device KEK, which protects no reading
FIRST_EPOCH = 1


def purpose_of(epoch: int, source: str = KeySource.STORED, scheme: str = USUAL) -> Purpose:
    """The purpose that what the row of an epoch's key holds is wrapped for: no key serves two protocols."""
    if has_key_sets(scheme):
        return Purpose.DLMS
    if source == KeySource.AGREED:
        return Purpose.PUBLIC_KEY
    return Purpose.TRANSFER_KEY if epoch == TRANSFER_EPOCH else Purpose.DEVICE_KEY


class Row(NamedTuple):
    """A device key to store: the columns of its row, without state, version and time."""

    system_title: bytes
    epoch: int
    algorithm: int
    source: str
    fleet_key_id: int | None
    wrapped: bytes | None
    master_key_version: int | None
    fingerprint: bytes
    scheme: str
    agreement_key_id: int | None


def insert(rows: list[Row], state: KeyState = KeyState.ACTIVE, tell: journal.Append = journal.append) -> None:
    """Store key rows in a state, and a counter for each, by COPY; ProvisioningError if one is invalid or exists."""
    _check(rows)
    created_at = datetime.now(UTC)
    table, counters = DeviceKey._meta.db_table, "keyvault_invocationcounter"
    with transaction.atomic(), connection.wrap_database_errors, connection.cursor() as cursor:  # COPY is not wrapped
        cursor.execute(
            "SELECT nextval(pg_get_serial_sequence(%s, 'id')) FROM generate_series(1, %s)", [table, len(rows)]
        )
        ids = [row[0] for row in cursor.fetchall()]
        with cursor.copy(
            f"COPY {table} (id, system_title, epoch, algorithm, source, fleet_key_id, wrapped, master_key_version,"
            " fingerprint, scheme, agreement_key_id, state, version, created_at) FROM STDIN"
        ) as copy:
            for key_id, row in zip(ids, rows, strict=True):
                copy.write_row((key_id, *row, state.value, 1, created_at))
        with cursor.copy(f"COPY {counters} (key_id, key_version, highest, floor) FROM STDIN") as copy:
            for key_id in ids:
                copy.write_row((key_id, 1, -1, 0))
        if rows:
            journal_keys(state, [(key_id, *row) for key_id, row in zip(ids, rows, strict=True)], tell)


def journal_keys(state: KeyState, keys: Sequence[tuple[Any, ...]], tell: journal.Append = journal.append) -> None:
    """Journal stored keys of one state, each as its id and the fields of its row; keys are wrapped."""
    tell("keys", [state.value, [list(map(_plain, key)) for key in keys]])


def _plain(one: Any) -> Any:
    """Return the value of a choice, and anything else as it is."""
    return one.value if isinstance(one, Enum) else one


def _check(rows: Sequence[Row]) -> None:
    seen = set()
    for title, epoch, algorithm, source, *_, scheme_name, _ in rows:
        if len(title) != SYSTEM_TITLE_OCTETS:
            raise ProvisioningError(f"system title {title.hex()}: {len(title)} octets instead of {SYSTEM_TITLE_OCTETS}")
        if not 0 <= epoch <= 0xFFFF:
            raise ProvisioningError(f"system title {title.hex()}: epoch {epoch} is not 0 to 65535")
        scheme = SCHEMES.get(scheme_name)
        if scheme is None or source not in scheme.sources:
            raise ProvisioningError(f"system title {title.hex()}: no scheme {scheme_name!r} takes a {source} key")
        of_usual = epoch == TRANSFER_EPOCH and not has_key_sets(scheme_name)
        algorithms = sorted(algorithms_of(USUAL if of_usual else scheme_name))
        if algorithm not in algorithms:
            raise ProvisioningError(f"system title {title.hex()}: algorithm {algorithm} is not one of {algorithms}")
        if (title, epoch) in seen:
            raise ProvisioningError(f"system title {title.hex()}: epoch {epoch} stands twice")
        seen.add((title, epoch))
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT k.system_title, k.epoch FROM unnest(%s::bytea[], %s::int[]) AS n(title, epoch)"
            " JOIN keyvault_devicekey k ON k.system_title = n.title AND k.epoch = n.epoch LIMIT 1",
            [[row[0] for row in rows], [row[1] for row in rows]],
        )
        standing = cursor.fetchone()
    if standing:
        raise ProvisioningError(f"system title {bytes(standing[0]).hex()}: epoch {standing[1]} has a key already")


def replace_transfer_keys(
    rows: Sequence[Row], tell: journal.Append = journal.append, versions: Mapping[bytes, int] | None = None
) -> None:
    """Replace transfer keys (epoch 0) by these rows, in any state, and journal them; commands under the old ones end.

    Runs in the caller's transaction, in title order. ``versions`` has the version of each present row, by title, as it
    was read. ProvisioningError if a row is gone, or moved on from its version.
    """
    if not rows:
        return
    rows = sorted(rows)
    titles = [row.system_title for row in rows]
    with connection.cursor() as cursor:
        cursor.execute(
            """SELECT 1 FROM keyvault_devicekey WHERE system_title = ANY(%s::bytea[]) AND epoch = 0
               ORDER BY system_title FOR NO KEY UPDATE""",
            [titles],
        )
        cursor.execute(
            """WITH moved AS (
                   UPDATE keyvault_devicekey k
                   SET wrapped = n.wrapped, fingerprint = n.fingerprint, algorithm = n.algorithm, source = n.source,
                       master_key_version = n.master_key, fleet_key_id = NULL, agreement_key_id = n.agreement_key_id,
                       state = 'active', version = k.version + 1
                   FROM unnest(%s::bytea[], %s::int[], %s::bytea[], %s::bytea[], %s::int[], %s::text[], %s::int[],
                               %s::int[])
                        AS n(title, version, wrapped, fingerprint, algorithm, source, master_key, agreement_key_id)
                   WHERE k.system_title = n.title AND k.epoch = 0 AND k.version = coalesce(n.version, k.version)
                   RETURNING k.id, k.version, k.system_title
               )
               UPDATE keyvault_invocationcounter c SET key_version = moved.version
               FROM moved WHERE c.key_id = moved.id RETURNING moved.system_title, moved.id""",
            [
                titles,
                [None if versions is None else versions[title] for title in titles],
                [row.wrapped for row in rows],
                [row.fingerprint for row in rows],
                [int(row.algorithm) for row in rows],
                [str(row.source) for row in rows],
                [row.master_key_version for row in rows],
                [row.agreement_key_id for row in rows],
            ],
        )
        moved = {bytes(title): key_id for title, key_id in cursor.fetchall()}
    if len(moved) != len(rows):
        raise ProvisioningError("transfer keys were changed by someone else meanwhile; try again")
    journal_keys(KeyState.ACTIVE, [(moved[row.system_title], *row) for row in rows], tell)


def set_key_state(
    key_ids: Sequence[int],
    state: KeyState,
    before: Collection[KeyState] | None = None,
    tell: journal.Append = journal.append,
) -> int:
    """Move keys to a state, at once for every worker, since the version of key and counter moves; return how many.

    ``before`` limits it to keys in one of those states; ``tell`` is as in ``provision_agreed``. Counters are locked
    first, in title order, then those of sessions, in the order in which verification locks them.
    """
    states = None if before is None else [one.value for one in before]
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(
            """SELECT 1 FROM keyvault_invocationcounter c JOIN keyvault_devicekey k ON k.id = c.key_id
               WHERE k.id = ANY(%s) ORDER BY k.system_title, k.epoch FOR UPDATE OF c""",
            [list(key_ids)],
        )
        cursor.execute(
            "SELECT 1 FROM keyvault_session WHERE key_id = ANY(%s) ORDER BY key_id, context FOR UPDATE",
            [list(key_ids)],
        )
        cursor.execute(
            """WITH moved AS (
                   UPDATE keyvault_devicekey SET state = %(state)s, version = version + 1,
                       retiring_at = CASE WHEN %(state)s = 'retiring' THEN now() ELSE retiring_at END
                   WHERE id = ANY(%(ids)s) AND state <> %(state)s
                     AND (%(before)s::text[] IS NULL OR state = ANY(%(before)s::text[]))
                   RETURNING id, version, system_title, epoch, fingerprint
               )
               UPDATE keyvault_invocationcounter c SET key_version = moved.version
               FROM moved WHERE c.key_id = moved.id
               RETURNING moved.system_title, moved.epoch, moved.fingerprint""",
            {"state": str(state), "ids": list(key_ids), "before": states},
        )
        moved = [(bytes(title), epoch, name and bytes(name)) for title, epoch, name in cursor.fetchall()]
        if moved:
            tell("state", [str(state), moved])
    return len(moved)
