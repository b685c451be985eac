"""What goes wrong on purpose, and the verdict that each wrong frame must end with. No Django.

Every genuine frame is posted as well, so the readings that must stand are the load's, whatever else happens.
"""

import random
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import NamedTuple

import cbor2

from concentrators.failures.kinds import FailureKind
from concentrators.simulator.meter import (
    ENERGY_REGISTER,
    SimulatedMeter,
    base_name,
    interval_payload,
    register_payload,
)
from concentrators.simulator.obedience import Fault
from concentrators.simulator.plan import STRANGERS, Plan
from concentrators.simulator.spool import Outgoing
from keyvault.cose.algorithms import AES_CCM_16_64_256
from meters.readings.obis import LOAD_PROFILE
from meters.readings.senml import BT, BVER, N, U, V

ACCEPTED = "accepted"
DUPLICATE = "duplicate"
_DAY_S = 86_400
_POOL = 2_000
_STRANGERS = 8


class Misbehaviour(StrEnum):
    """What can go wrong, by the name that ``--misbehave`` takes."""

    BIT_FLIP = "bit_flip"
    REPLAY = "replay"
    OLD_REPLAY = "old_replay"
    WRONG_KEY = "wrong_key"
    UNKNOWN_METER = "unknown_meter"
    REUSED_COUNTER = "reused_counter"
    CONFLICT = "conflict"
    CLOCK_AHEAD = "clock_ahead"
    BEFORE_RETENTION = "before_retention"
    GARBAGE = "garbage"
    REORDER = "reorder"
    LATE = "late"
    SECOND_CONCENTRATOR = "second_concentrator"
    BAD_PAYLOAD = "bad_payload"
    UNKNOWN_REGISTER = "unknown_register"
    REGISTRY_MISMATCH = "registry_mismatch"
    IMPLAUSIBLE = "implausible"
    IDENTITY = "identity"
    ALGORITHM = "algorithm"
    SUSPENDED = "suspended"
    RETIRED_KEY = "retired_key"
    OLD_COUNTER = "old_counter"  # not a rate: one meter loses its place once


DEFAULT_RATES = dict.fromkeys(Misbehaviour, 0.002) | {Misbehaviour.REORDER: 0.02, Misbehaviour.LATE: 0.01}


class RatesError(ValueError):
    """The text of --misbehave cannot be used; the caller's mistake."""


def parse_rates(text: str) -> dict[str, float]:
    """Rates per genuine frame from ``all``, ``all=0.001`` or ``name=rate,...``; later parts win."""
    rates: dict[str, float] = {}
    for part in filter(None, text.split(",")):
        name, _, number = part.partition("=")
        try:
            rate = float(number) if number else None
        except ValueError:
            raise RatesError(f"{part!r}: {number!r} is not a number") from None
        if rate is not None and not 0 <= rate <= 0.5:
            raise RatesError(f"{part!r}: a rate is 0 to 0.5 of the genuine frames")
        if name == "all":
            kinds = list(Misbehaviour)
        elif name in list(Misbehaviour):
            kinds = [Misbehaviour(name)]
        else:
            raise RatesError(f"no misbehaviour is called {name!r}; there are: all, {', '.join(Misbehaviour)}")
        rates.update({kind.value: DEFAULT_RATES[kind] if rate is None else rate for kind in kinds})
    total = sum(rates.values())
    if total > 1:
        raise RatesError(f"the rates add up to {total:g}, more than every frame")
    return {name: rate for name, rate in rates.items() if rate}


def parse_faults(text: str) -> dict[str, float]:
    """Rates per command from ``name=rate,...``; later parts win."""
    rates: dict[str, float] = {}
    for part in filter(None, text.split(",")):
        name, _, number = part.partition("=")
        if name not in list(Fault):
            raise RatesError(f"no fault of a command is called {name!r}; there are: {', '.join(Fault)}")
        try:
            rates[name] = float(number)
        except ValueError:
            raise RatesError(f"{part!r}: {number!r} is not a number") from None
    if not all(0 <= rate <= 1 for rate in rates.values()) or sum(rates.values()) > 1:
        raise RatesError("rates of faults are 0 to 1, and add up to 1 at most")
    return rates


class Genuine(NamedTuple):
    """A genuine frame, and what it says."""

    meter: SimulatedMeter
    frame: Outgoing
    counter: int
    start_s: int
    interval_minutes: int
    register_wh: int
    energy_wh: int


