"""One frame, whatever is wrong with it, opened and decided without a database."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from concentrators.ingest.decide import decide
from concentrators.ingest.decisions import Decisions
from concentrators.ingest.facts import NOTHING_EARLIER, AssignedMeter, Delivery, Earlier, Facts, OpenedUplink
from concentrators.ingest.frame_checks import Examined, examine
from keyvault import opening
from keyvault.ciphers import KeptCiphers, key_row
from keyvault.cose.structures import make_kid
from keyvault.counted_keys import ACCEPTABLE, CountedKey, CountedSession
from keyvault.coupons.verifying import Coupons
from keyvault.replay_window_store import Care
from keyvault.schemes.lines import OpenedKey
from keyvault.schemes.mac import MacCipher
from keyvault.schemes.sealed import SealedSealer
from keyvault.schemes.session import SessionSealer, kid_context
from keyvault.schemes.table import ENVELOPES
from meters.contents.lines import Catalogue, RegisterRow
from meters.contents.table import Readers
from meters.readings.obis import COMMAND_DONE
from tests.builders import KNOWN_KEY, KNOWN_TIME_S, KNOWN_TITLE, pack, seal_frame
from tests.keyvault.schemes.forms import EPHEMERAL, HEAD_END, HEAD_END_PUBLIC

KID = make_kid(KNOWN_TITLE, 1)
ENERGY, INTERVAL, TAMPER = "1-0:1.8.0", "1-0:1.29.0", "0-0:96.11.0"
ENERGY_ID, INTERVAL_ID, TAMPER_ID, DONE_ID = 1, 2, 3, 4
METER_ID, CONCENTRATOR_ID, UPLINK_ID = 7, 3, 100
HALF_HOUR_S = 1800
RECEIVED = datetime.fromtimestamp(KNOWN_TIME_S + 3600, UTC)
WINDOW = timedelta(hours=24)
SKEW_S = 300
DAY_S = 86_400

CATALOGUE = Catalogue(
    {
        ENERGY: RegisterRow(ENERGY_ID, "Wh", 0, False, False, 0, 10**12),
        INTERVAL: RegisterRow(INTERVAL_ID, "Wh", 0, True, False, 0, 999_999),
        TAMPER: RegisterRow(TAMPER_ID, "count", 0, False, True, 0, 2**24 - 1),
        COMMAND_DONE: RegisterRow(DONE_ID, "count", 0, False, True, 0, 2**40),
    }
)


def usual(wh: int = 100, time_s: int = KNOWN_TIME_S) -> bytes:
    """The payload of one interval."""
    return pack({-1: 26, -3: time_s, 0: INTERVAL, 1: "Wh", 2: wh})


def meter(*, in_service: bool = True, is_retired: bool = False) -> AssignedMeter:
    assigned = AssignedMeter(METER_ID, 30, in_service=in_service, is_retired=is_retired)
    assigned.add(CONCENTRATOR_ID, 0, None)
    return assigned


_ALGS = {"ccm": 10, "session": 10, "mac": 4, "sealed": -65537}


@dataclass(frozen=True)
class Scene:
    """All that a verdict hangs on: a frame, the key and the meter that it names, and what stands already."""

    payload: bytes = field(default_factory=usual)
    counter: int = 5
    damage: bytes | None = None  # in place of the frame's last octet, or after it
    is_too_long: bool = False
    sealing_alg: int = 10
    key_stands: bool = True
    title_is_known: bool = True
    key_state: str = "active"
    key_opens: bool = True
    highest: int = 4
    floor: int = 0
    gaps: str = "{}"
    meter: AssignedMeter | None = field(default_factory=meter)
    earlier: Earlier = NOTHING_EARLIER
    locks: bool = True
    received_at: datetime = RECEIVED
    scheme: str = "ccm"
    masks: bool = False  # whether the meter masks what it measures
    opened_s: int = KNOWN_TIME_S  # when the session began, and which one the frame is of
    session_is_kept: bool = True
    session_floor: bytes = b""
    coupons: Callable[[], Coupons] | None = None  # of a meter that signs, as they stand

    @property
    def context(self) -> bytes:
        return kid_context(self.opened_s, bytes(8)) if self.scheme == "session" else b""

    @property
    def kid(self) -> bytes:
        return KID + self.context

    @property
    def content_suffix(self) -> str:
        """What the name of the scheme says after its envelope."""
        return " + masked" if self.masks else " + signed" * (self.coupons is not None)

    def octets(self) -> bytes:
        frame = self.seal(self.counter, self.payload)
        if self.is_too_long:
            return frame + bytes(5000)
        return frame if self.damage is None else frame[:-1] + self.damage

    def seal(self, counter: int, payload: bytes) -> bytes:
        """As the meter seals under its scheme; ``sealing_alg`` 11 stands for its scheme's other algorithm."""
        is_other = self.sealing_alg != _ALGS["ccm"]
        match self.scheme:
            case "session":
                return SessionSealer(KNOWN_KEY, KNOWN_TITLE, 1, self.sealing_alg, self.context).seal_as(
                    counter, payload
                )
            case "mac":
                return MacCipher(KNOWN_KEY, KNOWN_TITLE, 1, 5 if is_other else 4).seal(KID, counter, payload)
            case "sealed":
                return SealedSealer(KNOWN_KEY, KNOWN_TITLE, 1, HEAD_END_PUBLIC).seal(counter, payload, EPHEMERAL)
        return seal_frame(KNOWN_TITLE, 1, KNOWN_KEY, counter, payload, self.sealing_alg)

    def key(self) -> CountedKey:
        cipher = None
        key = OpenedKey(KNOWN_KEY, KNOWN_TITLE, 1, _ALGS[self.scheme], HEAD_END)
        key.kid_context = self.context
        if self.key_opens and self.key_state in ACCEPTABLE:
            cipher = ENVELOPES[self.scheme].cipher(key)
        row = key_row(1, 1, self.key_state, key.algorithm, self.scheme + self.content_suffix)
        if not self.context:
            return CountedKey(16, row, cipher, self.highest, self.floor, self.gaps)
        if not self.session_is_kept:
            return CountedSession(16, row, cipher, self.context, None, session_floor=self.session_floor)
        return CountedSession(16, row, cipher, self.context, self.highest, self.floor, self.gaps)

    def facts(self) -> Facts:
        return Facts(
            meters={} if self.meter is None else {KNOWN_TITLE: self.meter},
            registers=CATALOGUE,
            readers=Readers(CATALOGUE),
            pending_kids=[self.kid] if self.key_state == "pending" else [],
            earliest_s=KNOWN_TIME_S - 100 * DAY_S,
            clock_skew_s=SKEW_S,
            retransmission_window=WINDOW,
            looks_everywhere=self.locks,
            coupons=None if self.coupons is None else self.coupons(),
        )

    def but(self, **changes: Any) -> "Scene":
        return replace(self, **changes)


