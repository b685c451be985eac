"""Misbehaviour on purpose, and the verdict that each wrong frame must get. No Django.

Every genuine frame is posted as well: so the stored readings must be those of the load, whatever else happens.
"""

import random
from collections.abc import Callable, Collection, Mapping

import cbor2

from concentrators.failures.kinds import FailureKind
from concentrators.simulator.dlms_misbehaviour import DlmsMischief, is_malformed
from concentrators.simulator.hop_concentrator import SumPlace
from concentrators.simulator.link import Link
from concentrators.simulator.masks import does_mask
from concentrators.simulator.meter import SimulatedMeter
from concentrators.simulator.misbehaviour_kinds import ONCE, Misbehaviour
from concentrators.simulator.packs import UNKNOWN_REGISTER, base_name, interval_payload, one_value
from concentrators.simulator.plan import STRANGERS, Ghost, Plan
from concentrators.simulator.scheme_misbehaviour import SchemeMischief, Wrong
from concentrators.simulator.sent import DUPLICATE, Genuine, other_values
from concentrators.simulator.spool import Outgoing
from keyvault.cose.algorithms import AES_CCM_16_64_128, AES_CCM_16_64_256, HMAC_256_256
from keyvault.schemes.dlms.security import algorithm_of
from meters.readings.obis import LOAD_PROFILE

_DAY_S = 86_400
_POOL = 2_000


