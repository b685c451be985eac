"""Unwrapping device keys: the stored rows are opened under the master key, for keyvault alone.

A stored key is unwrapped; a derived key is computed from its fleet key; an agreed key is computed from the head-end's
agreement key and the public key of its meter.
"""

import logging
from collections.abc import Iterable
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from ami_headend.core.sql import fetch_rows, int_array
from keyvault import master_key
from keyvault.device_keys import agreement_keys
from keyvault.device_keys.key_rows import purpose_of
from keyvault.master_key import MasterKeyError, MasterKeys, Purpose, UnwrapError
from keyvault.schemes.lines import KeyInputs, OpenedKey
from keyvault.schemes.table import SOURCES

logger = logging.getLogger(__name__)

_SAMPLE = 50


class DeviceKeyOctets(OpenedKey):
    """A device key that was opened, with the id, version and source of its row.

    ``agreement_public`` (32 octets) is the head-end's public key of the version that the row names, where it names one.
    """

    __slots__ = ("agreement_public", "id", "source", "version")

    def __init__(self, row: "_StoredKey", octets: bytes, agreement_private: X25519PrivateKey | None):
        super().__init__(octets, row.system_title, row.epoch, row.algorithm, agreement_private)
        self.id, self.version, self.source = row.id, row.version, row.source
        self.agreement_public = row.agreement_public


class _StoredKey(NamedTuple):
    """A device key as it is stored, with the fleet key or the version of the agreement key that its row names."""

    id: int
    version: int
    system_title: bytes
    epoch: int
    algorithm: int
    source: str
    scheme: str
    wrapped: bytes | None
    fleet_name: str | None
    fleet_wrapped: bytes | None
    agreement_name: str | None
    agreement_version: int | None
    agreement_wrapped: bytes | None
    agreement_public: bytes | None
    master_key_versions: list[int]


def open_keys(key_ids: Iterable[int]) -> list[DeviceKeyOctets]:
    """The device keys with those ids, opened; for keyvault alone.

    A key whose row does not open is left out and logged: its row was changed. Raises MasterKeyError
    where the master key cannot be used, or opens no row at all.
    """
    master = master_key.current()
    rows = fetch_rows(
        """SELECT k.id, k.version, k.system_title, k.epoch, k.algorithm, k.source, k.scheme, k.wrapped,
                  f.name, f.wrapped, a.name, a.version, a.wrapped, a.public,
                  array_remove(ARRAY[k.master_key_version, f.master_key_version, a.master_key_version], NULL)
           FROM keyvault_devicekey k LEFT JOIN keyvault_fleetkey f ON f.id = k.fleet_key_id
           LEFT JOIN keyvault_agreementkey a ON a.id = k.agreement_key_id
           WHERE k.id = ANY(%s::int[])""",
        int_array(key_ids),
    )
    opened = []
    failed: dict[int, UnwrapError] = {}
    shared = _Shared(master)
    for row in map(_StoredKey._make, rows):
        try:
            opened.append(_open(row, master, shared))
        except UnwrapError as error:
            failed |= dict.fromkeys(row.master_key_versions, error)
            logger.error("key of %s, epoch %s: %s", row.system_title.hex(), row.epoch, error)
    for failed_version, cause in failed.items():
        _check_master_key(master, failed_version, cause)
    return opened


class _Shared:
    """Secrets that many device keys name, each opened once for a batch."""

    def __init__(self, master: MasterKeys) -> None:
        self._master = master
        self._fleet_keys: dict[str, bytes] = {}
        self._agreement_keys: dict[tuple[str, int], X25519PrivateKey] = {}

    def fleet_key(self, row: _StoredKey) -> bytes:
        name = row.fleet_name or ""
        if name not in self._fleet_keys:
            wrapped = row.fleet_wrapped or b""
            self._fleet_keys[name] = self._master.unwrap(wrapped, Purpose.FLEET_KEY, name.encode())
        return self._fleet_keys[name]

    def agreement_key(self, row: _StoredKey) -> X25519PrivateKey | None:
        """The private key of the version that a row names, if it names one."""
        if row.agreement_name is None:
            return None
        name = row.agreement_name, row.agreement_version or 0
        if name not in self._agreement_keys:
            wrapped, public = row.agreement_wrapped or b"", row.agreement_public or b""
            self._agreement_keys[name] = agreement_keys.open_pair(self._master, *name, wrapped, public)
        return self._agreement_keys[name]


def _open(row: _StoredKey, master: MasterKeys, shared: _Shared) -> DeviceKeyOctets:
    """A stored key, opened; UnwrapError where what it is computed from does not open."""
    source = SOURCES[row.source]
    if source.is_of_fleet:
        kept = shared.fleet_key(row)
    else:
        purpose = purpose_of(row.epoch, row.source, row.scheme)
        kept = master.unwrap(row.wrapped or b"", purpose, row.system_title, row.epoch)
    private = shared.agreement_key(row)
    octets = source.device_key(KeyInputs(kept, row.system_title, row.epoch, private))
    return DeviceKeyOctets(row, octets, private)


def _check_master_key(master: MasterKeys, version: int, cause: UnwrapError) -> None:
    """Tell a changed row from a wrong master key: MasterKeyError where no other stored key of that version opens.

    A changed row costs its device only; with a wrong master key nothing may be judged at all.
    """
    rows = fetch_rows(
        """(SELECT system_title, epoch, source, scheme, wrapped FROM keyvault_devicekey
            WHERE master_key_version = %s ORDER BY id LIMIT %s)
           UNION (SELECT system_title, epoch, source, scheme, wrapped FROM keyvault_devicekey
            WHERE master_key_version = %s ORDER BY id DESC LIMIT %s)""",
        version,
        _SAMPLE,
        version,
        _SAMPLE,
    )
    for title, epoch, source, scheme, wrapped in rows:
        try:
            master.unwrap(wrapped, purpose_of(epoch, source, scheme), title, epoch)
        except UnwrapError:
            continue
        return
    if len(rows) != 1:
        raise MasterKeyError(f"the master key opens no key of version {version}; is it another's? ({cause})")
