"""Opening a whole uplink's frames at once, and taking their invocation counters exactly once."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

from django.conf import settings

from ami_headend.core.sql import fetch_rows, int_array, octets_array
from keyvault.ciphers import uplink_ciphers
from keyvault.cose.sealing import TagInvalidError
from keyvault.cose.structures import Frame, MalformedError, parse_frame
from keyvault.counterrows import Care, ContendedError, CountedKey, read_keys, save_keys
from keyvault.counters import Take
from keyvault.models import KeyState

_PENDING = KeyState.PENDING.value
ACCEPTABLE = frozenset({_PENDING, KeyState.ACTIVE.value, KeyState.RETIRING.value})


class Refusal(StrEnum):
    """Why a frame was not opened, in the order of the checks."""

    MALFORMED = "malformed"
    UNKNOWN_DEVICE = "unknown_device"
    UNKNOWN_EPOCH = "unknown_epoch"
    KEY_RETIRED = "key_retired"
    ALGORITHM_MISMATCH = "algorithm_mismatch"
    TAG_INVALID = "tag_invalid"
    PARKED = "parked"  # ours: the stored key does not open


class Refused(NamedTuple):
    """A frame that was not opened. ``kid`` and ``counter`` are what it claims, unless it is malformed."""

    frame_index: int
    reason: Refusal
    detail: str
    kid: bytes | None = None
    counter: int | None = None


# Frames, each with its index in the uplink.
Frames = Sequence[tuple[int, bytes]]


class Opened(NamedTuple):
    """A frame whose tag verified: its index in the uplink, kid, invocation counter and plaintext."""

    frame_index: int
    kid: bytes
    invocation_counter: int
    plaintext: bytes
    key: CountedKey

    def look(self) -> Take:
        """What taking the counter would give, without taking it."""
        return self.key.look(self.invocation_counter)

    def take(self) -> Take:
        """Take the counter, for this transaction; ``save_counters`` makes it last."""
        return self.key.take(self.invocation_counter)

    def heard(self, at: datetime, via: int) -> None:
        """The frame was accepted: its device was heard when it was received. ``via`` says who brought it, in the
        caller's terms.
        """
        key = self.key
        if key.heard_at is None or key.heard_at < at:
            key.heard_at, key.heard_via = at, via


class OpenedFrames(NamedTuple):
    """What became of the frames of one uplink."""

    opened: list[Opened]
    refused: list[Refused]


class Opening(NamedTuple):
    """What became of the frames of some uplinks, in their order, and the keys that they used."""

    uplinks: list[OpenedFrames]
    keys: dict[bytes, CountedKey]
    care: Care


def proven_keys(opening: Opening) -> dict[bytes, int]:
    """The pending keys under which a frame was accepted: their ids by kid. The device has them."""
    return {kid: key.id for kid, key in opening.keys.items() if key.state == _PENDING and key.heard_at}


def open_frames(uplinks: Sequence[Frames], care: Care = Care.LOOK) -> Opening:
    """Open the frames of uplinks, with a fixed number of queries whatever their number.

    Runs in the caller's transaction; with more ``care`` for another try after ContendedError. A frame is
    refused with its reason and costs no other.
    """
    parsed: list[list[tuple[int, Frame]]] = []
    results: list[OpenedFrames] = []
    foreseen = _Foreseen()
    for frames in uplinks:
        refused: list[Refused] = []
        parsed.append(_parse(frames, refused))
        results.append(OpenedFrames([], refused))
        foreseen.look_at(parsed[-1])
    kids = foreseen.kids
    keys = read_keys(kids, {} if care is Care.LOCK else foreseen.highest(), care)
    _add_ciphers(keys)
    known_titles = _known_titles({kid[:8] for kid in kids if kid not in keys}) if len(keys) < len(kids) else set()
    for frames_parsed, result in zip(parsed, results, strict=True):
        opened = result.opened
        for index, frame in frames_parsed:
            kid, alg, counter, _, _ = frame
            key = keys.get(kid)
            if key is not None and key.cipher is not None and key.alg == alg:
                try:
                    opened.append(_new_opened(Opened, (index, kid, counter, key.cipher.open_(frame), key)))
                    continue
                except TagInvalidError:
                    pass  # told below
            reason, detail = _why_not(frame, key, known_titles)
            result.refused.append(Refused(index, reason, detail, kid, counter))
    return Opening(results, keys, care)


def _add_ciphers(keys: Mapping[bytes, CountedKey]) -> None:
    """Give the acceptable keys their ciphers; one whose row does not open stays without.

    Raises ContendedError where one is without since it was taken back after it was read.
    """
    without = {kid: key for kid, key in keys.items() if key.cipher is None and key.state in ACCEPTABLE}
    if not without:
        return
    ciphers = uplink_ciphers({kid: key.row for kid, key in without.items()})
    for kid, cipher in ciphers.items():
        without.pop(kid).cipher = cipher
    if without:
        key_ids = int_array(key.id for key in without.values())
        rows = fetch_rows("SELECT count(*) FROM keyvault_devicekey WHERE id = ANY(%s::int[])", key_ids)
        if rows[0][0] < len(without):
            raise ContendedError("a key was taken back meanwhile")


class _Foreseen:
    """The counters as they stand before a batch, if every meter counted on one by one; nothing here is authentic."""

    def __init__(self) -> None:
        self._first: dict[bytes, int] = {}
        self._next: dict[bytes, int] = {}
        self._irregular: set[bytes] = set()

    def look_at(self, frames: list[tuple[int, Frame]]) -> None:
        first, following, irregular = self._first, self._next, self._irregular
        for _, frame in frames:
            kid, _, counter, _, _ = frame
            expected = following.get(kid)
            if expected is None:
                first[kid] = counter
            elif expected != counter:
                irregular.add(kid)
            following[kid] = counter + 1

    @property
    def kids(self) -> Collection[bytes]:
        return self._first.keys()

    def highest(self) -> dict[bytes, int]:
        """By kid, the counter before its first one; nothing of kids whose counters skip, repeat or go back."""
        return {kid: counter - 1 for kid, counter in self._first.items() if kid not in self._irregular}


_new_opened = tuple.__new__  # half the time of Opened(...)


def save_counters(opening: Opening) -> None:
    """Write back the counters that were taken, by compare-and-set on counter and key version.

    Raises ContendedError where a counter or key moved since it was read, or is not what was taken for true: the
    caller rolls back and tries again.
    """
    keys = opening.keys
    moved = [key for _, key in sorted(keys.items()) if key.moved]
    if (
        len(moved) < len(keys)
        and opening.care is Care.TRUST
        and any(k.is_foreseen and not k.moved for k in keys.values())
    ):
        raise ContendedError("a counter was not taken: no write would tell whether its key still stands")
    save_keys(moved)


def _parse(frames: Frames, refused: list[Refused]) -> list[tuple[int, Frame]]:
    """The frames taken apart, each with its index; what is none goes to ``refused``."""
    parsed: list[tuple[int, Frame]] = []
    longest = settings.FRAME_MAX_OCTETS
    for index, octets in frames:
        try:
            if len(octets) > longest:
                raise MalformedError(f"{len(octets)} octets are more than the {longest} that a frame may have")
            parsed.append((index, parse_frame(octets)))
        except MalformedError as error:
            refused.append(Refused(index, Refusal.MALFORMED, str(error)))
    return parsed


def _why_not(frame: Frame, key: CountedKey | None, known_titles: Collection[bytes]) -> tuple[Refusal, str]:
    """Why a frame was not opened: the first check that it fails."""
    title, epoch = frame.kid[:8], int.from_bytes(frame.kid[8:], "big")
    if key is None:
        reason = Refusal.UNKNOWN_EPOCH if title in known_titles else Refusal.UNKNOWN_DEVICE
        return reason, f"no key for system title {title.hex()}, epoch {epoch}"
    if key.state not in ACCEPTABLE:
        return Refusal.KEY_RETIRED, f"the key of this epoch is {key.state}"
    if key.alg != frame.alg:
        return Refusal.ALGORITHM_MISMATCH, f"algorithm {frame.alg}, provisioned is {key.alg}"
    if key.cipher is None:
        return Refusal.PARKED, "the stored key does not open: its row was changed; see the log"
    return Refusal.TAG_INVALID, "the tag does not fit: forged, damaged, or another key"


def known_kids(kids: Collection[bytes]) -> set[bytes]:
    """Those of the kids whose key stands, whatever its state: their frames are no longer unknown. One query."""
    return set(read_keys(kids, {}))


def _known_titles(titles: Collection[bytes]) -> set[bytes]:
    if not titles:
        return set()
    rows = fetch_rows(
        "SELECT DISTINCT system_title FROM keyvault_devicekey WHERE system_title = ANY(%s::bytea[])",
        octets_array(titles),
    )
    return {row[0] for row in rows}
