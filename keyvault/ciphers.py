"""The ciphers of devices, kept by a worker: bounded, and keyed by the key row's version."""

import logging
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from django.conf import settings

from keyvault.cose.forms import KID_OCTETS
from keyvault.device_keys.unwrapping import open_keys
from keyvault.models import KeyState
from keyvault.schemes.lines import Cipher, KeyLacksError
from keyvault.schemes.table import CONCENTRATOR, ENVELOPES, HOP, SCHEMES, USUAL

logger = logging.getLogger(__name__)

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
    # What a concentrator reports came to it from a meter of scheme hop.
    number = None if scheme == USUAL else SCHEMES[HOP].number if scheme == CONCENTRATOR else known.number
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

        Those of sessions are not kept before ``keep``: anybody may name one, and it costs nothing to make up others.
        A key whose row does not open is left out and logged: its row was changed. So is one of a scheme that this
        release does not know. Raises MasterKeyError where the master key cannot be used, or opens no row at all.
        """
        ciphers: dict[bytes, Cipher] = {}
        missing: dict[int, list[bytes]] = {}
        kept = self._get(rows)
        for kid, row in rows.items():
            entry = kept.get(kid)
            if entry is None or entry[0] != row:
                if ENVELOPES.get(row.envelope) is None:
                    logger.error("key of %s: this release does not know its envelope: %s", kid.hex(), row.envelope)
                else:
                    missing.setdefault(row.id, []).append(kid)
            else:
                ciphers[kid] = entry[1]
        for key in open_keys(missing) if missing else ():
            for kid in missing[key.id]:
                row = rows[kid]
                key.kid_context = kid[KID_OCTETS:]
                try:
                    cipher = ciphers[kid] = ENVELOPES[row.envelope].cipher(key)
                except KeyLacksError as error:
                    logger.error("key of %s: %s", kid.hex(), error)
                    continue
                if key.version == row.version and not key.kid_context:
                    self.keep(kid, row, cipher)
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

    def keep(self, kid: bytes, row: KeyRow, cipher: Cipher) -> None:
        """Keep the cipher of a kid, made of a row as it was read."""
        if len(self._young) >= settings.DEVICE_CIPHER_CACHE_SIZE:
            self._old, self._young = self._young, {}
        self._young[kid] = (row, cipher)
