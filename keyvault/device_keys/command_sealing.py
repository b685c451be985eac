"""Sealing commands to meters: key commands under the transfer key (epoch 0), all others under the active epoch.

A command is sealed once under a key, and sent again octet for octet. Only a command that sets the clock is sealed anew,
because its time must be right. Key octets never leave keyvault: the plaintext of a key command is built here.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

import cbor2

from ami_headend.core.sql import fetch_rows, int_array, octets_array
from keyvault import journal
from keyvault.cose.algorithms import command_algorithm
from keyvault.cose.kdf import downlink_key
from keyvault.cose.sealing import DirectionCipher
from keyvault.cose.structures import make_kid
from keyvault.device_keys.key_rows import TRANSFER_EPOCH
from keyvault.device_keys.last_heard import HIGHEST
from keyvault.device_keys.unwrapping import DeviceKeyOctets, open_keys
from keyvault.models import KeySource, KeyState
from keyvault.schemes.table import SCHEMES, USUAL, needs_agreement_key

SET_KEY, SET_AGREED_KEY = 1, 6
COUNTERS_PER_S = 256


class KeyCommand(NamedTuple):
    """A command that brings a device the key of a pending epoch, or (source agreed) what it is computed from."""

    number: int
    system_title: bytes
    epoch: int


class PlainCommand(NamedTuple):
    """Any other command: integers and octets, the kind and the number first (docs/frame.md).

    With ``dated`` a last integer is added: one more than the highest counter that was accepted from the device. It
    tells the device that the command was sealed after the frame with that counter.
    """

    number: int
    system_title: bytes
    fields: tuple[int | bytes, ...]
    dated: bool = False


class Sealed(NamedTuple):
    """A sealed command: its frame, the kid and invocation counter in it, and the version of the key row then."""

    octets: bytes
    kid: bytes
    counter: int
    key_version: int


def seal(commands: Sequence[KeyCommand | PlainCommand], now: datetime) -> dict[int, Sealed]:
    """Seal commands and return them by number, but for those whose active or pending key does not exist.

    Takes downlink counters in the caller's transaction, which must commit before the octets leave: then
    no counter is used twice, not even after an old backup was restored. A fixed number of queries.
    The key journal records what was sealed: from then on the device may have the pending key.
    """
    usable = _usable({command.system_title for command in commands})
    wanted: list[tuple[KeyCommand | PlainCommand, int, int]] = []  # command, its key, the key it brings
    for command in commands:
        keys = usable.get(command.system_title, _NO_KEYS)
        if isinstance(command, PlainCommand):
            if keys.active is not None:
                wanted.append((command, keys.active, keys.active))
        elif keys.transfer is not None and keys.pending is not None and keys.pending[1] == command.epoch:
            wanted.append((command, keys.transfer, keys.pending[0]))
    if not wanted:
        return {}
    opened = {key.id: key for key in open_keys({key_id for _, *key_ids in wanted for key_id in key_ids})}
    heard = heard_of({key_id for command, key_id, _ in wanted if isinstance(command, PlainCommand) and command.dated})
    ready = [row for row in wanted if row[1] in opened and row[2] in opened]
    counters = take_counters(Counter(key_id for _, key_id, _ in ready), now)
    sealed = {}
    for command, key_id, subject_id in ready:
        counter = counters[key_id]
        counters[key_id] = counter + 1
        scheme = usable[command.system_title].pending_scheme
        plaintext = _plaintext(command, opened[subject_id], scheme, heard.get(key_id, 0))
        sealed[command.number] = seal_under(opened[key_id], counter, plaintext)
    if sealed:
        brought = {command.number: command.epoch for command, *_ in ready if isinstance(command, KeyCommand)}
        entries = [[number, one.kid, one.counter, brought.get(number)] for number, one in sealed.items()]
        journal.append("sealed", [int(now.timestamp()), entries])
    return sealed


def outdated(sealed: Mapping[int, tuple[bytes, int, int]]) -> set[int]:
    """Return which sealed commands, (kid, counter, key version) by number, it is useless to send again.

    Their key was cut off, retired or replaced, or the device has its successor; or a newer counter was used under it,
    so that the device drops the older one. One query.
    """
    rows = fetch_rows(
        """SELECT n.number
           FROM unnest(%s::bigint[], %s::bytea[], %s::int[], %s::bigint[], %s::int[])
                AS n(number, title, epoch, counter, version)
           LEFT JOIN keyvault_devicekey k ON k.system_title = n.title AND k.epoch = n.epoch
           LEFT JOIN keyvault_downlinkcounter d ON d.key_id = k.id
           WHERE k.version IS DISTINCT FROM n.version OR k.state <> 'active' OR d.last > n.counter""",
        int_array(sealed),
        octets_array(kid[:8] for kid, *_ in sealed.values()),
        int_array(int.from_bytes(kid[8:], "big") for kid, *_ in sealed.values()),
        int_array(counter for _, counter, _ in sealed.values()),
        int_array(version for *_, version in sealed.values()),
    )
    return {row[0] for row in rows}


class _Usable(NamedTuple):
    """The ids of the keys of a device that commands may need, and the epoch and scheme of the pending one."""

    transfer: int | None = None
    active: int | None = None
    pending: tuple[int, int] | None = None
    pending_scheme: str = USUAL


_NO_KEYS = _Usable()


def _usable(titles: Collection[bytes]) -> dict[bytes, _Usable]:
    rows = fetch_rows(
        """SELECT system_title, id, epoch, state, scheme FROM keyvault_devicekey
           WHERE system_title = ANY(%s::bytea[]) AND state IN ('active', 'pending')""",
        octets_array(titles),
    )
    usable: dict[bytes, _Usable] = {}
    for title, key_id, epoch, state, scheme in rows:
        keys = usable.get(title, _NO_KEYS)
        if epoch == TRANSFER_EPOCH:
            keys = keys._replace(transfer=key_id)
        elif state == KeyState.ACTIVE:
            keys = keys._replace(active=key_id)
        else:
            keys = keys._replace(pending=(key_id, epoch), pending_scheme=scheme)
        usable[title] = keys
    return usable


def take_counters(wanted: Counter[int], now: datetime) -> dict[int, int]:
    """Take the wanted number of counters under each key, from 256 x Unix seconds on; return the first of each."""
    ids = sorted(wanted)
    base = COUNTERS_PER_S * int(now.timestamp())
    rows = fetch_rows(
        """INSERT INTO keyvault_downlinkcounter AS d (key_id, last)
           SELECT key_id, %s + number - 1 FROM unnest(%s::int[], %s::bigint[]) AS n(key_id, number)
           ON CONFLICT (key_id) DO UPDATE SET last = greatest(d.last + 1 + excluded.last - %s, excluded.last)
           RETURNING key_id, last""",
        base,
        int_array(ids),
        int_array(wanted[key_id] for key_id in ids),
        base,
    )
    return {key_id: last - wanted[key_id] + 1 for key_id, last in rows}


def heard_of(key_ids: Collection[int]) -> dict[int, int]:
    """Return, by key, one more than its highest accepted counter, of its newest session if it has any; else 0."""
    if not key_ids:
        return {}
    query = f"SELECT c.key_id, 1 + {HIGHEST} FROM keyvault_invocationcounter c WHERE c.key_id = ANY(%s::int[])"
    return dict(fetch_rows(query, int_array(key_ids)))


def _plaintext(command: KeyCommand | PlainCommand, key: DeviceKeyOctets, scheme: str, heard: int) -> bytes:
    """Encode a command; ``key`` is the key that it brings, and ``scheme`` that of the key."""
    if isinstance(command, PlainCommand):
        return cbor2.dumps([*command.fields, heard] if command.dated else command.fields, canonical=True)
    number = SCHEMES[scheme].number or 0
    if key.source == KeySource.AGREED:  # the device computes the key itself
        fields = [SET_AGREED_KEY, command.number, key.epoch, key.algorithm, number, key.agreement_public]
    else:
        fields = [SET_KEY, command.number, key.epoch, key.octets, key.algorithm]
        if number:  # the usual scheme, and that of concentrators, are not named: five items suffice
            fields.append(number)
        if needs_agreement_key(scheme):
            fields.append(key.agreement_public)
    return cbor2.dumps(fields, canonical=True)


def seal_under(key: DeviceKeyOctets, counter: int, plaintext: bytes) -> Sealed:
    """Seal a plaintext under an opened key, with a counter that was taken for it."""
    alg = command_algorithm(key.algorithm)
    kid = make_kid(key.system_title, key.epoch)
    cipher = DirectionCipher(downlink_key(key.octets, key.system_title, key.epoch, alg), alg)
    return Sealed(cipher.seal(kid, counter, plaintext), kid, counter, key.version)
