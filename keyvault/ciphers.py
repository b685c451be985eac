"""The ciphers of devices, kept per process: bounded, and keyed by the key row's version."""

from collections.abc import Mapping

from django.conf import settings

from keyvault import masterkey
from keyvault.cose.kdf import derived_device_key, uplink_key
from keyvault.cose.sealing import DirectionCipher
from keyvault.masterkey import MasterKeys, Purpose
from keyvault.provisioning import purpose_of
from keyvault.sql import fetch_rows, int_array


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

    Raises UnwrapError for a row that does not open, MasterKeyError where the master key cannot be used.
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
        "SELECT id, version, algorithm, wrapped, fleet_key_id FROM keyvault_devicekey WHERE id = ANY(%s::int[])",
        int_array(missing),
    )
    fleet = _fleet_keys({row[4] for row in keys if row[4] is not None}, master)
    loaded = []
    for key_id, version, alg, wrapped, fleet_key_id in keys:
        kid = missing[key_id]
        title, epoch = kid[:8], int.from_bytes(kid[8:], "big")
        if fleet_key_id is None:
            octets = master.unwrap(wrapped, purpose_of(epoch), title, epoch)
        else:
            octets = derived_device_key(fleet[fleet_key_id], title, epoch)
        loaded.append((kid, version, DirectionCipher(uplink_key(octets, title, epoch, alg), alg)))
    return loaded


def _fleet_keys(ids: set[int], master: MasterKeys) -> dict[int, bytes]:
    if not ids:
        return {}
    rows = fetch_rows("SELECT id, name, wrapped FROM keyvault_fleetkey WHERE id = ANY(%s::int[])", int_array(ids))
    return {key_id: master.unwrap(wrapped, Purpose.FLEET_KEY, name.encode()) for key_id, name, wrapped in rows}
