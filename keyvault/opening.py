"""Opens the frames of whole uplinks together, and takes each invocation counter exactly once."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from operator import itemgetter
from types import MappingProxyType
from typing import NamedTuple

from django.conf import settings
from django.utils.functional import cached_property

from ami_headend.core.sql import fetch_rows, int_array, octets_array
from keyvault.ciphers import KeptCiphers
from keyvault.cose.forms import KID_OCTETS
from keyvault.cose.sealing import TagInvalidError
from keyvault.cose.structures import SYSTEM_TITLE_OCTETS, Frame, MalformedError, MismatchError
from keyvault.counted_keys import ACCEPTABLE, ContendedError, CountedKey
from keyvault.frames_by_title import KeysOfTitles, Unopened, ended_keys, open_first, read_all, titles_in
from keyvault.refusals import EnrolmentRefusal, Refusal
from keyvault.replay_window_store import Care, read_keys, save_keys
from keyvault.schemes.table import ENVELOPES


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


# A frame that names a title alone, and where its result goes.
_OfTitle = tuple[OpenedFrames, _Parsed]


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
    titles = titles_in(foreseen.names)
    usual = ciphers.usual_kids(titles, foreseen.first) if titles and care is not Care.LOCK else {}
    foreseen.rename(usual)
    keys = read_keys(foreseen.names, {} if care is Care.LOCK else foreseen.highest(), care, ciphers)
    made = _add_ciphers(keys, ciphers)
    unfound = _Unfound(keys, foreseen.names)
    by_title: list[_OfTitle] = []
    for frames_parsed, result in zip(parsed, results, strict=True):
        opened, refused = result
        for one in frames_parsed:
            index, envelope, frame = one
            name, alg, counter, _, _ = frame
            kid = usual.get(name, name)
            key = keys.get(kid)
            if key is not None and key.cipher is not None and key.alg == alg and key.envelope == envelope:
                try:
                    opened.append(_new_opened(Opened, (index, kid, counter, key.cipher.open_(frame), key)))
                    continue
                except TagInvalidError:
                    pass  # _why_not gives the reason
            if len(name) == SYSTEM_TITLE_OCTETS:
                by_title.append((result, one))
            else:
                refused.append(Refused(index, *_why_not(envelope, frame, key, unfound), name, counter))
    if by_title:
        unread = {frame.kid for _, (_, _, frame) in by_title if frame.kid in usual}
        if unread:
            _add_ciphers(read_all(unread, keys, care, ciphers), ciphers)
        _open_by_title(by_title, KeysOfTitles(keys, titles), unfound, ciphers)
    _keep_sessions(made, keys, results, ciphers)
    return Opening(results, keys, care)


def _open_by_title(
    frames: Sequence[_OfTitle], of_titles: KeysOfTitles, unfound: "_Unfound", ciphers: KeptCiphers
) -> None:
    """Open frames that name a title alone, each with the likeliest of its keys whose tag verifies, or refuse them."""
    unopened: list[tuple[list[Refused], int, Unopened]] = []
    late: list[list[Opened]] = []
    for (opened, refused), (index, envelope, frame) in frames:
        likeliest = of_titles.likeliest(envelope, frame)
        found = open_first(envelope, frame, likeliest)
        if found is None:
            kid, key = likeliest[0] if likeliest else (frame.kid, None)
            unopened.append((refused, len(refused), Unopened(envelope, frame)))
            refused.append(Refused(index, *_why_not(envelope, frame, key, unfound), kid, frame.counter))
            continue
        kid, key, payload = found
        ciphers.note_usual(kid, frame.counter)
        if opened and opened[-1].frame_index > index:
            late.append(opened)
        opened.append(Opened(index, kid, frame.counter, payload, key))
    for opened in late:
        opened.sort(key=itemgetter(0))
    if unopened:
        for (refused, place, _), state in zip(unopened, ended_keys([one for _, _, one in unopened]), strict=True):
            if state is not None:  # whatever was said before
                detail = f"the key that it is under is {state}"
                refused[place] = refused[place]._replace(reason=Refusal.KEY_RETIRED, detail=detail)


class _Unfound:
    """Finds which titles have keys at all, for frames in a batch whose key is not found.

    The one query runs when it is first needed; if every frame names its key, it never runs.
    (functools.cached_property would hold one lock for all threads meanwhile.)
    """

    def __init__(self, keys: Mapping[bytes, CountedKey], names: Collection[bytes]) -> None:
        self._keys, self._names = keys, names

    @cached_property
    def known_titles(self) -> set[bytes]:
        """The titles of devices that have keys, among those that frames name."""
        with_keys = {kid[:8] for kid in self._keys}
        return with_keys | _known_titles({name[:8] for name in self._names} - with_keys)


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
        self.first: dict[bytes, int] = {}  # counter by what the frames name
        self._next: dict[bytes, int] = {}
        self._irregular: set[bytes] = set()

    def look_at(self, frames: list[_Parsed]) -> None:
        first, following, irregular = self.first, self._next, self._irregular
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
        return self.first.keys()

    def rename(self, usual: Mapping[bytes, bytes]) -> None:
        """Take the frames of each title as if they had named its usual kid."""
        first, irregular = self.first, self._irregular
        for title, kid in usual.items():
            if title in irregular or kid in first:  # other frames name it
                irregular.add(kid)
            first[kid] = first.pop(title)

    def highest(self) -> dict[bytes, int]:
        """Return the predicted highest counter by kid: the one before the first counter in the batch.

        Kids whose counters skip, repeat or go back are left out. So are sessions at counter 0: they have no row yet.
        """
        irregular = self._irregular
        return {
            kid: counter - 1
            for kid, counter in self.first.items()
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