class Mischief:
    """Adds wrong frames to genuine ones, or holds genuine ones back, by the plan's rates.

    ``ghosts`` are the meters that exist for a misbehaviour, by its name.
    """

    def __init__(self, plan: Plan, ghosts: Mapping[Ghost, SimulatedMeter], link: Link) -> None:
        self._plan = plan
        self._ghosts = ghosts
        self._rng = random.Random(f"{plan.seed}/misbehaviour")
        self._pool: list[tuple[bytes, int | None]] = []
        self._strangers = [
            SimulatedMeter.unknown_to_all(plan.system_title(STRANGERS + n), self._rng.randbytes(16), *kind)
            for n, kind in enumerate(_KINDS_OF_FRAMES)
        ]
        self._of_schemes = SchemeMischief(plan, self._rng, link)
        self._of_dlms = DlmsMischief(self._rng)
        self._kinds = [Misbehaviour(name) for name in plan.rates if name not in ONCE]
        self._weights = [plan.rates[kind] for kind in self._kinds]
        self._total = self._threshold = sum(self._weights)
        self._actions: dict[Misbehaviour, Callable[[Genuine], Wrong]] = {
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
            **self._of_schemes.actions,
            Misbehaviour.MOVED_COLUMN: lambda _: [],  # of DLMS meters alone
        }

    @property
    def lies(self) -> Collection[tuple[int, SumPlace]]:
        """The sums of this stretch that concentrators lie about."""
        return self._of_schemes.lies

    def begin(self, first_tick: int, eagerness: float) -> None:
        """Begin a stretch: its random numbers depend on the seed and its start; ``eagerness`` multiplies the rates."""
        self._threshold = min(1.0, self._total * eagerness)
        self._of_schemes.lies.clear()
        self._rng.seed(f"{self._plan.seed}/misbehaviour/{first_tick}")

    def beside(self, genuine: Genuine) -> Wrong:
        """Return the wrong frames beside a genuine one, usually none; the genuine one may be held back."""
        if self._rng.random() >= self._threshold:
            return []
        kind = self._rng.choices(self._kinds, self._weights)[0]
        self._remember(genuine)
        action = self._of_dlms.actions.get(kind) if genuine.sender.key.pushes else self._actions.get(kind)
        return (action or self._actions[kind])(genuine)

    # --- one method for each misbehaviour -----------------------------------------------------------------

    def _bit_flip(self, genuine: Genuine) -> Wrong:
        """A bit is damaged on the way; its octet decides the verdict."""
        octets, meter = bytearray(genuine.frame.octets), genuine.sender
        kid_at, kid_end = octets.index(meter.kid), octets.index(meter.kid) + len(meter.kid)
        alg_at = kid_at - 2 - len(cbor2.dumps(meter.key.alg))  # what another alg makes of a frame is another matter
        verdict, positions, bits = self._rng.choice(
            [
                (FailureKind.TAG_INVALID, range(len(octets) - 8, len(octets)), range(8)),
                (FailureKind.UNKNOWN_DEVICE, range(kid_at, kid_at + 1), range(2, 8)),  # of 02, as every title begins
                (FailureKind.UNKNOWN_EPOCH, range(kid_end - 2, kid_end - 1), range(8)),  # the epoch's high octet
                (
                    FailureKind.MALFORMED,
                    (*range(1, alg_at), kid_at - 2, kid_at - 1, kid_end),
                    range(8),
                ),  # heads, labels
            ]
        )
        octets[self._rng.choice(positions)] ^= 1 << self._rng.choice(bits)
        return [self._via_home(genuine, bytes(octets), verdict)]

    def _replay(self, genuine: Genuine) -> Wrong:
        octets, only = self._rng.choice(self._pool)
        over = self._rng.randrange(self._plan.concentrators)
        return [Outgoing(over if only is None else only, octets, DUPLICATE)]

    def _old_replay(self, genuine: Genuine) -> Wrong:
        """A replay of a frame whose readings were deleted: a counter that was seen, and a time before retention.

        A replay of stored readings is recognised only after RETRANSMISSION_WINDOW_S, which is longer than a run.
        """
        octets = genuine.sender.seal(self._long_ago(genuine), genuine.counter)
        return [self._via_home(genuine, octets, FailureKind.REPLAYED, behind=genuine.frame)]

    def _second_concentrator(self, genuine: Genuine) -> Wrong:
        second = (genuine.frame.concentrator + 1) % self._plan.concentrators
        if genuine.meter.key.signs:
            second = genuine.frame.concentrator
        return [Outgoing(second, genuine.frame.octets, DUPLICATE)]

    def _wrong_key(self, genuine: Genuine) -> Wrong:
        impostor = genuine.sender.impostor(self._rng.randbytes(16))
        octets = impostor.seal(other_values(genuine), genuine.counter + 1)
        return [self._via_home(genuine, octets, FailureKind.TAG_INVALID)]

    def _unknown_meter(self, genuine: Genuine) -> Wrong:
        stranger = self._rng.choice(self._strangers)
        return [self._via_home(genuine, stranger.seal(other_values(genuine)), FailureKind.UNKNOWN_DEVICE)]

    def _reused_counter(self, genuine: Genuine) -> Wrong:
        octets = genuine.sender.seal(other_values(genuine), genuine.counter)
        return [self._via_home(genuine, octets, FailureKind.COUNTER_REUSED, behind=genuine.frame)]

    def _conflict(self, genuine: Genuine) -> Wrong:
        octets = genuine.sender.seal(other_values(genuine))
        return [self._via_home(genuine, octets, FailureKind.READING_CONFLICT, behind=genuine.frame)]

    def _clock_ahead(self, genuine: Genuine) -> Wrong:
        payload = interval_payload(genuine.start_s + self._plan.ahead_s, genuine.register_wh, genuine.energy_wh)
        return [self._via_home(genuine, genuine.sender.seal(payload), FailureKind.CLOCK_SKEW)]

    def _before_retention(self, genuine: Genuine) -> Wrong:
        return [self._via_home(genuine, genuine.sender.seal(self._long_ago(genuine)), FailureKind.TOO_OLD)]

    def _garbage(self, genuine: Genuine) -> Wrong:
        junk = self._junk(genuine.frame.octets)
        while not is_malformed(junk):
            junk = self._junk(genuine.frame.octets)
        return [self._via_home(genuine, junk, FailureKind.MALFORMED)]

    def _junk(self, octets: bytes) -> bytes:
        cut = self._rng.randrange(1, len(octets))
        return self._rng.choice([self._rng.randbytes(cut), octets[:cut], octets + b"\x00", octets[cut:]])

    def _reorder(self, genuine: Genuine) -> Wrong:
        self._hold(genuine, self._rng.randint(1, 20) * genuine.interval_minutes * 60)
        return []

    def _late(self, genuine: Genuine) -> Wrong:
        self._hold(genuine, self._rng.randint(1, 8) * _DAY_S)
        return []

    def _bad_payload(self, genuine: Genuine) -> Wrong:
        payload = self._rng.choice(_BAD_PAYLOADS)(genuine)
        return [self._via_home(genuine, genuine.sender.seal(payload), FailureKind.PAYLOAD_INVALID)]

    def _unknown_register(self, genuine: Genuine) -> Wrong:
        payload = one_value(genuine.start_s, 1, name=UNKNOWN_REGISTER)
        return [self._via_home(genuine, genuine.sender.seal(payload), FailureKind.UNKNOWN_REGISTER)]

    def _registry_mismatch(self, genuine: Genuine) -> Wrong:
        payload = self._rng.choice(_OTHER_THAN_REGISTERED)(genuine)
        return [self._via_home(genuine, genuine.sender.seal(payload), _plainly(genuine, FailureKind.REGISTRY_MISMATCH))]

    def _implausible(self, genuine: Genuine) -> Wrong:
        payload = one_value(genuine.start_s, self._rng.choice([-1, -(2**63), 2**63 - 1]))
        return [self._via_home(genuine, genuine.sender.seal(payload), _plainly(genuine, FailureKind.IMPLAUSIBLE))]

    def _identity(self, genuine: Genuine) -> Wrong:
        other = base_name(self._rng.choice(self._strangers).system_title)
        payload = interval_payload(genuine.start_s, genuine.register_wh, genuine.energy_wh, other)
        return [self._via_home(genuine, genuine.sender.seal(payload), FailureKind.IDENTITY_MISMATCH)]

    def _algorithm(self, genuine: Genuine) -> Wrong:
        key = genuine.sender.key
        others = [other for other in _KINDS_OF_FRAMES if other != (key.scheme, key.alg)]
        octets = genuine.sender.seal_as(*self._rng.choice(others), other_values(genuine))
        return [self._via_home(genuine, octets, FailureKind.ALGORITHM_MISMATCH)]

    def _suspended(self, genuine: Genuine) -> Wrong:
        ghost = self._ghost(Misbehaviour.SUSPENDED, genuine)
        return [self._via_home(genuine, ghost.seal(other_values(genuine)), FailureKind.DEVICE_SUSPENDED)]

    def _retired_key(self, genuine: Genuine) -> Wrong:
        ghost = self._ghost(Misbehaviour.RETIRED_KEY, genuine)
        return [self._via_home(genuine, ghost.seal(other_values(genuine)), FailureKind.KEY_RETIRED)]

    # --- what they share ---------------------------------------------------------------------------

    def _ghost(self, kind: Misbehaviour, genuine: Genuine) -> SimulatedMeter:
        """Return the ghost for a misbehaviour, of the genuine meter's scheme if there is one."""
        of_kind = {ghost.scheme: meter for ghost, meter in self._ghosts.items() if ghost.kind == kind}
        return of_kind.get(genuine.sender.key.scheme) or next(iter(of_kind.values()))

    def _remember(self, genuine: Genuine) -> None:
        """Record frames for replays; once full, a random old one is dropped.

        Signed frames are replayed through the same concentrator: through another one they may arrive before their
        coupon list, and then the verdict is provisional.
        """
        one = genuine.frame.octets, genuine.frame.concentrator if genuine.meter.key.signs else None
        if len(self._pool) < _POOL:
            self._pool.append(one)
        else:
            self._pool[self._rng.randrange(_POOL)] = one

    @staticmethod
    def _via_home(genuine: Genuine, octets: bytes, verdict: str, behind: Outgoing | None = None) -> Outgoing:
        return Outgoing(genuine.frame.concentrator, octets, str(verdict), behind=behind)

    def _long_ago(self, genuine: Genuine) -> bytes:
        """Return the payload of an interval from before retention."""
        days = self._plan.retention_days + 62
        return interval_payload(genuine.start_s - days * _DAY_S, genuine.register_wh, genuine.energy_wh)

    @staticmethod
    def _hold(genuine: Genuine, delay_s: int) -> None:
        end_s = genuine.start_s + genuine.interval_minutes * 60
        genuine.frame.not_before_s = (genuine.frame.not_before_s or end_s) + delay_s


