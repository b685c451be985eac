"""Opens the frames of whole uplinks together, and takes each invocation counter exactly once."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from types import MappingProxyType
from typing import NamedTuple

from django.conf import settings
from django.utils.functional import cached_property

from ami_headend.core.sql import fetch_rows, int_array, octets_array
from keyvault.ciphers import KeptCiphers, KeyRow
from keyvault.cose.forms import KID_OCTETS
from keyvault.cose.sealing import TagInvalidError
from keyvault.cose.structures import SYSTEM_TITLE_OCTETS, Frame, MalformedError, MismatchError
from keyvault.counted_keys import ContendedError, CountedKey
from keyvault.models import KeyState
from keyvault.refusals import EnrolmentRefusal, Refusal
from keyvault.replay_window_store import Care, read_ended, read_keys, save_keys
from keyvault.schemes.lines import Cipher
from keyvault.schemes.table import ENVELOPES

_PENDING = KeyState.PENDING.value
_TRIED_UNDER_ENDED = 100  # frames of a batch: others could make us open keys for garbage
ACCEPTABLE = frozenset({_PENDING, KeyState.ACTIVE.value, KeyState.RETIRING.value})


class Refused(NamedTuple):
    """A frame that was not opened. ``kid`` and ``counter`` are what it claims, unless it is malformed.

    If a frame names only a title, ``kid`` is that of the likeliest usable key of the device, if there is one.
    """

    frame_index: int
    reason: Refusal | EnrolmentRefusal
    detail: str
    kid: bytes | None = None
    counter: int | None = None


# Frames, each with its index in the uplink.
Frames = Sequence[tuple[int, bytes]]
# A parsed frame: its index in the uplink, the name of its envelope, and its fields.
_Parsed = tuple[int, str, Frame]


class Opened(NamedTuple):
    """A frame whose tag verified: its index in the uplink, kid, invocation counter and plaintext."""

    frame_index: int
    kid: bytes
    invocation_counter: int
    plaintext: bytes
    key: CountedKey


class OpenedFrames(NamedTuple):
    """The frames of one uplink: those that were opened, and those that were refused."""

    opened: list[Opened]
    refused: list[Refused]


class Opening(NamedTuple):
    """The opened and refused frames of uplinks, in the order of the uplinks, and the keys that they used."""

    uplinks: list[OpenedFrames]
    keys: dict[bytes, CountedKey]
    care: Care


def open_frames(uplinks: Sequence[Frames], care: Care, ciphers: KeptCiphers) -> Opening:
    """Open the frames of uplinks with cached ciphers. The number of queries does not depend on that of the frames.

    Runs in the caller's transaction, which tries again with more ``care`` after ContendedError. A frame that is
    refused does not affect the others.
    """
    parsed: list[list[_Parsed]] = []
    results: list[OpenedFrames] = []
    foreseen = _Foreseen()
    for frames in uplinks:
        refused: list[Refused] = []
        parsed.append(_parse(frames, refused))
        results.append(OpenedFrames([], refused))
        foreseen.look_at(parsed[-1])
    names = foreseen.names
    keys = read_keys(names, {} if care is Care.LOCK else foreseen.highest(), care, ciphers)
    made = _add_ciphers(keys, ciphers)
    unfound = _Unfound(keys, names)
    unopened: list[_Unopened] = []
    for frames_parsed, (opened, refused) in zip(parsed, results, strict=True):
        for index, envelope, frame in frames_parsed:
            kid, alg, counter, _, _ = frame
            key = keys.get(kid)
            if key is not None and key.cipher is not None and key.alg == alg and key.envelope == envelope:
                try:
                    opened.append(_new_opened(Opened, (index, kid, counter, key.cipher.open_(frame), key)))
                    continue
                except TagInvalidError:
                    pass  # _why_not gives the reason
            elif len(kid) == SYSTEM_TITLE_OCTETS:
                likeliest = unfound.keys_of_title(envelope, frame)
                found = _open_by_title(index, envelope, frame, likeliest)
                if found is not None:
                    opened.append(found)
                    continue
                unopened.append(_Unopened(refused, len(refused), envelope, frame))
                kid, key = likeliest[0] if likeliest else (kid, None)
            reason, detail = _why_not(envelope, frame, key, unfound)
            refused.append(Refused(index, reason, detail, kid, counter))
    if unopened:
        _tell_ended(unopened[:_TRIED_UNDER_ENDED])
    _keep_sessions(made, keys, results, ciphers)
    return Opening(results, keys, care)


class _Unfound:
    """Finds keys for names in a batch that are no kid: keys of titles, and which titles are known at all.

    The one query runs when it is first needed; if every frame names its key, it never runs.
    (functools.cached_property would hold one lock for all threads meanwhile.)
    """

    def __init__(self, keys: Mapping[bytes, CountedKey], names: Collection[bytes]) -> None:
        self._keys, self._names = keys, names

    @cached_property
    def _of_title(self) -> dict[bytes, list[tuple[bytes, CountedKey]]]:
        titles = {name for name in self._names if len(name) == SYSTEM_TITLE_OCTETS}
        of_title: dict[bytes, list[tuple[bytes, CountedKey]]] = {}
        for kid, key in self._keys.items():
            # Anybody can name a session of a key set: its counters would be none of the set's.
            if len(kid) == KID_OCTETS and kid[:8] in titles:
                of_title.setdefault(kid[:8], []).append((kid, key))
        return of_title

    @cached_property
    def known_titles(self) -> set[bytes]:
        """The titles of devices that have keys, but not the key that a frame names."""
        unfound = (name for name in self._names if name not in self._keys and name not in self._of_title)
        return _known_titles({name[:8] for name in unfound})

    def keys_of_title(self, envelope: str, frame: Frame) -> list[tuple[bytes, CountedKey]]:
        """Return the keys, with their kids, that may open a frame which names only a title; the likeliest first.

        The likeliest is for this envelope and alg, and its highest counter is the nearest below the frame's.
        """
        counter = frame.counter
        of_title = self._of_title.get(frame.kid, [])
        if len(of_title) < 2:
            return of_title
        return sorted(
            of_title,
            key=lambda one: (
                not _is_for(one[1], envelope, frame.alg),
                one[1].highest >= counter,
                abs(counter - one[1].highest),
            ),
        )


def _is_for(key: CountedKey, envelope: str, alg: int) -> bool:
    return key.alg == alg and key.envelope == envelope


def _open_by_title(
    index: int, envelope: str, frame: Frame, likeliest: Sequence[tuple[bytes, CountedKey]]
) -> Opened | None:
    """Open a frame that names only a title with the first key whose tag verifies; None if none does."""
    for kid, key in likeliest:
        if key.cipher is not None and _is_for(key, envelope, frame.alg):
            try:
                return Opened(index, kid, frame.counter, key.cipher.open_(frame), key)
            except TagInvalidError:
                continue
    return None


class _Unopened(NamedTuple):
    """A frame that names a title alone and opens under no key that may be used; its refusal stands at a place."""

    refused: list[Refused]
    place: int
    envelope: str
    frame: Frame


def _tell_ended(unopened: Sequence[_Unopened]) -> None:
    """Refuse frames as of an ended key where they open under one, whatever was said before. Two queries."""
    rows = read_ended({one.frame.kid for one in unopened})
    of_title: dict[bytes, list[tuple[KeyRow, Cipher]]] = {}
    for kid, cipher in KeptCiphers().of(rows).items() if rows else ():
        of_title.setdefault(kid[:8], []).append((rows[kid], cipher))
    for refused, place, envelope, frame in unopened:
        for row, cipher in of_title.get(frame.kid, ()):
            if (row.envelope, row.algorithm) == (envelope, frame.alg):
                with suppress(TagInvalidError):
                    cipher.open_(frame)
                    detail = f"the key that it is under is {row.state}"
                    refused[place] = refused[place]._replace(reason=Refusal.KEY_RETIRED, detail=detail)
                    break


def _add_ciphers(keys: Mapping[bytes, CountedKey], ciphers: KeptCiphers) -> Collection[bytes]:
    """Give acceptable keys their ciphers, unless the row of a key does not open. Return the kids that had no cipher.

    ContendedError if a key was deleted after its row was read.
    """
    without = {kid: key for kid, key in keys.items() if key.cipher is None and key.state in ACCEPTABLE}
    if not without:
        return ()
    looked_at = list(without)
    for kid, cipher in ciphers.of({kid: key.row for kid, key in without.items()}).items():
        without.pop(kid).cipher = cipher
    if without:
        key_ids = int_array(key.id for key in without.values())
        rows = fetch_rows("SELECT count(*) FROM keyvault_devicekey WHERE id = ANY(%s::int[])", key_ids)
        if rows[0][0] < len(without):
            raise ContendedError("a key was deleted meanwhile")
    return looked_at


def _keep_sessions(
    made: Collection[bytes], keys: Mapping[bytes, CountedKey], results: Sequence[OpenedFrames], ciphers: KeptCiphers
) -> None:
    """Cache new ciphers of sessions in which a tag verified. Others are not cached: anybody can invent sessions."""
    named = {kid for kid in made if len(kid) > KID_OCTETS}
    if named:
        for kid in named.intersection(one.kid for opened, _ in results for one in opened):
            key = keys[kid]
            if key.cipher is not None:
                ciphers.keep(kid, key.row, key.cipher)


class _Foreseen:
    """The counters before a batch, as predicted from its frames if every meter counts in steps of one.

    Nothing here is authentic.
    """

    def __init__(self) -> None:
        self._first: dict[bytes, int] = {}
        self._next: dict[bytes, int] = {}
        self._irregular: set[bytes] = set()

    def look_at(self, frames: list[_Parsed]) -> None:
        first, following, irregular = self._first, self._next, self._irregular
        for _, _, frame in frames:
            kid, _, counter, _, _ = frame
            if kid in first:
                if counter != following.get(kid, first[kid] + 1):
                    irregular.add(kid)
                following[kid] = counter + 1
            else:
                first[kid] = counter

    @property
    def names(self) -> Collection[bytes]:
        """What the frames name: kids, or only titles."""
        return self._first.keys()

    def highest(self) -> dict[bytes, int]:
        """Return the predicted highest counter by kid: the one before the first counter in the batch.

        Kids whose counters skip, repeat or go back are left out. So are sessions at counter 0: they have no row yet.
        """
        irregular = self._irregular
        return {
            kid: counter - 1
            for kid, counter in self._first.items()
            if kid not in irregular and (counter or len(kid) == KID_OCTETS)
        }


_new_opened = tuple.__new__  # half the time of Opened(...)


def save_counters(opening: Opening, heard: Mapping[bytes, tuple[datetime, int]] = MappingProxyType({})) -> None:
    """Write back the counters that were taken, by compare-and-set on counter and key version.

    ``heard`` has, for the kid of each accepted frame, when it was received, and the id of whoever delivered it (the
    caller knows what that id means).

    ContendedError if a counter or key changed since it was read, or a counter was predicted wrongly: the caller
    rolls back and tries again.
    """
    keys = opening.keys
    for kid, (at, via) in heard.items():
        key = keys[kid]
        key.heard_at, key.heard_via = at, via
    moved = [key for _, key in sorted(keys.items()) if key.moved]
    if (
        len(moved) < len(keys)
        and opening.care is Care.TRUST
        and any(k.is_foreseen and not k.moved for k in keys.values())
    ):
        raise ContendedError("a counter was not taken, so no write checks that its key is unchanged")
    save_keys(moved)


def _parse(frames: Frames, refused: list[Refused]) -> list[_Parsed]:
    """Parse frames, each with its index; those that cannot be parsed go to ``refused``."""
    parsed: list[_Parsed] = []
    longest = settings.FRAME_MAX_OCTETS
    starts = ENVELOPES.starts
    start_octets = starts.octets
    for index, octets in frames:
        try:
            envelope, parse = starts[octets[:start_octets]]
            if len(octets) > longest:
                _check_length(octets, max(longest, ENVELOPES[envelope].max_octets))
            parsed.append((index, envelope, parse(octets)))
        except MismatchError as error:
            refused.append(Refused(index, Refusal.ALGORITHM_MISMATCH, str(error)))
        except MalformedError as error:
            refused.append(Refused(index, Refusal.MALFORMED, str(error)))
    return parsed


def _check_length(octets: bytes, longest: int) -> None:
    if len(octets) > longest:
        raise MalformedError(f"{len(octets)} octets are more than the {longest} that a frame may have")


def _why_not(envelope: str, frame: Frame, key: CountedKey | None, unfound: _Unfound) -> tuple[Refusal, str]:
    """Return why a frame was not opened: the first check that it fails, and a detail."""
    title, epoch = frame.kid[:8], frame.kid[8:KID_OCTETS]
    if key is None:
        reason = Refusal.UNKNOWN_EPOCH if title in unfound.known_titles else Refusal.UNKNOWN_DEVICE
        named = f", epoch {int.from_bytes(epoch, 'big')}" if epoch else ""
        return reason, f"no key for system title {title.hex()}{named}"
    if key.state not in ACCEPTABLE:
        return Refusal.KEY_RETIRED, f"the key of this epoch is {key.state}"
    if key.envelope != envelope:
        return Refusal.ALGORITHM_MISMATCH, f"envelope {envelope}, provisioned is {key.envelope}"
    if key.alg != frame.alg:
        return Refusal.ALGORITHM_MISMATCH, f"algorithm {frame.alg}, provisioned is {key.alg}"
    if key.cipher is None:
        return Refusal.PARKED, "the stored key does not open: its row was changed; see the log"
    return Refusal.TAG_INVALID, "the tag does not fit: forged, damaged, or another key"


def known_kids(names: Collection[bytes]) -> set[bytes]:
    """Return the names (kids, or only titles) that have a key, so that their frames are no longer unknown. One query.

    The key of a kid may have any status; that of a title must be usable (pending, active or retiring).
    """
    kids = read_keys(names, {}, Care.LOOK, KeptCiphers()).keys()
    titles = {kid[:8] for kid in kids}
    return {name for name in names if name in kids or name in titles}


def _known_titles(titles: Collection[bytes]) -> set[bytes]:
    if not titles:
        return set()
    rows = fetch_rows(
        "SELECT DISTINCT system_title FROM keyvault_devicekey WHERE system_title = ANY(%s::bytea[])",
        octets_array(titles),
    )
    return {row[0] for row in rows}
