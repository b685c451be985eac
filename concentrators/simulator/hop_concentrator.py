"""The reference of a concentrator that holds keys: it checks hop tags, opens ``hop`` frames, adds up. No Django.

docs/schemes.md describes what it gets and sends. It loses nothing with its power: ``dump`` has its whole state.
"""

import io
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from enum import StrEnum
from hashlib import sha256
from typing import Any, NamedTuple

import cbor2

from concentrators.simulator.keys import TRANSFER_EPOCH, Key
from concentrators.simulator.packs import base_name
from concentrators.simulator.sealers import Place, ccm, sealer
from keyvault.cose.algorithms import AES_CCM_16_64_128, AES_CCM_16_64_256, CCM, HMAC, command_algorithm
from keyvault.cose.kdf import TrafficKey, downlink_key
from keyvault.cose.sealing import DirectionCipher, TagInvalidError
from keyvault.cose.structures import SYSTEM_TITLE_OCTETS, Frame, MalformedError, make_kid
from keyvault.cose.structures import parse_frame as parse_ccm
from keyvault.replay_window import CounterSet, Take
from keyvault.schemes.hop_tag import HopTagKey, parse_tagged
from keyvault.schemes.mac import parse_mac, payload_of
from keyvault.schemes.table import parse_frame
from meters.readings.obis import LOAD_PROFILE
from meters.readings.senml import BN, BVER, SenMLError, SenmlRecord, parse_pack

_GAP_RUNS = 1024
_SET_KEY = 1  # the kind of the command that brings a key
UNKNOWN_PER_HOUR = 5_000
_SAMPLES = 3
_ROWS_IN_A_FRAME = 15
_HOUR_S = 3600
_SUMS_KEPT_S = 2 * 86_400
_MAC0 = b"\xd1"
_TAG = b"\xd1\x84\x4f\xa2"  # a COSE_Mac0 whose protected header has no counter


class HopFault(StrEnum):
    """The reasons to drop a frame, as it reports them to the head-end."""

    TAG_INVALID = "tag_invalid"
    UNTAGGED = "untagged"
    REPLAYED = "replayed"


class SumPlace(NamedTuple):
    """The interval of a sum: a register, minutes, and the start in Unix seconds."""

    register: str
    minutes: int
    start_s: int

    @property
    def end_s(self) -> int:
        return self.start_s + 60 * self.minutes


class _DroppedError(Exception):
    """A frame that is dropped, of a meter whose keys the concentrator has."""

    def __init__(self, title: bytes, fault: HopFault) -> None:
        super().__init__(fault)
        self.title, self.fault = title, fault


