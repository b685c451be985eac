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


# Frames, each with its index in the uplink.
Frames = Sequence[tuple[int, bytes]]


class _Key(CounterSet):
    """A device key's row and counters as this transaction sees them, and what they were when it looked."""

    __slots__ = ("alg", "floor_was", "gaps_were", "heard_at", "highest_was", "id", "row", "state", "version")

    def __init__(self, row: KeyRow, highest: int, floor: int, gaps: str | None) -> None:
        super().__init__(settings.COUNTER_GAP_RUNS, highest, floor, parse_gaps(gaps) if gaps else None)
        self.row = row
        self.id, self.version, self.state, self.alg = row
        self.highest_was, self.floor_was, self.gaps_were = highest, floor, gaps
        self.heard_at: datetime | None = None

    @property
    def moved(self) -> bool:
        """Whether a counter was taken."""
        return self.highest != self.highest_was or self.gaps_changed


class Opened(NamedTuple):
    """A frame whose tag verified: its index in the uplink, kid, invocation counter and plaintext."""

    frame_index: int
    kid: bytes
    invocation_counter: int
    plaintext: bytes
    key: _Key

    def look(self) -> Take:
        """What taking the counter would give, without taking it."""
        return self.key.look(self.invocation_counter)

    def take(self) -> Take:
        """Take the counter, for this transaction; ``save_counters`` makes it last."""
        return self.key.take(self.invocation_counter)

    def heard(self, at: datetime) -> None:
        """The frame was accepted: its device was heard when the frame was received."""
        heard_at = self.key.heard_at
        if heard_at is None or heard_at < at:
            self.key.heard_at = at


class OpenedFrames(NamedTuple):
    """What became of the frames of one uplink."""

    opened: list[Opened]
    refused: list[Refused]


class Opening(NamedTuple):
    """What became of the frames of some uplinks, in their order, and the keys that they used."""

    uplinks: list[OpenedFrames]
    keys: dict[bytes, _Key]


def proven_keys(opening: Opening) -> dict[bytes, int]:
    """The pending keys under which a frame was accepted: their ids by kid. The device has them."""
    return {kid: key.id for kid, key in opening.keys.items() if key.heard_at and key.state == KeyState.PENDING}


def open_frames(uplinks: Sequence[Frames], *, lock: bool = False) -> Opening:
    """Open the frames of uplinks, with a fixed number of queries whatever their number.

    Runs in the caller's transaction. ``lock`` takes the counters' row locks in title order, for a
    second try after ContendedError. A frame is refused with its reason and costs no other.
    """
    parsed: list[list[tuple[int, Frame]]] = []
    results: list[OpenedFrames] = []
    kids: set[bytes] = set()
    for frames in uplinks:
        refused: list[Refused] = []
        parsed.append(_parse(frames, refused))
        results.append(OpenedFrames([], refused))
        kids.update([frame[0] for _, frame in parsed[-1]])
    keys = _read_keys(kids, lock=lock)
    ciphers = uplink_ciphers({kid: key.row for kid, key in keys.items() if key.state in ACCEPTABLE})
    # What opens a frame of a kid: its key, the alg that it must have, and its cipher.
    openers = {kid: (keys[kid], keys[kid].alg, cipher.open_) for kid, cipher in ciphers.items()}
    known_titles = _known_titles({kid[:8] for kid in kids if kid not in keys})
    for frames_parsed, result in zip(parsed, results, strict=True):
        opened = result.opened
        for index, frame in frames_parsed:
            kid, alg, counter, _, _ = frame
            try:
                key, provisioned_alg, open_ = openers[kid]
                if alg == provisioned_alg:
                    opened.append(_new_opened(Opened, (index, kid, counter, open_(frame), key)))
                    continue
            except (KeyError, TagInvalidError):
                pass  # for one of the reasons below
            reason, detail = _why_not(frame, keys.get(kid), kid in openers, known_titles)
            result.refused.append(Refused(index, reason, detail, kid, counter))
    return Opening(results, keys)


_new_opened = tuple.__new__  # half the time of Opened(...)


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


