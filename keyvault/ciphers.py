"""The ciphers of devices, kept by a worker: bounded, and keyed by the key row's version."""

import logging
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from django.conf import settings

from ami_headend.core.sql import fetch_rows, int_array
from keyvault import master_key
from keyvault.device_keys.provisioning import purpose_of
from keyvault.master_key import MasterKeyError, MasterKeys, Purpose, UnwrapError
from keyvault.models import KeyState
from keyvault.schemes.lines import Cipher, OpenedKey
from keyvault.schemes.table import ENVELOPES, SCHEMES, SOURCES, USUAL

logger = logging.getLogger(__name__)

_SAMPLE = 50
_PENDING = KeyState.PENDING.value


class KeyRow(NamedTuple):
    """What a device key's row says as long as its version stands; ``scheme`` is its number, None of the usual one."""

    id: int
    version: int
    state: str
    algorithm: int
    envelope: str
    content: str
    scheme: int | None = None


def key_row(key_id: int, version: int, state: str, algorithm: int, scheme: str) -> KeyRow:
    """The row of a key with the envelope and content of its scheme; no frame has those of a scheme not known here."""
    known = SCHEMES.get(scheme)
    if known is None:
        unknown = f"of unknown scheme {scheme}"
        return KeyRow(key_id, version, state, algorithm, unknown, unknown)
    number = None if scheme == USUAL else known.number
    return KeyRow(key_id, version, state, algorithm, known.envelope, known.content, number)


class KeptCiphers:
    """The ciphers that one worker keeps, with the key rows that they were made of: good while their versions stand.

    Two generations of entries: what was not used while the young one filled up is dropped with the old.
    DEVICE_CIPHER_CACHE_SIZE entries used last are kept at least, and at most twice as many.
    """

    def __init__(self) -> None:
        self._young: dict[bytes, tuple[KeyRow, Cipher]] = {}
        self._old: dict[bytes, tuple[KeyRow, Cipher]] = {}

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def kept(self, kids: Iterable[bytes]) -> dict[bytes, tuple[KeyRow, Cipher]]:
        """The uplink ciphers that are kept, by kid, with the rows as they were read.

        None of pending keys: the first frame makes them active, and leaves their version alone.
        """
        kept = self._get(kids)
        pending = [kid for kid, ((_, _, state, *_), _) in kept.items() if state == _PENDING]
        for kid in pending:
            del kept[kid]
        return kept

    def forget(self, kid: bytes) -> None:
        """Keep the cipher of a kid no longer: its row no longer stands as it was read."""
        self._young.pop(kid, None)
        self._old.pop(kid, None)

    def of(self, rows: Mapping[bytes, KeyRow]) -> dict[bytes, Cipher]:
        """The uplink ciphers of kids, given the key row of each; at most two queries for those not kept.

        A key whose row does not open is left out and logged: its row was changed. So is one of a scheme that this
        release does not know. Raises MasterKeyError where the master key cannot be used, or opens no row at all.
        """
        ciphers: dict[bytes, Cipher] = {}
        missing: dict[int, bytes] = {}
        kept = self._get(rows)
        for kid, row in rows.items():
            entry = kept.get(kid)
            if entry is None or entry[0] != row:
                if ENVELOPES.get(row.envelope) is None:
                    logger.error("key of %s: this release does not know its envelope: %s", kid.hex(), row.envelope)
                else:
                    missing[row.id] = kid
            else:
                ciphers[kid] = entry[1]
        for key in open_keys(missing) if missing else ():
            kid = missing[key.id]
            row = rows[kid]
            envelope = ENVELOPES[row.envelope]
            cipher = ciphers[kid] = envelope.cipher(key)
            if key.version == row.version:
                self._put(kid, row, cipher)
        return ciphers

    def _get(self, kids: Iterable[bytes]) -> dict[bytes, tuple[KeyRow, Cipher]]:
        young, old = self._young, self._old
        found = {}
        for kid in kids:
            entry = young.get(kid)
            if entry is None:
                entry = old.get(kid)
                if entry is None:
                    continue
                young[kid] = entry
            found[kid] = entry
        return found

    def _put(self, kid: bytes, row: KeyRow, cipher: Cipher) -> None:
        if len(self._young) >= settings.DEVICE_CIPHER_CACHE_SIZE:
            self._old, self._young = self._young, {}
        self._young[kid] = (row, cipher)


class DeviceKeyOctets(OpenedKey):
    """A device key that was opened, with the id and version of its row."""

    __slots__ = ("id", "version")

    def __init__(self, key_id: int, version: int, system_title: bytes, epoch: int, algorithm: int, octets: bytes):
        super().__init__(octets, system_title, epoch, algorithm)
        self.id, self.version = key_id, version


def open_keys(key_ids: Iterable[int]) -> list[DeviceKeyOctets]:
    """The device keys with those ids, opened; for keyvault alone.

    A key whose row does not open is left out and logged: its row was changed. Raises MasterKeyError
    where the master key cannot be used, or opens no row at all.
    """
    master = master_key.current()
    rows = fetch_rows(
        """SELECT k.id, k.version, k.system_title, k.epoch, k.algorithm, k.source, k.wrapped, f.name, f.wrapped,
                  coalesce(k.master_key_version, f.master_key_version)
           FROM keyvault_devicekey k LEFT JOIN keyvault_fleetkey f ON f.id = k.fleet_key_id
           WHERE k.id = ANY(%s::int[])""",
        int_array(key_ids),
    )
    opened = []
    failed: dict[int, UnwrapError] = {}
    fleet_keys: dict[str, bytes] = {}
    for key_id, version, title, epoch, alg, source_name, wrapped, fleet_name, fleet_wrapped, master_version in rows:
        source = SOURCES[source_name]
        try:
            if not source.is_of_fleet:
                secret = master.unwrap(wrapped, purpose_of(epoch), title, epoch)
            else:
                if fleet_name not in fleet_keys:
                    fleet_keys[fleet_name] = master.unwrap(fleet_wrapped, Purpose.FLEET_KEY, fleet_name.encode())
                secret = fleet_keys[fleet_name]
            octets = source.device_key(secret, title, epoch)
        except UnwrapError as error:
            failed[master_version] = error
            logger.error("key of %s, epoch %s: %s", title.hex(), epoch, error)
        else:
            opened.append(DeviceKeyOctets(key_id, version, title, epoch, alg, octets))
    for failed_version, cause in failed.items():
        _check_master_key(master, failed_version, cause)
    return opened


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
        raise MasterKeyError(f"the master key opens no key of version {version}; is it another's? ({cause})")