class HopConcentrator:
    """One concentrator with its own key, booted from its state; without any it is new.

    ``title`` has 8 octets, ``key`` is its own of one epoch, ``transfer_key`` that of epoch 0, under which others come.
    It holds keys of its meters once ``take_keys`` gave some. Of titles that it has no keys of, ``unknown_per_hour``
    frames pass.
    """

    def __init__(
        self,
        title: bytes,
        key: Key,
        state: bytes | None = None,
        unknown_per_hour: int = UNKNOWN_PER_HOUR,
        transfer_key: Key | None = None,
    ) -> None:
        kept: dict[str, Any] = {} if state is None else cbor2.loads(state)
        self.system_title, self._transfer_key = title, transfer_key
        # Its newest key, and those before it: the hop keys that came last may be sealed under one of these.
        self._held = {epoch: Key(octets, alg, epoch) for epoch, octets, alg in kept.get("own", [])} | {key.epoch: key}
        self._use(self._held[max(self._held)])
        self.counter: int = kept.get("counter", 0)
        self._sealed_keys: bytes = b""
        self._tags: dict[bytes, HopTagKey] = {}
        self._openers: dict[bytes, DirectionCipher] = {}
        self._titles: frozenset[bytes] = frozenset()
        self._windows = {kid: _window(*window) for kid, window in kept.get("windows", {}).items()}
        self._sums: dict[SumPlace, dict[bytes, int]] = {SumPlace(*at): of for *at, of in kept.get("sums", [])}
        self._changed = {SumPlace(*place) for place in kept.get("changed", [])}
        self._forgotten_s: float = kept.get("forgotten_s", 0)
        self._dropped = Counter({(title, hour_s, fault): n for title, hour_s, fault, n in kept.get("dropped", [])})
        self._samples: dict[tuple[bytes, int, str], list[bytes]] = {}
        self._unknown: Counter[int] = Counter()
        self._unknown_per_hour = unknown_per_hour
        if kept.get("keys"):
            self.take_keys(kept["keys"])

    def dump(self) -> bytes:
        """Return everything that must survive a loss of power."""
        return cbor2.dumps(
            {
                "own": [[one.epoch, one.octets, one.alg] for one in self._held.values()],
                "counter": self.counter,
                "keys": self._sealed_keys,
                "windows": {kid: [one.highest, one.floor, one.gaps] for kid, one in self._windows.items()},
                "sums": [[*place, values] for place, values in self._sums.items()],
                "changed": [list(place) for place in self._changed],
                "forgotten_s": self._forgotten_s,
                "dropped": [[*place, count] for place, count in self._dropped.items()],
            }
        )

    # --- keys -------------------------------------------------------------------------------------

    @property
    def has_keys(self) -> bool:
        """Return whether it has any keys from the head-end yet."""
        return bool(self._sealed_keys)

    def knows(self, kid: bytes) -> bool:
        """Return whether it has the keys of an epoch of a meter."""
        return kid in self._tags

    def take_keys(self, sequence: bytes) -> None:
        """Take hop keys as the head-end seals them: the complete set; keys that are not in it are deleted.

        TagInvalidError or MalformedError if they are not for this concentrator: it continues with those it has.
        """
        if sequence == self._sealed_keys:
            return
        entries = [entry for frame in _frames(sequence) for entry in cbor2.loads(self._open_command(frame))]
        self._tags = {kid: HopTagKey(mac_key, kid) for kid, mac_key, _, _ in entries}
        self._openers = {kid: _opener(key, base_iv) for kid, _, key, base_iv in entries if key is not None}
        self._titles = frozenset(kid[:SYSTEM_TITLE_OCTETS] for kid in self._tags)
        self._sealed_keys = sequence

    def take_next_key(self, octets: bytes) -> bool:
        """Take the command that brings its own next key (docs/frame.md, section 10); True if that is new.

        Its next frame is under that key, from counter 0 on, and so proves it. TagInvalidError or MalformedError where
        the command is not for this concentrator: it goes on with the key that it has.
        """
        frame = parse_ccm(octets)
        if frame.kid != make_kid(self.system_title, TRANSFER_EPOCH):
            raise TagInvalidError
        kind, _, epoch, key, alg, *_ = cbor2.loads(self._open_command(frame))
        if kind != _SET_KEY or epoch <= self.key.epoch:
            return False
        self._held = {self.key.epoch: self.key, epoch: Key(key, alg, epoch)}
        self._use(self._held[epoch])
        self.counter = 0
        return True

    def _use(self, key: Key) -> None:
        self.key, self.kid = key, make_kid(self.system_title, key.epoch)
        self._own = ccm(key, self.system_title, Place())

    def _open_command(self, frame: Frame) -> bytes:
        """What the head-end sealed under one of its own keys, or its transfer key."""
        epoch = int.from_bytes(frame.kid[SYSTEM_TITLE_OCTETS:], "big")
        key = self._transfer_key if epoch == TRANSFER_EPOCH else self._held.get(epoch)
        if key is None:
            raise TagInvalidError
        alg = command_algorithm(key.alg)
        return DirectionCipher(downlink_key(key.octets, self.system_title, epoch, alg), alg).open_(frame)

    # --- the local link ---------------------------------------------------------------------------

    def receive(self, octets: bytes, minutes: int, now_s: float) -> bytes | None:
        """Receive a frame over the local link; return the frame for the head-end, or None if it is dropped.

        ``minutes`` is the interval length of the meter, known from its installation.
        """
        hour_s = int(now_s) // _HOUR_S * _HOUR_S
        try:
            if octets.startswith(_TAG):
                return self._untag(octets, minutes, hour_s)
            frame = parse_frame(octets)
            if octets[:1] != _MAC0 and frame.kid in self._openers:
                return self._report(frame, minutes)
            title = frame.kid[:SYSTEM_TITLE_OCTETS]
            if title in self._titles:
                raise _DroppedError(title, HopFault.UNTAGGED)
        except MalformedError:
            return None  # nobody's frame
        except _DroppedError as dropped:
            self._note(dropped, hour_s, octets)
            return None
        return self._pass_unknown(octets, hour_s)

    def _untag(self, octets: bytes, minutes: int, hour_s: int) -> bytes | None:
        """Return the frame inside if the tag is right; add its readings up if they can be read."""
        tagged = parse_tagged(octets)
        title = tagged.kid[:SYSTEM_TITLE_OCTETS]
        if title not in self._titles:
            return self._pass_unknown(tagged.frame, hour_s)
        key = self._tags.get(tagged.kid)
        try:
            if key is None:
                raise TagInvalidError
            inside = key.check_tag(tagged)
        except TagInvalidError:
            raise _DroppedError(title, HopFault.TAG_INVALID) from None
        if inside[:1] == _MAC0:
            frame = parse_mac(inside)
            if frame.alg in HMAC and self._window(frame.kid).take(frame.counter) is Take.TAKEN:
                self._add_up(payload_of(frame), title, minutes)
        return inside

    def _report(self, frame: Frame, minutes: int) -> bytes:
        """Open a frame of a meter of scheme ``hop``, and seal its payload as a report of this concentrator."""
        title, window = frame.kid[:SYSTEM_TITLE_OCTETS], self._window(frame.kid)
        if window.look(frame.counter) is not Take.TAKEN:
            raise _DroppedError(title, HopFault.REPLAYED)
        try:
            payload = self._openers[frame.kid].open_(frame)
        except TagInvalidError:
            raise _DroppedError(title, HopFault.TAG_INVALID) from None
        window.take(frame.counter)
        self._add_up(payload, title, minutes)
        return self.seal(name_meter(payload, title))

    def _pass_unknown(self, octets: bytes, hour_s: int) -> bytes | None:
        """Pass on a frame of a title without keys, up to a number each hour."""
        self._unknown[hour_s] += 1
        return octets if self._unknown[hour_s] <= self._unknown_per_hour else None

    def _window(self, kid: bytes) -> CounterSet:
        return self._windows.setdefault(kid, CounterSet(_GAP_RUNS))

    def impostor(self, noise: bytes) -> "HopConcentrator":
        """Return somebody who pretends to be this concentrator, with another key."""
        return HopConcentrator(self.system_title, self.key._replace(octets=sha256(noise).digest()))

    # --- what it says -----------------------------------------------------------------------------

    def seal(self, payload: bytes, counter: int | None = None) -> bytes:
        """A frame under its own kid and the next counter; a given ``counter`` is for simulated faults only."""
        return self._own.seal(self.next_counter() if counter is None else counter, payload)

    def next_counter(self) -> int:
        """A counter that none of its frames was sealed under."""
        self.counter += 1
        return self.counter - 1

    def seal_as(self, scheme: str, alg: int, payload: bytes) -> bytes:
        """A frame of another scheme or COSE algorithm than its own; for simulated faults only."""
        key = self.key._replace(scheme=scheme, alg=alg)
        return sealer(key, self.system_title, Place(bytes(12))).seal(self.next_counter(), payload)

    def sums_until(self, until_s: float) -> list[tuple[SumPlace, int, int]]:
        """The sums of intervals that ended by a Unix second, each with its value and how many meters.

        Those that it has not said so yet; a sum to which a late reading comes is said again, for two days.
        """
        ended = sorted(place for place in self._changed if place.end_s <= until_s)
        said = [(place, sum(self._sums[place].values()), len(self._sums[place])) for place in ended]
        self._changed.difference_update(ended)
        self._forgotten_s = max(self._forgotten_s, until_s - _SUMS_KEPT_S)
        for place in [place for place in self._sums if place.end_s <= self._forgotten_s]:
            del self._sums[place]
        return said

    def seal_sums(self, sums: Iterable[tuple[SumPlace, int, int]]) -> list[bytes]:
        """Return frames that report sums to the head-end."""
        rows = [[*place, value, meters] for place, value, meters in sums]
        parts = [rows[first : first + _ROWS_IN_A_FRAME] for first in range(0, len(rows), _ROWS_IN_A_FRAME)]
        return [self.seal(cbor2.dumps(["sums", *part], canonical=True)) for part in parts]

    def failures(self) -> list[dict[str, Any]]:
        """What it dropped, by meter, hour and reason, as it says to the head-end: the whole hours so far."""
        return [
            {
                "system_title": title.hex(),
                "hour": datetime.fromtimestamp(hour_s, UTC).isoformat(),
                "reason": fault,
                "frames": count,
                "samples": [one.hex() for one in self._samples.get((title, hour_s, fault), [])],
            }
            for (title, hour_s, fault), count in sorted(self._dropped.items())
        ]

    def _note(self, dropped: _DroppedError, hour_s: int, octets: bytes) -> None:
        place = dropped.title, hour_s, dropped.fault.value
        self._dropped[place] += 1
        samples = self._samples.setdefault(place, [])
        if len(samples) < _SAMPLES:
            samples.append(octets)

    def _add_up(self, payload: bytes, title: bytes, minutes: int) -> None:
        """Add up the intervals of a meter, each once."""
        for record in _records(payload):
            place = SumPlace(record.name, minutes, record.time_s)
            if record.name != LOAD_PROFILE or type(record.value) is not int or place.end_s <= self._forgotten_s:
                continue
            values = self._sums.setdefault(place, {})
            if title not in values:
                values[title] = record.value
                self._changed.add(place)


