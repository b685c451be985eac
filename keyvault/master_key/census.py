"""The census of secrets under the master key: which version each is under, and whether it opens."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from ami_headend.core.sql import fetch_rows
from keyvault import master_key
from keyvault.audit import chain
from keyvault.device_keys.fingerprints import fingerprint
from keyvault.device_keys.key_rows import purpose_of
from keyvault.master_key import MasterKeys, Purpose, UnwrapError, wrapped_version

DEVICE_KEYS, FLEET_KEYS, AUDIT_KEYS = "keyvault_devicekey", "keyvault_fleetkey", "keyvault_auditkey"
SIGNING_SECRETS, AGREEMENT_KEYS = "keyvault_signingsecret", "keyvault_agreementkey"
TABLES = (DEVICE_KEYS, FLEET_KEYS, AUDIT_KEYS, SIGNING_SECRETS, AGREEMENT_KEYS)

_BATCH = 2_000
_PURPOSES = {
    FLEET_KEYS: Purpose.FLEET_KEY,
    AUDIT_KEYS: Purpose.AUDIT_KEY,
    SIGNING_SECRETS: Purpose.SIGNING_SECRET,
    AGREEMENT_KEYS: Purpose.AGREEMENT_KEY,
}


class Secret(NamedTuple):
    """One wrapped secret in its row; ``version`` is the one in the row, not that in its octets.

    ``epoch`` of an agreement key is the version of that key; secrets without either have 0.
    """

    table: str
    id: int
    purpose: Purpose
    owner: bytes
    epoch: int
    wrapped: bytes
    version: int
    fingerprint: bytes | None

    def __str__(self) -> str:
        if self.table == DEVICE_KEYS:
            return f"{self.purpose} of {self.owner.hex()}, epoch {self.epoch}"
        if self.table == AUDIT_KEYS:
            return "audit key"
        return f"{self.purpose} {self.owner.decode()}" + (f" version {self.epoch}" if self.epoch else "")

    def __repr__(self) -> str:
        return f"<{self}>"


class Count(NamedTuple):
    """The number of secrets of each kind under one master key version."""

    version: int
    device_keys: int
    fleet_keys: int
    audit_keys: int
    signing_secrets: int
    agreement_keys: int

    @property
    def secrets(self) -> int:
        return sum(self[1:])


class Verification(NamedTuple):
    """The number of secrets that opened, and what is wrong with each of the others."""

    opened: int
    faults: list[str]


def census() -> list[Count]:
    """Count the secrets under each version, lowest first."""
    parts = " UNION ALL ".join(
        f"SELECT master_key_version AS version, '{table}' AS kind FROM {table} WHERE master_key_version IS NOT NULL"
        for table in TABLES
    )
    counts = ", ".join(f"count(*) FILTER (WHERE kind = '{table}')" for table in TABLES)
    rows = fetch_rows(f"SELECT version, {counts} FROM ({parts}) AS s GROUP BY version ORDER BY version")
    return [Count(*row) for row in rows]


def count_not_at(version: int) -> int:
    """Count the secrets under any other version."""
    return sum(count.secrets for count in census() if count.version != version)


def count_needing(version: int) -> int:
    """Count the secrets that need this version, as their rows or their octets say."""
    head = version.to_bytes(4, "big")
    statement = " UNION ALL ".join(
        f"SELECT count(*) FROM {table} WHERE master_key_version = %s OR substring(wrapped FROM 9 FOR 4) = %s"
        for table in TABLES
    )
    return sum(row[0] for row in fetch_rows(statement, *[version, head] * len(TABLES)))


def device_keys(after_id: int, limit: int, not_at: int | None = None) -> list[Secret]:
    """Return the next stored device keys by id: all, or those not under one version."""
    rows = fetch_rows(
        """SELECT id, system_title, epoch, source, scheme, wrapped, master_key_version, fingerprint
           FROM keyvault_devicekey WHERE id > %s AND wrapped IS NOT NULL AND master_key_version IS DISTINCT FROM %s::int
           ORDER BY id LIMIT %s""",
        after_id,
        not_at,
        limit,
    )
    return [
        Secret(DEVICE_KEYS, key_id, purpose_of(epoch, source, scheme), title, epoch, wrapped, version, name)
        for key_id, title, epoch, source, scheme, wrapped, version, name in rows
    ]


def other_secrets(not_at: int | None = None) -> list[Secret]:
    """Return fleet and agreement keys, the audit key and signing secrets: all, or those not under one version."""
    owners = {
        FLEET_KEYS: "name, 0",
        AUDIT_KEYS: f"'{chain.KEY_OWNER.decode()}', 0",
        SIGNING_SECRETS: "owner, 0",
        AGREEMENT_KEYS: "name, version",
    }
    statement = " UNION ALL ".join(
        f"""SELECT '{table}' AS kind, id, {owner}, wrapped, master_key_version FROM {table}
            WHERE master_key_version IS DISTINCT FROM %s::int"""
        for table, owner in owners.items()
    )
    rows = fetch_rows(f"{statement} ORDER BY kind, id", *[not_at] * len(owners))
    return [
        Secret(table, row_id, _PURPOSES[table], owner.encode(), epoch, wrapped, version, None)
        for table, row_id, owner, epoch, wrapped, version in rows
    ]


def all_secrets(not_at: int | None = None) -> Iterator[list[Secret]]:
    """Yield every secret, batch by batch."""
    last = 0
    while batch := device_keys(last, _BATCH, not_at):
        yield batch
        last = batch[-1].id
    yield other_secrets(not_at)


def verify(progress: Callable[[int], object] = lambda done: None, not_at: int | None = None) -> Verification:
    """Open every secret, or those not under one version; ``progress`` gets the number tried since its last call."""
    master = master_key.provider().fresh()
    opened = 0
    faults: list[str] = []
    for batch in all_secrets(not_at):
        found = [f"{secret}: {fault}" for secret in batch if (fault := _fault(master, secret))]
        opened += len(batch) - len(found)
        faults += found
        progress(len(batch))
    return Verification(opened, faults)


def _fault(master: MasterKeys, secret: Secret) -> str | None:
    """Say what is wrong with a secret, if anything."""
    try:
        octets = master.unwrap(secret.wrapped, secret.purpose, secret.owner, secret.epoch)
    except UnwrapError as error:
        return str(error)
    if wrapped_version(secret.wrapped) != secret.version:
        return f"is under version {wrapped_version(secret.wrapped)}; its row says {secret.version}"
    is_key_itself = secret.fingerprint is not None and secret.purpose is not Purpose.PUBLIC_KEY
    if is_key_itself and secret.fingerprint != fingerprint(octets):
        return "its fingerprint is another key's"
    return None
