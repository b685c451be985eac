"""The ciphers of devices, kept per process: bounded, and keyed by the key row's version."""

import logging
from collections.abc import Mapping

from django.conf import settings

from keyvault import masterkey
from keyvault.cose.kdf import derived_device_key, uplink_key
from keyvault.cose.sealing import DirectionCipher
from keyvault.masterkey import MasterKeyError, MasterKeys, Purpose, UnwrapError
from keyvault.provisioning import purpose_of
from keyvault.sql import fetch_rows, int_array

logger = logging.getLogger(__name__)

_SAMPLE = 50


class _Cache:
    """Two generations of entries: what was not used while the young one filled up is dropped with the old."""

    def __init__(self) -> None:
        self._young: dict[bytes, tuple[tuple[int, int], DirectionCipher]] = {}
        self._old: dict[bytes, tuple[tuple[int, int], DirectionCipher]] = {}

    def get(self, kid: bytes, row: tuple[int, int]) -> DirectionCipher | None:
        entry = self._young.get(kid)
        if entry is None:
            entry = self._old.get(kid)
            if entry is None:
                return None
            self._young[kid] = entry
        return entry[1] if entry[0] == row else None

    def put(self, kid: bytes, row: tuple[int, int], cipher: DirectionCipher) -> None:
        if len(self._young) >= max(1, settings.DEVICE_CIPHER_CACHE_SIZE // 2):
            self._old, self._young = self._young, {}
        self._young[kid] = (row, cipher)


_cache = _Cache()


def uplink_ciphers(rows: Mapping[bytes, tuple[int, int]]) -> dict[bytes, DirectionCipher]:
    """The uplink ciphers of kids, given (id, version) of each key row; at most two queries for those not kept.

    A key whose row does not open is left out and logged: its row was changed. Raises MasterKeyError
    where the master key cannot be used, or opens no row at all.
    """
    ciphers: dict[bytes, DirectionCipher] = {}
    missing: dict[int, bytes] = {}
    for kid, row in rows.items():
        cipher = _cache.get(kid, row)
        if cipher is None:
            missing[row[0]] = kid
        else:
            ciphers[kid] = cipher
    if missing:
        for kid, version, cipher in _load(missing):
            if version == rows[kid][1]:
                _cache.put(kid, rows[kid], cipher)
            ciphers[kid] = cipher
    return ciphers


def _load(missing: Mapping[int, bytes]) -> list[tuple[bytes, int, DirectionCipher]]:
    master = masterkey.current()
    keys = fetch_rows(
        """SELECT k.id, k.version, k.algorithm, k.wrapped, f.name, f.wrapped,
                  coalesce(k.master_key_version, f.master_key_version)
           FROM keyvault_devicekey k LEFT JOIN keyvault_fleetkey f ON f.id = k.fleet_key_id
           WHERE k.id = ANY(%s::int[])""",
        int_array(missing),
    )
    loaded = []
    failed: dict[int, UnwrapError] = {}
    fleet_keys: dict[str, bytes] = {}
    for key_id, version, alg, wrapped, fleet_name, fleet_wrapped, master_version in keys:
        kid = missing[key_id]
        title, epoch = kid[:8], int.from_bytes(kid[8:], "big")
        try:
            if fleet_name is None:
                octets = master.unwrap(wrapped, purpose_of(epoch), title, epoch)
            else:
                if fleet_name not in fleet_keys:
                    fleet_keys[fleet_name] = master.unwrap(fleet_wrapped, Purpose.FLEET_KEY, fleet_name.encode())
                octets = derived_device_key(fleet_keys[fleet_name], title, epoch)
        except UnwrapError as error:
            failed[master_version] = error
            logger.error("key of %s, epoch %s: %s", title.hex(), epoch, error)
        else:
            loaded.append((kid, version, DirectionCipher(uplink_key(octets, title, epoch, alg), alg)))
    for failed_version, cause in failed.items():
        _check_master_key(master, failed_version, cause)
    return loaded


def _check_master_key(master: MasterKeys, version: int, cause: UnwrapError) -> None:
    """Tell a changed row from a wrong master key: MasterKeyError where no other stored key of that version opens.

    A changed row costs its device only; with a wrong master key nothing may be judged at all.
    """
    rows = fetch_rows(
        """(SELECT system_title, epoch, wrapped FROM keyvault_devicekey WHERE master_key_version = %s
            ORDER BY id LIMIT %s)
           UNION (SELECT system_title, epoch, wrapped FROM keyvault_devicekey WHERE master_key_version = %s
            ORDER BY id DESC LIMIT %s)""",
        version,
        _SAMPLE,
        version,
        _SAMPLE,
    )
    for title, epoch, wrapped in rows:
        try:
            master.unwrap(wrapped, purpose_of(epoch), title, epoch)
        except UnwrapError:
            continue
        return
    if len(rows) != 1:
        raise MasterKeyError(f"the master key file opens no key of version {version}; is it another's? ({cause})")