class Mischief:
    """Adds wrong frames to genuine ones, or holds genuine ones back, by the plan's rates.

    ``ghosts`` are the meters that exist for a misbehaviour, by its name.
    """

    def __init__(self, plan: Plan, ghosts: Mapping[str, SimulatedMeter]) -> None:
        self._plan = plan
        self._ghosts = ghosts
        self._rng = random.Random(f"{plan.seed}/misbehaviour")
        self._pool: list[bytes] = []
        self._strangers = [
            SimulatedMeter.unknown_to_all(plan.system_title(STRANGERS + n), self._rng.randbytes(16))
            for n in range(_STRANGERS)
        ]
        self._kinds = [Misbehaviour(name) for name in plan.rates if name != Misbehaviour.OLD_COUNTER]
        self._weights = [plan.rates[kind] for kind in self._kinds]
        self._total = self._threshold = sum(self._weights)
        self._actions: dict[Misbehaviour, Callable[[Genuine], list[Outgoing]]] = {
            Misbehaviour.BIT_FLIP: self._bit_flip,
            Misbehaviour.REPLAY: self._replay,
            Misbehaviour.OLD_REPLAY: self._old_replay,
            Misbehaviour.WRONG_KEY: self._wrong_key,
            Misbehaviour.UNKNOWN_METER: self._unknown_meter,
            Misbehaviour.REUSED_COUNTER: self._reused_counter,
            Misbehaviour.CONFLICT: self._conflict,
            Misbehaviour.CLOCK_AHEAD: self._clock_ahead,
            Misbehaviour.BEFORE_RETENTION: self._before_retention,
            Misbehaviour.GARBAGE: self._garbage,
            Misbehaviour.REORDER: self._reorder,
            Misbehaviour.LATE: self._late,
            Misbehaviour.SECOND_CONCENTRATOR: self._second_concentrator,
            Misbehaviour.BAD_PAYLOAD: self._bad_payload,
            Misbehaviour.UNKNOWN_REGISTER: self._unknown_register,
            Misbehaviour.REGISTRY_MISMATCH: self._registry_mismatch,
            Misbehaviour.IMPLAUSIBLE: self._implausible,
            Misbehaviour.IDENTITY: self._identity,
            Misbehaviour.ALGORITHM: self._algorithm,
            Misbehaviour.SUSPENDED: self._suspended,
            Misbehaviour.RETIRED_KEY: self._retired_key,
        }

    def begin(self, first_tick: int, eagerness: float) -> None:
        """The draws of a stretch depend on the seed and on where it begins; ``eagerness`` multiplies the rates."""
        self._threshold = min(1.0, self._total * eagerness)
        self._rng.seed(f"{self._plan.seed}/misbehaviour/{first_tick}")

    def beside(self, genuine: Genuine) -> list[Outgoing]:
        """The wrong frames that go with a genuine one, mostly none; the genuine one may be held back."""
        if self._rng.random() >= self._threshold:
            return []
        kind = self._rng.choices(self._kinds, self._weights)[0]
        self._remember(genuine.frame.octets)
        return self._actions[kind](genuine)

    def lose_counters(self, concentrator: int) -> list[Outgoing]:
        """One meter counts in twos until the head-end gives up its oldest gap, then sends a counter of that gap.

        The gaps reach their limit first; only when all of that is verified do three more follow,
        and only after those the old counter: so the verdicts hold in whatever order workers verify.
        """
        meter = self._ghosts.get(Misbehaviour.OLD_COUNTER)
        if meter is None:
            return []
        frames: list[Outgoing] = []
        readings = self._plan.old_counter_readings()
        for step, (captured_at_s, register_wh) in enumerate(readings):
            octets = meter.seal(register_payload(captured_at_s, register_wh), counter=2 * step + 2)
            behind = frames[self._plan.gap_runs - 1] if step >= self._plan.gap_runs else None
            frames.append(Outgoing(concentrator, octets, ACCEPTED, behind=behind))
        old = meter.seal(register_payload(readings[-1][0] + 5, 0), counter=1)
        frames.append(Outgoing(concentrator, old, FailureKind.COUNTER_TOO_OLD, behind=frames[-1]))
        return frames

    # --- one method a misbehaviour -----------------------------------------------------------------

    def _bit_flip(self, genuine: Genuine) -> list[Outgoing]:
        """A bit damaged on the way: which octet it stands in decides the verdict."""
        octets = bytearray(genuine.frame.octets)
        verdict, positions, bits = self._rng.choice(
            [
                (FailureKind.TAG_INVALID, range(len(octets) - 16, len(octets)), range(8)),
                (FailureKind.UNKNOWN_DEVICE, range(8, 9), range(2, 8)),  # of 02, the first octet of every title
                (FailureKind.UNKNOWN_EPOCH, range(16, 17), range(8)),  # the epoch's high octet
                (FailureKind.MALFORMED, (0, 1, 2, 3, 4, 6, 7, 18), range(8)),  # heads and labels
            ]
        )
        octets[self._rng.choice(positions)] ^= 1 << self._rng.choice(bits)
        return [self._via_home(genuine, bytes(octets), verdict)]

    def _replay(self, genuine: Genuine) -> list[Outgoing]:
        recorded = self._rng.choice(self._pool)
        return [Outgoing(self._rng.randrange(self._plan.concentrators), recorded, DUPLICATE)]

    def _old_replay(self, genuine: Genuine) -> list[Outgoing]:
        """What a replay looks like whose readings are long gone: a counter that was seen, and a time before retention.

        A replay of what still stands shows as one after RETRANSMISSION_WINDOW_S alone, longer than a run takes.
        """
        octets = genuine.meter.seal(self._long_ago(genuine), genuine.counter)
        return [self._via_home(genuine, octets, FailureKind.REPLAYED, behind=genuine.frame)]

    def _second_concentrator(self, genuine: Genuine) -> list[Outgoing]:
        second = (genuine.frame.concentrator + 1) % self._plan.concentrators
        return [Outgoing(second, genuine.frame.octets, DUPLICATE)]

    def _wrong_key(self, genuine: Genuine) -> list[Outgoing]:
        meter = genuine.meter
        impostor = SimulatedMeter.unknown_to_all(meter.system_title, self._rng.randbytes(16), meter.epoch)
        return [self._via_home(genuine, impostor.seal(_other(genuine), genuine.counter + 1), FailureKind.TAG_INVALID)]

    def _unknown_meter(self, genuine: Genuine) -> list[Outgoing]:
        stranger = self._rng.choice(self._strangers)
        return [self._via_home(genuine, stranger.seal(_other(genuine)), FailureKind.UNKNOWN_DEVICE)]

    def _reused_counter(self, genuine: Genuine) -> list[Outgoing]:
        octets = genuine.meter.seal(_other(genuine), genuine.counter)
        return [self._via_home(genuine, octets, FailureKind.COUNTER_REUSED, behind=genuine.frame)]

    def _conflict(self, genuine: Genuine) -> list[Outgoing]:
        octets = genuine.meter.seal(_other(genuine))
        return [self._via_home(genuine, octets, FailureKind.READING_CONFLICT, behind=genuine.frame)]

    def _clock_ahead(self, genuine: Genuine) -> list[Outgoing]:
        payload = interval_payload(genuine.start_s + 730 * _DAY_S, genuine.register_wh, genuine.energy_wh)
        return [self._via_home(genuine, genuine.meter.seal(payload), FailureKind.CLOCK_SKEW)]

    def _before_retention(self, genuine: Genuine) -> list[Outgoing]:
        return [self._via_home(genuine, genuine.meter.seal(self._long_ago(genuine)), FailureKind.TOO_OLD)]

    def _garbage(self, genuine: Genuine) -> list[Outgoing]:
        octets = genuine.frame.octets
        cut = self._rng.randrange(1, len(octets))
        junk = self._rng.choice([self._rng.randbytes(cut), octets[:cut], octets + b"\x00", octets[cut:]])
        return [self._via_home(genuine, junk, FailureKind.MALFORMED)]

    def _reorder(self, genuine: Genuine) -> list[Outgoing]:
        self._hold(genuine, self._rng.randint(1, 20) * genuine.interval_minutes * 60)
        return []

    def _late(self, genuine: Genuine) -> list[Outgoing]:
        self._hold(genuine, self._rng.randint(1, 8) * _DAY_S)
        return []

    def _bad_payload(self, genuine: Genuine) -> list[Outgoing]:
        payload = self._rng.choice(_BAD_PAYLOADS)(genuine)
        return [self._via_home(genuine, genuine.meter.seal(payload), FailureKind.PAYLOAD_INVALID)]

    def _unknown_register(self, genuine: Genuine) -> list[Outgoing]:
        payload = _pack(genuine, 1, name="1-0:255.255.255")
        return [self._via_home(genuine, genuine.meter.seal(payload), FailureKind.UNKNOWN_REGISTER)]

    def _registry_mismatch(self, genuine: Genuine) -> list[Outgoing]:
        payload = self._rng.choice(_OTHER_THAN_REGISTERED)(genuine)
        return [self._via_home(genuine, genuine.meter.seal(payload), FailureKind.REGISTRY_MISMATCH)]

    def _implausible(self, genuine: Genuine) -> list[Outgoing]:
        payload = _pack(genuine, self._rng.choice([-1, -(2**63), 2**63 - 1]))
        return [self._via_home(genuine, genuine.meter.seal(payload), FailureKind.IMPLAUSIBLE)]

    def _identity(self, genuine: Genuine) -> list[Outgoing]:
        other = base_name(self._rng.choice(self._strangers).system_title)
        payload = interval_payload(genuine.start_s, genuine.register_wh, genuine.energy_wh, other)
        return [self._via_home(genuine, genuine.meter.seal(payload), FailureKind.IDENTITY_MISMATCH)]

    def _algorithm(self, genuine: Genuine) -> list[Outgoing]:
        octets = genuine.meter.seal_with(AES_CCM_16_64_256, _other(genuine))
        return [self._via_home(genuine, octets, FailureKind.ALGORITHM_MISMATCH)]

    def _suspended(self, genuine: Genuine) -> list[Outgoing]:
        ghost = self._ghosts[Misbehaviour.SUSPENDED]
        return [self._via_home(genuine, ghost.seal(_other(genuine)), FailureKind.DEVICE_SUSPENDED)]

    def _retired_key(self, genuine: Genuine) -> list[Outgoing]:
        ghost = self._ghosts[Misbehaviour.RETIRED_KEY]
        return [self._via_home(genuine, ghost.seal(_other(genuine)), FailureKind.KEY_RETIRED)]

    # --- what they share ---------------------------------------------------------------------------

    def _remember(self, octets: bytes) -> None:
        """Record frames for replays; once full, any of the old ones gives way."""
        if len(self._pool) < _POOL:
            self._pool.append(octets)
        else:
            self._pool[self._rng.randrange(_POOL)] = octets

    @staticmethod
    def _via_home(genuine: Genuine, octets: bytes, verdict: str, behind: Outgoing | None = None) -> Outgoing:
        return Outgoing(genuine.frame.concentrator, octets, str(verdict), behind=behind)

    def _long_ago(self, genuine: Genuine) -> bytes:
        """The payload of an interval from before the readings that are kept."""
        days = self._plan.retention_days + 62
        return interval_payload(genuine.start_s - days * _DAY_S, genuine.register_wh, genuine.energy_wh)

    @staticmethod
    def _hold(genuine: Genuine, delay_s: int) -> None:
        end_s = genuine.start_s + genuine.interval_minutes * 60
        genuine.frame.not_before_s = (genuine.frame.not_before_s or end_s) + delay_s