class Reporter:
    """A concentrator that speaks for one meter of scheme ``hop``: to the head-end its reports are what that sent."""

    __slots__ = ("_concentrator", "_title")

    def __init__(self, concentrator: HopConcentrator, title: bytes) -> None:
        self._concentrator, self._title = concentrator, title

    @property
    def system_title(self) -> bytes:
        return self._concentrator.system_title

    @property
    def kid(self) -> bytes:
        return self._concentrator.kid

    @property
    def key(self) -> Key:
        return self._concentrator.key

    def seal(self, payload: bytes, counter: int | None = None) -> bytes:
        """A report of a payload that the meter has not sent; for simulated faults only."""
        return self._concentrator.seal(name_meter(payload, self._title), counter)

    def seal_as(self, scheme: str, alg: int, payload: bytes) -> bytes:
        return self._concentrator.seal_as(scheme, alg, payload)

    def impostor(self, noise: bytes) -> "Reporter":
        return Reporter(self._concentrator.impostor(noise), self._title)


def name_meter(payload: bytes, title: bytes) -> bytes:
    """The same pack, with a base name that names the meter; what is no pack stays as it is."""
    try:
        first, *rest = cbor2.loads(payload)
        if len(cbor2.dumps([first, *rest])) != len(payload):
            return payload  # octets stand after the pack
        version = {BVER: first[BVER]} if BVER in first else {}
        return cbor2.dumps([{**version, BN: base_name(title), **first}, *rest])
    except (cbor2.CBORError, ValueError, TypeError):
        return payload


def _records(payload: bytes) -> list[SenmlRecord]:
    try:
        return parse_pack(payload)
    except SenMLError:
        return []  # the head-end says what is wrong with it


def _frames(sequence: bytes) -> list[Frame]:
    """The frames of a CBOR sequence of COSE messages."""
    decoder = cbor2.CBORDecoder(stream := io.BytesIO(sequence))
    frames, start = [], 0
    while start < len(sequence):
        decoder.decode()
        frames.append(parse_ccm(sequence[start : stream.tell()]))
        start = stream.tell()
    return frames


def _opener(key: bytes, base_iv: bytes) -> DirectionCipher:
    """What opens a meter's frames: the key's length says which algorithm it is for."""
    alg = AES_CCM_16_64_128 if len(key) == CCM[AES_CCM_16_64_128].key_octets else AES_CCM_16_64_256
    return DirectionCipher(TrafficKey(key, base_iv), alg)


def _window(highest: int, floor: int, gaps: list[list[int]]) -> CounterSet:
    return CounterSet(_GAP_RUNS, highest, floor, [(first, last) for first, last in gaps])