def _plainly(genuine: Genuine, kind: FailureKind) -> FailureKind:
    """Return the verdict of a plain value, which is another if the meter masks."""
    return FailureKind.ALGORITHM_MISMATCH if does_mask(genuine.sender.key.scheme) else kind


# Schemes and algorithms that frames show: what is said under a kid that has another, or by strangers.
_KINDS_OF_FRAMES = [
    ("ccm", AES_CCM_16_64_128),
    ("ccm", AES_CCM_16_64_256),
    ("session", AES_CCM_16_64_128),
    ("mac", HMAC_256_256),
    ("dlms", algorithm_of(0x30)),
    ("dlms without tag", algorithm_of(0x20)),
]
_BAD_PAYLOADS: list[Callable[[Genuine], bytes]] = [
    lambda genuine: b"\x9f\x01",  # an array that never ends
    lambda genuine: one_value(genuine.start_s, 1) + b"\x00",  # octets after the pack
    lambda genuine: one_value(genuine.start_s, float("nan")),
    lambda genuine: one_value(genuine.start_s, 2**63),
    lambda genuine: one_value(genuine.start_s, "42"),
    lambda genuine: one_value(-60, 1),  # relative to now
    lambda genuine: one_value(genuine.start_s + 7, 1, name=LOAD_PROFILE),  # off the grid
    lambda genuine: cbor2.dumps({"wh": genuine.energy_wh}),
]
_OTHER_THAN_REGISTERED: list[Callable[[Genuine], bytes]] = [
    lambda genuine: one_value(genuine.start_s, 0.5),  # finer than a step
    lambda genuine: one_value(genuine.start_s, 1, unit="varh"),
]
