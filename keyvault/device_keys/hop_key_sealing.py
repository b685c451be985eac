"""Sealing hop keys for a concentrator: it checks hop tags with them, and opens the readings of meters of scheme hop.

They are derived from the meters' device keys for that concentrator alone, and sent in the form of commands, under its
own key (docs/schemes.md). Device keys never leave keyvault, and no key leaves it in the clear.
"""

import hashlib
from collections import Counter
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import NamedTuple

import cbor2

from ami_headend.core.sql import fetch_rows, octets_array
from keyvault import journal
from keyvault.cose.kdf import hop_key, hop_mac_key
from keyvault.cose.structures import SYSTEM_TITLE_OCTETS, make_kid
from keyvault.device_keys.command_sealing import seal_under, take_counters
from keyvault.device_keys.unwrapping import DeviceKeyOctets, open_keys
from keyvault.schemes.table import CONCENTRATOR, HOP, SCHEMES, has_key_sets

AT_A_TIME = 500  # keys in one sealed frame
_WITHOUT_HOP_KEYS = [CONCENTRATOR, *(one.name for one in SCHEMES if has_key_sets(one.name))]


class LinkKeys(NamedTuple):
    """What a concentrator is to get: the id of its own active key, and the keys of its meters with their schemes.

    ``digest`` (32 octets) changes whenever any of these keys does.
    """

    holder: int
    keys: Sequence[tuple[int, str]]
    digest: bytes


class SealedLinkKeys(NamedTuple):
    """The octets for a concentrator, and whether every key is in them: a key whose row does not open is left out."""

    octets: bytes
    are_all: bool


def link_keys(concentrator_title: bytes, meter_titles: Collection[bytes]) -> LinkKeys | None:
    """Find the pending, active and retiring keys of meters (titles of 8 octets); None if it has no active key.

    DLMS meters put no hop tag on their frames, so their key sets are left out: the concentrator passes on what they
    push as it does what it has no keys of. One query.
    """
    rows = fetch_rows(
        """SELECT id, system_title, epoch, algorithm, scheme, fingerprint, version FROM keyvault_devicekey
           WHERE system_title = ANY(%s::bytea[]) AND epoch > 0
             AND state IN ('pending', 'active', 'retiring') AND scheme <> ALL(%s)
           UNION ALL
           SELECT id, system_title, epoch, algorithm, scheme, fingerprint, version FROM keyvault_devicekey
           WHERE system_title = %s AND epoch > 0 AND state = 'active' AND scheme = %s
           ORDER BY system_title, epoch""",
        octets_array(meter_titles),
        _WITHOUT_HOP_KEYS,
        concentrator_title,
        CONCENTRATOR,
    )
    own = [row[0] for row in rows if row[1] == concentrator_title]
    if not own:
        return None
    said = [[*row[1:5], row[5] or row[6]] for row in rows]  # an old row has no fingerprint: its version stands for it
    digest = hashlib.sha256(cbor2.dumps(said)).digest()
    return LinkKeys(own[0], [(row[0], row[4]) for row in rows if row[0] != own[0]], digest)


def seal(found: LinkKeys, now: datetime) -> SealedLinkKeys:
    """Seal all keys under the key of the concentrator: a CBOR sequence of COSE_Encrypt0, up to AT_A_TIME keys in each.

    Without keys it is one item with an empty list. Takes downlink counters in the caller's transaction, which must
    commit before the octets leave; journaled. A key whose row does not open is left out and logged; the result is empty
    if that of the concentrator does not. MasterKeyError. A fixed number of queries.
    """
    opened = {key.id: key for key in open_keys([found.holder, *(key_id for key_id, _ in found.keys)])}
    own = opened.get(found.holder)
    if own is None:
        return SealedLinkKeys(b"", are_all=False)
    entries = [_entry(opened[key_id], scheme, own.system_title) for key_id, scheme in found.keys if key_id in opened]
    parts = [entries[start : start + AT_A_TIME] for start in range(0, len(entries), AT_A_TIME)] or [[]]
    first = take_counters(Counter({own.id: len(parts)}), now)[own.id]
    sealed = [seal_under(own, first + n, cbor2.dumps(part, canonical=True)) for n, part in enumerate(parts)]
    journal.append("sealed", [int(now.timestamp()), [[0, one.kid, one.counter, None] for one in sealed]])
    return SealedLinkKeys(b"".join(one.octets for one in sealed), are_all=len(entries) == len(found.keys))


def _entry(key: DeviceKeyOctets, scheme: str, concentrator_title: bytes) -> list[bytes | None]:
    """Return [kid, hop MAC key, AES key or nil, Base IV or nil]; the last two only for scheme hop."""
    title = key.system_title[:SYSTEM_TITLE_OCTETS]
    mac_key = hop_mac_key(key.octets, title, key.epoch, concentrator_title)
    if scheme != HOP:
        return [make_kid(title, key.epoch), mac_key, None, None]
    traffic = hop_key(key.octets, title, key.epoch, key.algorithm, concentrator_title)
    return [make_kid(title, key.epoch), mac_key, traffic.key, traffic.base_iv]
