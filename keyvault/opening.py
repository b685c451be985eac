"""Opening a whole uplink's frames at once, and taking their invocation counters exactly once."""

from collections.abc import Collection, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple

from django.conf import settings

from keyvault.ciphers import KeyRow, kept_rows, uplink_ciphers
from keyvault.cose.sealing import TagInvalidError
from keyvault.cose.structures import Frame, MalformedError, parse_frame
from keyvault.counters import CounterSet, Take, format_gaps, parse_gaps
from keyvault.models import KeyState
from keyvault.provisioning import TRANSFER_EPOCH
from keyvault.sql import execute, fetch_rows, int_array, octets_array

ACCEPTABLE = frozenset({KeyState.PENDING.value, KeyState.ACTIVE.value, KeyState.RETIRING.value})


class ContendedError(Exception):
    """Another transaction took counters or moved keys of this uplink meanwhile: roll back and try again."""


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


class _Key:
    """A device key's row and counters as this transaction sees them."""

    __slots__ = ("alg", "counters", "floor", "gaps", "heard", "highest", "id", "row", "state", "version")

    def __init__(self, row: KeyRow, highest: int, floor: int, gaps: str | None) -> None:
        self.row = row
        self.id, self.version, self.state, self.alg = row
        self.highest, self.floor, self.gaps = highest, floor, gaps
        self.counters = CounterSet(highest, floor, parse_gaps(gaps) if gaps else None)
        self.heard = False

    @property
    def moved(self) -> bool:
        """Whether a counter was taken."""
        return self.counters.gaps_changed or self.counters.highest != self.highest


class Opened:
    """A frame whose tag verified: its index in the uplink, kid, counter and plaintext."""

    __slots__ = ("_key", "counter", "index", "kid", "plaintext")

    def __init__(self, index: int, frame: Frame, key: _Key, plaintext: bytes) -> None:
        self.index, self.kid, self.counter = index, frame.kid, frame.counter
        self.plaintext = plaintext
        self._key = key

    @property
    def system_title(self) -> bytes:
        return self.kid[:8]

    def look(self) -> Take:
        """What taking the counter would give, without taking it."""
        return self._key.counters.look(self.counter)

    def take(self) -> Take:
        """Take the counter, for this transaction; ``save_counters`` makes it last."""
        return self._key.counters.take(self.counter, settings.COUNTER_GAP_RUNS)

    def heard(self) -> None:
        """The frame was accepted: its device counts as heard."""
        self._key.heard = True


class Opening(NamedTuple):
    """What became of an uplink's frames: opened ones, refused ones, and the keys they used."""

    opened: list[Opened]
    refused: list[Refused]
    keys: dict[bytes, _Key]


def proven_keys(opening: Opening) -> dict[bytes, int]:
    """The pending keys under which a frame was accepted: their ids by kid. The device has them."""
    return {kid: key.id for kid, key in opening.keys.items() if key.heard and key.state == KeyState.PENDING}


def open_frames(frames: Sequence[tuple[int, bytes]], *, lock: bool = False) -> Opening:
    """Open frames, each with its index in the uplink, with a fixed number of queries whatever their number.

    Runs in the caller's transaction. ``lock`` takes the counters' row locks in title order, for a
    second try after ContendedError. A frame is refused with its reason and costs no other.
    """
    parsed: list[tuple[int, Frame]] = []
    refused: list[Refused] = []
    longest = settings.FRAME_MAX_OCTETS
    for index, octets in frames:
        try:
            if len(octets) > longest:
                raise MalformedError(f"{len(octets)} octets are more than the {longest} that a frame may have")
            parsed.append((index, parse_frame(octets)))
        except MalformedError as error:
            refused.append(Refused(index, Refusal.MALFORMED, str(error)))
    keys = _read_keys({frame.kid for _, frame in parsed}, lock=lock)
    known_titles = _known_titles({frame.kid[:8] for _, frame in parsed if frame.kid not in keys})
    ciphers = uplink_ciphers({kid: key.row for kid, key in keys.items() if key.state in ACCEPTABLE})
    opened: list[Opened] = []
    for index, frame in parsed:
        kid = frame.kid
        key = keys.get(kid)
        cipher = ciphers.get(kid)
        if key is None:
            reason = Refusal.UNKNOWN_EPOCH if kid[:8] in known_titles else Refusal.UNKNOWN_DEVICE
            detail = f"no key for system title {kid[:8].hex()}, epoch {int.from_bytes(kid[8:], 'big')}"
        elif key.state not in ACCEPTABLE:
            reason, detail = Refusal.KEY_RETIRED, f"the key of this epoch is {key.state}"
        elif key.alg != frame.alg:
            reason, detail = Refusal.ALGORITHM_MISMATCH, f"algorithm {frame.alg}, provisioned is {key.alg}"
        elif cipher is None:
            reason, detail = Refusal.PARKED, "the stored key does not open: its row was changed; see the log"
        else:
            try:
                opened.append(Opened(index, frame, key, cipher.open_(frame)))
                continue
            except TagInvalidError:
                reason, detail = Refusal.TAG_INVALID, "the tag does not fit: forged, damaged, or another key"
        refused.append(Refused(index, reason, detail, kid, frame.counter))
    return Opening(opened, refused, keys)


def known_kids(kids: Collection[bytes]) -> set[bytes]:
    """Those of the kids whose key stands, whatever its state: their frames are no longer unknown. One query."""
    return set(_read_keys(kids, lock=False))


