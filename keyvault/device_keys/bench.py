"""A bench meter's keys at work, for experiments with it: commands of any octets, and what its frames say.

For laboratory meters alone (concentrators/conformance): who calls this makes sure of that. No key octets leave.
"""

from collections import Counter
from datetime import datetime
from typing import NamedTuple

from django.db import transaction

from keyvault import journal
from keyvault.cose.algorithms import command_algorithm
from keyvault.cose.kdf import downlink_key
from keyvault.cose.sealing import DirectionCipher, TagInvalidError
from keyvault.cose.structures import SYSTEM_TITLE_OCTETS, MalformedError, make_kid
from keyvault.device_keys.command_sealing import heard_of, take_counters
from keyvault.device_keys.key_rows import TRANSFER_EPOCH
from keyvault.device_keys.unwrapping import DeviceKeyOctets, open_keys
from keyvault.models import DeviceKey, KeyState
from keyvault.schemes.table import ENVELOPES, SCHEMES


class BenchKeyError(ValueError):
    """The meter has no key of that kind that can be used now."""


class Disguise(NamedTuple):
    """What a command is to have wrong: another kid (10 octets), COSE algorithm, or key."""

    kid: bytes | None = None
    algorithm: int | None = None
    another_key: bool = False


class BenchFrame(NamedTuple):
    """A frame of the meter, opened: epoch and counter, and the payload (SenML)."""

    epoch: int
    counter: int
    payload: bytes


AS_IT_IS = Disguise()


def epochs_of(system_title: bytes) -> list[int]:
    """The epochs of a meter's keys that open frames, the newest first; without the transfer key."""
    rows = DeviceKey.objects.filter(system_title=system_title, state__in=_OPENING).exclude(epoch=TRANSFER_EPOCH)
    return list(rows.order_by("-epoch").values_list("epoch", flat=True))


def active_epoch(system_title: bytes) -> int:
    """The epoch of the meter's active key. BenchKeyError where it has none."""
    rows = DeviceKey.objects.filter(system_title=system_title, state=KeyState.ACTIVE).exclude(epoch=TRANSFER_EPOCH)
    epoch = rows.order_by("-epoch").values_list("epoch", flat=True).first()
    if epoch is None:
        raise BenchKeyError("the meter has no active key")
    return epoch


def source_of(system_title: bytes, epoch: int) -> str:
    """What the key of an epoch is computed from: stored, derived or agreed."""
    rows = DeviceKey.objects.filter(system_title=system_title, epoch=epoch)
    return str(rows.values_list("source", flat=True).get())


def scheme_of(system_title: bytes, epoch: int) -> str:
    """The scheme of an epoch."""
    return str(DeviceKey.objects.values_list("scheme", flat=True).get(system_title=system_title, epoch=epoch))


def seal(
    system_title: bytes, epoch: int, plaintext: bytes, number: int, now: datetime, disguise: Disguise = AS_IT_IS
) -> bytes:
    """A command of any plaintext under the meter's key of an epoch (0: transfer key), and the next counter of that.

    Whatever the disguise, the counter is the real key's, so that no counter is used twice. BenchKeyError where there is
    no such key.
    """
    with transaction.atomic():
        [key] = _open([system_title], [epoch])
        counter = take_counters(Counter([key.id]), now)[key.id]
        octets = _sealed(key, counter, plaintext, disguise)
        journal.append("sealed", [int(now.timestamp()), [[number, make_kid(system_title, epoch), counter, None]]])
    return octets


def heard(system_title: bytes, epoch: int) -> int:
    """How far the meter's counter of an epoch was heard: one more than the highest that was taken; 0: never."""
    key_id = DeviceKey.objects.values_list("pk", flat=True).get(system_title=system_title, epoch=epoch)
    return heard_of([key_id]).get(key_id, 0)


def open_frames(system_title: bytes, frames: list[bytes]) -> list[BenchFrame]:
    """What frames of the meter say whose tag fits, in their order; others are left out."""
    if not frames:
        return []
    keys = {make_kid(system_title, key.epoch): key for key in _open([system_title], epochs_of(system_title))}
    schemes = dict(DeviceKey.objects.filter(system_title=system_title).values_list("epoch", "scheme"))
    found = []
    for octets in frames:
        envelope = ENVELOPES.of(octets)
        try:
            frame = envelope.parse(octets)
            key = keys.get(frame.kid[: SYSTEM_TITLE_OCTETS + 2])
            if key is None or SCHEMES[schemes[key.epoch]].envelope != envelope.name or key.algorithm != frame.alg:
                continue
            key.kid_context = frame.kid[SYSTEM_TITLE_OCTETS + 2 :]
            payload = envelope.cipher(key).open_(frame)
        except (MalformedError, TagInvalidError):
            continue
        found.append(BenchFrame(key.epoch, frame.counter, payload))
    return found


_OPENING = (KeyState.PENDING, KeyState.ACTIVE, KeyState.RETIRING)


def _open(titles: list[bytes], epochs: list[int]) -> list[DeviceKeyOctets]:
    ids = DeviceKey.objects.filter(system_title__in=titles, epoch__in=epochs, state__in=_OPENING)
    opened = open_keys(ids.values_list("pk", flat=True))
    if len(opened) != len(epochs):
        raise BenchKeyError("the meter lacks a key that can be used now: its device key, or its transfer key")
    return opened


def _sealed(key: DeviceKeyOctets, counter: int, plaintext: bytes, disguise: Disguise) -> bytes:
    alg = disguise.algorithm or command_algorithm(key.algorithm)
    octets = bytes(32) if disguise.another_key else key.octets
    cipher = DirectionCipher(downlink_key(octets, key.system_title, key.epoch, alg), alg)
    return cipher.seal(disguise.kid or make_kid(key.system_title, key.epoch), counter, plaintext)