def _why_not(frame: Frame, key: _Key | None, has_cipher: bool, known_titles: Collection[bytes]) -> tuple[Refusal, str]:
    """Why a frame was not opened: the first check that it fails."""
    title, epoch = frame.kid[:8], int.from_bytes(frame.kid[8:], "big")
    if key is None:
        reason = Refusal.UNKNOWN_EPOCH if title in known_titles else Refusal.UNKNOWN_DEVICE
        return reason, f"no key for system title {title.hex()}, epoch {epoch}"
    if key.state not in ACCEPTABLE:
        return Refusal.KEY_RETIRED, f"the key of this epoch is {key.state}"
    if key.alg != frame.alg:
        return Refusal.ALGORITHM_MISMATCH, f"algorithm {frame.alg}, provisioned is {key.alg}"
    if not has_cipher:
        return Refusal.PARKED, "the stored key does not open: its row was changed; see the log"
    return Refusal.TAG_INVALID, "the tag does not fit: forged, damaged, or another key"


def known_kids(kids: Collection[bytes]) -> set[bytes]:
    """Those of the kids whose key stands, whatever its state: their frames are no longer unknown. One query."""
    return set(_read_keys(kids, lock=False))


def save_counters(opening: Opening, heard_via: int) -> None:
    """Write back the counters that were taken, by compare-and-set on counter and key version.

    ``heard_via`` says who brought the frames, in the caller's terms. Raises ContendedError where a
    counter or key moved since it was read: the caller rolls back and tries again.
    """
    moved = [key for _, key in sorted(opening.keys.items()) if key.moved]
    if not any(key.gaps_changed for key in moved):
        _save(_SAVE_AHEAD, moved, [], heard_via)
        return
    # All in one statement: two of them would lock rows in another order than title order, and deadlock.
    _save(
        _SAVE_GAPS,
        moved,
        [
            [key.gaps_were or "{}" for key in moved],
            [format_gaps(key.gaps) for key in moved],
            [key.floor_was for key in moved],
            [key.floor for key in moved],
        ],
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
_HEARD = """
        heard_at = greatest(c.heard_at, t.times[n.heard]),
        heard_via = CASE WHEN n.heard > 0 AND (c.heard_at > t.times[n.heard]) IS NOT TRUE THEN %s ELSE c.heard_via END
    FROM (SELECT %s::timestamptz[] AS times) AS t,
"""
_UNMOVED = "WHERE c.key_id = n.key_id AND c.key_version = n.version AND c.highest = n.was"
_SAVE_AHEAD = f"""
    UPDATE keyvault_invocationcounter c
    SET highest = n.highest, {_HEARD}
         unnest(%s::int[], %s::int[], %s::bigint[], %s::bigint[], %s::int[])
         AS n(key_id, version, was, highest, heard)
    {_UNMOVED}
"""
_SAVE_GAPS = f"""
    UPDATE keyvault_invocationcounter c
    SET highest = n.highest, gaps = n.gaps, floor = n.floor, {_HEARD}
         unnest(%s::int[], %s::int[], %s::bigint[], %s::bigint[], %s::int[],
                %s::int8multirange[], %s::int8multirange[], %s::bigint[], %s::bigint[])
         AS n(key_id, version, was, highest, heard, gaps_were, gaps, floor_was, floor)
    {_UNMOVED} AND c.gaps = n.gaps_were AND c.floor = n.floor_was
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


def _save(statement: str, keys: list[_Key], more: list[list[Any]], heard_via: int) -> None:
    if not keys:
        return
    times = sorted({key.heard_at for key in keys if key.heard_at is not None})
    place_of: dict[datetime | None, int] = {None: 0} | {at: place for place, at in enumerate(times, 1)}
    saved = execute(
        statement,
        heard_via,
        times,
        int_array([key.id for key in keys]),
        int_array([key.version for key in keys]),
        int_array([key.highest_was for key in keys]),
        int_array([key.highest for key in keys]),
        int_array([place_of[key.heard_at] for key in keys]),
        *more,
    )
    if saved != len(keys):
        raise ContendedError(f"{len(keys) - saved} of {len(keys)} counters moved meanwhile")