def save_counters(opening: Opening, heard_at: datetime, heard_via: int) -> None:
    """Write back the counters that were taken, by compare-and-set on counter and key version.

    ``heard_via`` says who brought the frames, in the caller's terms. Raises ContendedError where a
    counter or key moved since it was read: the caller rolls back and tries again.
    """
    moved = [key for _, key in sorted(opening.keys.items()) if key.moved]
    if not any(key.counters.gaps_changed for key in moved):
        _save(_SAVE_AHEAD, moved, [], heard_at, heard_via)
        return
    # All in one statement: two of them would lock rows in another order than title order, and deadlock.
    _save(
        _SAVE_GAPS,
        moved,
        [
            [key.gaps or "{}" for key in moved],
            [format_gaps(key.counters.gaps) for key in moved],
            [key.floor for key in moved],
            [key.counters.floor for key in moved],
        ],
        heard_at,
        heard_via,
    )


_READ_KEYS = """
    SELECT t.n, k.id, k.version, k.state, k.algorithm, c.highest, c.floor,
           CASE WHEN isempty(c.gaps) THEN NULL ELSE c.gaps::text END
    FROM unnest(%s::bytea[], %s::int[]) WITH ORDINALITY AS t(title, epoch, n)
    JOIN keyvault_devicekey k ON k.system_title = t.title AND k.epoch = t.epoch
    JOIN keyvault_invocationcounter c ON c.key_id = k.id
"""
# Of a key that is kept, the counter's copy of its version tells whether it still is what it was.
_READ_COUNTERS = """
    SELECT t.n, c.highest, c.floor, CASE WHEN isempty(c.gaps) THEN NULL ELSE c.gaps::text END
    FROM unnest(%s::int[], %s::int[]) WITH ORDINALITY AS t(key_id, version, n)
    JOIN keyvault_invocationcounter c ON c.key_id = t.key_id AND c.key_version = t.version
"""
_LOCK_KEYS = _READ_KEYS + "ORDER BY k.system_title, k.epoch FOR UPDATE OF c"

# The usual uplink only goes ahead, and leaves the gaps alone.
# Uplinks may be verified in another order than they came in: "last heard" never goes back.
_SAVE_AHEAD = """
    UPDATE keyvault_invocationcounter c
    SET highest = n.highest,
        heard_at = CASE WHEN n.heard THEN greatest(c.heard_at, %s) ELSE c.heard_at END,
        heard_via = CASE WHEN n.heard AND (c.heard_at > %s) IS NOT TRUE THEN %s ELSE c.heard_via END
    FROM unnest(%s::int[], %s::int[], %s::bigint[], %s::bigint[], %s::bool[])
         AS n(key_id, version, was, highest, heard)
    WHERE c.key_id = n.key_id AND c.key_version = n.version AND c.highest = n.was
"""
_SAVE_GAPS = """
    UPDATE keyvault_invocationcounter c
    SET highest = n.highest, gaps = n.gaps, floor = n.floor,
        heard_at = CASE WHEN n.heard THEN greatest(c.heard_at, %s) ELSE c.heard_at END,
        heard_via = CASE WHEN n.heard AND (c.heard_at > %s) IS NOT TRUE THEN %s ELSE c.heard_via END
    FROM unnest(%s::int[], %s::int[], %s::bigint[], %s::bigint[], %s::bool[],
                %s::int8multirange[], %s::int8multirange[], %s::bigint[], %s::bigint[])
         AS n(key_id, version, was, highest, heard, gaps_were, gaps, floor_was, floor)
    WHERE c.key_id = n.key_id AND c.key_version = n.version AND c.highest = n.was
      AND c.gaps = n.gaps_were AND c.floor = n.floor_was
"""


def _read_keys(kids: Collection[bytes], *, lock: bool) -> dict[bytes, _Key]:
    """The keys of kids with their counters; the transfer key protects no uplink and is not among them."""
    wanted = [kid for kid in kids if int.from_bytes(kid[8:], "big") != TRANSFER_EPOCH]
    keys = {} if lock else _read_kept(wanted)
    if len(keys) < len(wanted):
        wanted = [kid for kid in wanted if kid not in keys]
        rows = fetch_rows(
            _LOCK_KEYS if lock else _READ_KEYS,
            octets_array(kid[:8] for kid in wanted),
            int_array(int.from_bytes(kid[8:], "big") for kid in wanted),
        )
        keys.update({wanted[row[0] - 1]: _Key(KeyRow(*row[1:5]), *row[5:]) for row in rows})
    return keys


def _read_kept(kids: Collection[bytes]) -> dict[bytes, _Key]:
    """The keys whose rows are kept and still stand, with their counters: one look at a narrow table."""
    kept = list(kept_rows(kids).items())
    if not kept:
        return {}
    rows = fetch_rows(_READ_COUNTERS, int_array(row.id for _, row in kept), int_array(row.version for _, row in kept))
    return {kept[n - 1][0]: _Key(kept[n - 1][1], *counters) for n, *counters in rows}


def _known_titles(titles: Collection[bytes]) -> set[bytes]:
    if not titles:
        return set()
    rows = fetch_rows(
        "SELECT DISTINCT system_title FROM keyvault_devicekey WHERE system_title = ANY(%s::bytea[])",
        octets_array(titles),
    )
    return {row[0] for row in rows}


def _save(statement: str, keys: list[_Key], more: list[list[Any]], heard_at: datetime, heard_via: int) -> None:
    if not keys:
        return
    saved = execute(
        statement,
        heard_at,
        heard_at,
        heard_via,
        int_array(key.id for key in keys),
        int_array(key.version for key in keys),
        int_array(key.highest for key in keys),
        int_array(key.counters.highest for key in keys),
        "{" + ",".join("t" if key.heard else "f" for key in keys) + "}",
        *more,
    )
    if saved != len(keys):
        raise ContendedError(f"{len(keys) - saved} of {len(keys)} counters moved meanwhile")