def _other(genuine: Genuine) -> bytes:
    """The same interval with other values."""
    return interval_payload(genuine.start_s, genuine.register_wh + 5, genuine.energy_wh + 1)


def _pack(
    genuine: Genuine, value: object, start_s: int | None = None, name: str = ENERGY_REGISTER, unit: str = "Wh"
) -> bytes:
    return cbor2.dumps([{BVER: 26, BT: genuine.start_s if start_s is None else start_s, N: name, U: unit, V: value}])


_BAD_PAYLOADS: list[Callable[[Genuine], bytes]] = [
    lambda genuine: b"\x9f\x01",  # an array that never ends
    lambda genuine: _pack(genuine, 1) + b"\x00",  # octets after the pack
    lambda genuine: _pack(genuine, float("nan")),
    lambda genuine: _pack(genuine, 2**63),
    lambda genuine: _pack(genuine, "42"),
    lambda genuine: _pack(genuine, 1, start_s=-60),  # relative to now
    lambda genuine: _pack(genuine, 1, start_s=genuine.start_s + 7, name=LOAD_PROFILE),  # off the grid
    lambda genuine: cbor2.dumps({"wh": genuine.energy_wh}),
]
_OTHER_THAN_REGISTERED: list[Callable[[Genuine], bytes]] = [
    lambda genuine: _pack(genuine, 0.5),  # finer than a step
    lambda genuine: _pack(genuine, 1, unit="varh"),
]