def opened(scene: Scene, frames: Sequence[bytes]) -> tuple[OpenedUplink, CountedKey]:
    """The frames of an uplink, opened under the key of the scene."""
    key = scene.key()
    keys = {scene.kid: key} if scene.key_stands else {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(opening, "read_keys", lambda *_: keys)
        patch.setattr(opening, "_known_titles", lambda _: {KNOWN_TITLE} if scene.title_is_known else set())
        patch.setattr(opening, "_add_ciphers", lambda *_: ())
        (result,) = opening.open_frames([list(enumerate(frames))], Care.LOOK, KeptCiphers()).uplinks
    delivery = Delivery(UPLINK_ID, CONCENTRATOR_ID, scene.received_at, scene.received_at)
    return OpenedUplink(delivery, list(enumerate(frames)), result.opened, result.refused), key


def examined(scene: Scene, frames: Sequence[bytes] | None = None) -> tuple[Examined, CountedKey]:
    uplink, key = opened(scene, [scene.octets()] if frames is None else frames)
    return examine([uplink], scene.facts()), key


def decided(scene: Scene, frames: Sequence[bytes] | None = None) -> tuple[Decisions, CountedKey]:
    """What is decided of the frames, and the counters after it."""
    seen, key = examined(scene, frames)
    return decide(seen, scene.earlier), key


def verdicts(scene: Scene, frames: Sequence[bytes] | None = None) -> dict[str, int]:
    """How many frames got each verdict; of the one frame of the scene, unless others are given."""
    decisions, _ = decided(scene, frames)
    counted = decisions.uplinks[0].verdicts
    each: dict[str, int] = {"accepted": counted.accepted, "duplicate": counted.duplicate}
    each.update({str(kind): number for kind, number in counted.failures.items()})
    return {name: number for name, number in each.items() if number}


def standing(wh: int, age: timedelta = timedelta(), uplink_id: int = 50) -> Earlier:
    """The value of the usual interval stands, brought by another uplink of that age."""
    spot = (METER_ID, INTERVAL_ID, KNOWN_TIME_S, None)
    return Earlier({spot: (wh, uplink_id)}, {uplink_id: RECEIVED - age})
