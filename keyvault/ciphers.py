"""A worker's cache of device ciphers: bounded, and valid only for the version of the key row."""

import logging
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from django.conf import settings

from keyvault.cose.forms import KID_OCTETS
from keyvault.cose.structures import SYSTEM_TITLE_OCTETS
from keyvault.device_keys.unwrapping import open_keys
from keyvault.models import KeyState
from keyvault.schemes.lines import Cipher, KeyLacksError
from keyvault.schemes.table import CONCENTRATOR, ENVELOPES, HOP, SCHEMES, USUAL

logger = logging.getLogger(__name__)

_PENDING = KeyState.PENDING.value


class KeyRow(NamedTuple):
    """The row of a device key in one version. ``scheme`` is the number of its scheme, None for the usual one."""

    id: int
    version: int
    state: str
    algorithm: int
    envelope: str
    content: str
    scheme: int | None = None


def key_row(key_id: int, version: int, state: str, algorithm: int, scheme: str) -> KeyRow:
    """Return the row of a key, with envelope and content of its scheme.

    If this release does not know the scheme, they get a name that no frame can have.
    """
    known = SCHEMES.get(scheme)
    if known is None:
        unknown = f"of unknown scheme {scheme}"
        return KeyRow(key_id, version, state, algorithm, unknown, unknown)
    # Readings that a concentrator reports are of scheme hop, like the meter that sent them.
    number = None if scheme == USUAL else SCHEMES[HOP].number if scheme == CONCENTRATOR else known.number
    return KeyRow(key_id, version, state, algorithm, known.envelope, known.content, number)


class KeptCiphers:
    """The cached ciphers of one worker, with the key rows they were made from. They are valid for that row version.

    The cache has two generations: when the young one is full, entries that were not used since are dropped. It keeps
    at least the DEVICE_CIPHER_CACHE_SIZE entries used last, and at most twice as many.
    """

    def __init__(self) -> None:
        self._young: dict[bytes, tuple[KeyRow, Cipher]] = {}
        self._old: dict[bytes, tuple[KeyRow, Cipher]] = {}
        self._usual: dict[bytes, bytes] = {}
        self._in_turn: dict[bytes, dict[bytes, int]] = {}

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def kept(self, kids: Iterable[bytes]) -> dict[bytes, tuple[KeyRow, Cipher]]:
        """Return the cached uplink ciphers by kid, with the rows as they were read.

        Pending keys are left out: their first frame makes them active without a new version.
        """
        kept = self._get(kids)
        pending = [kid for kid, ((_, _, state, *_), _) in kept.items() if state == _PENDING]
        for kid in pending:
            del kept[kid]
        return kept

    def forget(self, kid: bytes) -> None:
        """Drop the cipher of a kid, because its row has changed."""
        self._young.pop(kid, None)
        self._old.pop(kid, None)

    def of(self, rows: Mapping[bytes, KeyRow]) -> dict[bytes, Cipher]:
        """Return the uplink ciphers of kids, given the key row of each; at most two queries for those not cached.

        Ciphers of sessions are only cached by ``keep``, because anybody can invent sessions at no cost. If a key's row
        does not open (it was changed), or this release does not know its scheme, the key is left out and logged.
        MasterKeyError if the master key cannot be used, or opens no row at all.
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

    def usual_kids(self, titles: Iterable[bytes], counters: Mapping[bytes, int]) -> dict[bytes, bytes]:
        """Return, by title, the kid of the key that opened the last frame which named only the title, where known.

        If another key of the title opened one before, that whose counter was then the nearest below ``counters``.
        """
        usual, in_turn = self._usual, self._in_turn
        kids = {title: usual[title] for title in titles if title in usual}
        for title in in_turn.keys() & kids.keys():
            kids[title] = _nearest(in_turn[title], counters[title])
        return kids

    def note_usual(self, kid: bytes, counter: int) -> None:
        """Note that a key opened a frame that names only its title, and the frame's counter."""
        if len(self._usual) >= settings.DEVICE_CIPHER_CACHE_SIZE:
            self._usual.clear()
            self._in_turn.clear()
        title = kid[:SYSTEM_TITLE_OCTETS]
        before, noted = self._usual.get(title, kid), self._in_turn.get(title, {})
        if before != kid or noted:
            other = next(one for one in (before, *noted) if one != kid)
            self._in_turn[title] = {kid: counter, other: noted.get(other, -1)}
        self._usual[title] = kid

    def keep(self, kid: bytes, row: KeyRow, cipher: Cipher) -> None:
        """Cache the cipher of a kid, made from a row as it was read."""
        if len(self._young) >= settings.DEVICE_CIPHER_CACHE_SIZE:
            self._old, self._young = self._young, {}
        self._young[kid] = (row, cipher)


def _nearest(noted: Mapping[bytes, int], counter: int) -> bytes:
    """Return the kid whose counter is the nearest below another one; else the nearest of all."""
    return min(noted, key=lambda kid: (noted[kid] >= counter, abs(counter - noted[kid])))
