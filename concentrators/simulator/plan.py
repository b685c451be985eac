"""The plan of a run of the simulator: plan and load determine everything in it. No Django."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple, Protocol, Self

from concentrators.simulator.keys import envelope_of, pushes, signs
from concentrators.simulator.masks import does_mask
from concentrators.simulator.sealers import METER_SCHEMES, pushes_by_place
from meters.readings.obis import FRAUD_LOG, STANDARD_LOG

# System titles of the simulation are locally administered EUI-64: 02, run (4 octets), number (3 octets).
_TITLE_HEAD = b"\x02"
_CONCENTRATORS = 0xFE0000  # numbers from here on belong to concentrators
STRANGERS = 0xFF0000  # numbers from here on belong to meters that nobody registers
_EVENT_EVERY = 500
_POWER_DOWN, _POWER_UP = 1, 2  # codes of the standard log
_OUTAGE_S = 1_800  # the shortest outage of a meter; others are out for twice or three times as long
_GHOST_STEP_S = 10
_TRIED = 3
_AHEAD_S = 730 * 86_400
_ENROLLED = ("ccm", "session", "sealed")  # concentrators hold the others to keys that they have
_SESSIONS_MORE = 2


class Load(Protocol):
    """Where the energy comes from."""

    def energy_wh(self, household: int, first_minute: int, count: int, interval_minutes: int) -> list[int | None]:
        """Return Wh of ``count`` intervals from ``first_minute`` after the start; None if there is no reading."""

    def has_intervals_of(self, interval_minutes: int) -> bool:
        """Whether there is energy in intervals of that length."""


# From a Unix second on a meter measures in another length (minutes), as a command told it; oldest first.
Lengths = Sequence[tuple[int, int]]


class PlannedInterval(NamedTuple):
    """An interval: which one since the start, when it began (Unix seconds), the register then, its energy (Wh)."""

    position: int
    start_s: int
    register_wh: int
    energy_wh: int
    minutes: int

    @property
    def end_s(self) -> int:
        return self.start_s + self.minutes * 60


class PlannedEvent(NamedTuple):
    """An event that a meter reports."""

    captured_at_s: int
    register: str
    code: int


class Ghost(NamedTuple):
    """A meter that exists only for one misbehaviour, and has its name."""

    kind: str
    scheme: str
    number: int


@dataclass(frozen=True)
class Plan:
    """One run. ``end_s`` is None for an endless one; ``moved_at_s`` is when some meters change concentrator.

    The meters of a concentrator get the lengths of ``interval_minutes`` in turn; a tick is the
    shortest of them, and the others are multiples of it. ``source`` says where the energy comes from,
    ``faults`` how often something goes wrong with a command. Every ``derived_every``-th meter (none for 0) has a key
    derived from the run's fleet key, every ``agreed_every``-th agrees on it, every ``enrolled_every``-th, where
    its scheme allows, enrols by certificate first, the others have random ones. ``schemes`` are the meters' in turn.
    At ``outage_at_s`` the power of the last concentrator's meters goes, and comes back meter by meter.
    """

    run: str
    seed: int
    meters: list[str]
    concentrators: int
    interval_minutes: list[int]
    start_s: int
    end_s: int | None
    moved_at_s: int | None = None
    rates: dict[str, float] = field(default_factory=dict)
    gap_runs: int = 1024
    sessions: int = 64
    retention_days: int = 1096
    source: dict[str, Any] = field(default_factory=dict)
    faults: dict[str, float] = field(default_factory=dict)
    derived_every: int = 0
    schemes: list[str] = field(default_factory=lambda: ["ccm"])
    agreed_every: int = 0
    enrolled_every: int = 0
    outage_at_s: int | None = None

    @classmethod
    def from_fact(cls, fact: dict[str, Any]) -> Self:
        return cls(**fact)

    def as_fact(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def tick_minutes(self) -> int:
        return min(self.interval_minutes)

    @property
    def ticks(self) -> int | None:
        return None if self.end_s is None else (self.end_s - self.start_s) // (self.tick_minutes * 60)

    @property
    def ahead_s(self) -> int:
        """How far ahead (seconds) a wrong clock is: at any time of the run, that is years in the future."""
        return _AHEAD_S + (0 if self.end_s is None else self.end_s - self.start_s)

    @property
    def ghosts(self) -> list[Ghost]:
        """The meters that exist for one misbehaviour each: one for every scheme whose frames go to the head-end."""
        kinds = [kind for kind in ("suspended", "retired_key", "old_counter") if self.rates.get(kind)]
        schemes = [scheme for scheme in dict.fromkeys(self.schemes) if scheme != "hop"] or ["ccm"]
        # The one with old counters says registers, which those that mask never do, and has no coupon lists among them.
        counting = [one for one in schemes if not does_mask(one) and not signs(one)]
        pairs = [(kind, one) for kind in kinds for one in (counting if kind == "old_counter" else schemes)]
        if self.rates.get("session_flood") and "session" in schemes:
            pairs.append(("session_flood", "session"))
        return [Ghost(*pair, len(self.meters) + offset) for offset, pair in enumerate(pairs)]

    @property
    def numbers(self) -> list[int]:
        """The numbers of all meters that are registered."""
        return [*range(len(self.meters)), *(ghost.number for ghost in self.ghosts)]

    def scheme_of(self, number: int) -> str:
        """The scheme of a meter's first key: schemes take turns, and each round begins with the next one."""
        if number >= len(self.meters):
            return self.ghosts[number - len(self.meters)].scheme
        turn, place = divmod(number, len(self.schemes))
        return self.schemes[(turn + place) % len(self.schemes)]

    def algorithm_of(self, number: int) -> int:
        """The algorithm of a meter's first key: its scheme's first one, and of HMAC and DLMS both in turn."""
        scheme = self.scheme_of(number)
        algorithms = METER_SCHEMES[scheme].algorithms
        in_turn = envelope_of(scheme) == "mac" or pushes(scheme)
        return algorithms[number // 2 % 2 if in_turn else 0]

    def takes_commands(self, number: int) -> bool:
        """Whether a meter can open commands with AES, and has a transfer key: with ``mac``, every second meter can."""
        if pushes(self.scheme_of(number)):
            return False
        return envelope_of(self.scheme_of(number)) != "mac" or number % 2 == 0 or self.source_of(number) == "agreed"

    @property
    def hold_keys(self) -> bool:
        """Whether concentrators hold keys of their own: they do if they open frames of meters."""
        return "hop" in self.schemes

    @property
    def tried_with_wrong_certificates(self) -> list[int]:
        """The numbers of the meters for which wrong certificates are tried: a few of those that enrol."""
        return self.enrolled[:_TRIED] if self.rates.get("certificates") else []

    @property
    def authority(self) -> str:
        """The name of the authority of the run, which is its kid, too."""
        return f"sim-{self.run}"

    def concentrator_title(self, concentrator: int) -> bytes:
        """The system title (8 octets) of a concentrator that holds keys."""
        return self.system_title(_CONCENTRATORS + concentrator)

    def system_title(self, number: int) -> bytes:
        return _TITLE_HEAD + bytes.fromhex(self.run) + number.to_bytes(3, "big")

    def source_of(self, number: int) -> str:
        """The source of a meter's keys; those of ghosts are stored."""
        for source, every, first in (
            ("derived", self.derived_every, 0),
            ("agreed", self.agreed_every, 1),
            ("enrolled", self.enrolled_every, 2),
        ):
            if every and number < len(self.meters) and number % every == first:
                scheme = self.scheme_of(number)
                can = scheme in _ENROLLED if source == "enrolled" else not pushes(scheme)
                return source if can else "stored"
        return "stored"

    @property
    def needs_agreement_key(self) -> bool:
        """Whether the run needs the agreement key: meters agree on keys with the head-end, or seal frames to it."""
        return bool(self.agreed_every or self.enrolled_every) or any(
            envelope_of(scheme) == "sealed" for scheme in self.schemes
        )

    @property
    def signing(self) -> list[int]:
        """The numbers of the meters that sign their readings."""
        return [number for number in self.numbers if signs(self.scheme_of(number))]

    @property
    def enrolled(self) -> list[int]:
        """The numbers of the meters that enrol by certificate."""
        return [number for number in range(len(self.meters)) if self.source_of(number) == "enrolled"]

    @property
    def masked(self) -> list[int]:
        """The numbers of the registered meters that mask their values, including ghosts."""
        return [number for number in self.numbers if does_mask(self.scheme_of(number))]

    @property
    def pushing(self) -> list[int]:
        """The numbers of the DLMS meters, including ghosts."""
        return [number for number in self.numbers if pushes(self.scheme_of(number))]

    def waits_for_profile(self, number: int) -> bool:
        """Whether a meter sends its readings in a form that no push profile is registered for at first."""
        return number < len(self.meters) and pushes_by_place(self.scheme_of(number))

    @property
    def key_sets_change_at_s(self) -> int | None:
        """When DLMS meters begin to send under their next key set: half-way; None in endless runs."""
        return None if self.ticks is None else self.start_s + self.ticks // 2 * self.tick_minutes * 60

    def changes_key_set(self, number: int) -> bool:
        """Whether a meter has a second key set, which was imported as the next one."""
        return self.ticks is not None and number < len(self.meters) and pushes(self.scheme_of(number))

    @property
    def mask_group(self) -> str:
        """The name of the run's mask authorities together."""
        return f"sim-{self.run}"

    def interval_of(self, number: int) -> int:
        """The interval length (minutes) that the meter begins with."""
        return self.interval_minutes[number // self.concentrators % len(self.interval_minutes)]

    def home_of(self, number: int) -> int:
        """The concentrator (from 0) that hears the meter."""
        return number % self.concentrators

    def moves(self, number: int) -> bool:
        """Whether the registry assigns the meter to the next concentrator from ``moved_at_s`` on."""
        if self.moved_at_s is None or number % 5 != 4:
            return False
        return not (self.hold_keys and self.scheme_of(number) in ("hop", "mac"))  # which are moved by command 7

    def assigned_to(self, number: int, at_s: int) -> int:
        """The concentrator (from 0) that the registry assigns the meter to at a time."""
        home = self.home_of(number)
        moved = self.moves(number) and self.moved_at_s is not None and at_s >= self.moved_at_s
        return (home + 1) % self.concentrators if moved else home

    def out_of(self, number: int) -> tuple[int, int] | None:
        """When the power of a meter goes, and when it is back (Unix seconds); None if it stays."""
        if self.outage_at_s is None or self.home_of(number) != self.concentrators - 1:
            return None
        return self.outage_at_s, self.outage_at_s + _OUTAGE_S * (1 + number // self.concentrators % 3)

    def is_out(self, number: int, start_s: int, end_s: int | None = None) -> bool:
        """Whether a meter is without power in some part of [start, end), or at an instant."""
        out = self.out_of(number)
        return out is not None and out[0] < (start_s + 1 if end_s is None else end_s) and start_s < out[1]

    def first_register_wh(self, number: int) -> int:
        return 1_000_000 + number * 977

    def event_in(self, number: int, interval: PlannedInterval) -> PlannedEvent | None:
        """The event that the meter reports for an interval, if any: there are few, evenly spread, but for outages."""
        if (out := self.out_of(number)) is not None:
            length_s = interval.end_s - interval.start_s
            if interval.end_s <= out[0] < interval.end_s + length_s:
                return PlannedEvent(out[0], STANDARD_LOG, _POWER_DOWN)
            if interval.start_s - length_s < out[1] <= interval.start_s:
                return PlannedEvent(out[1], STANDARD_LOG, _POWER_UP)
        mixed = (number * 0x9E3779B1 ^ interval.position * 0x85EBCA6B ^ self.seed * 0xC2B2AE35) & 0xFFFFFFFF
        mixed = (mixed ^ mixed >> 15) * 0x2C1B3C6D & 0xFFFFFFFF
        draw, choice = (mixed >> 8) % _EVENT_EVERY, mixed & 0xFF
        if draw:
            return None
        return PlannedEvent(interval.start_s + choice % 60, (STANDARD_LOG, FRAUD_LOG)[choice % 2], 1 + choice // 2)

    def intervals(
        self,
        load: Load,
        number: int,
        end_tick: int,
        lengths: Lengths = (),
        first_tick: int = 0,
        register_wh: int | None = None,
    ) -> Iterator[PlannedInterval]:
        """Return the intervals of a meter that end after ``first_tick`` and by ``end_tick``.

        From the start on it is the truth to compare with; from elsewhere ``register_wh`` is how the register stood.
        """
        register_wh = self.first_register_wh(number) if register_wh is None else register_wh
        for begun, ended, minutes in self._stretches(number, lengths, end_tick):
            stride = minutes // self.tick_minutes
            first = max(0, (first_tick - begun) // stride)
            count = (ended - begun) // stride - first
            first_minute = begun * self.tick_minutes + first * minutes
            if count <= 0:
                continue
            for passed, energy_wh in enumerate(load.energy_wh(number, first_minute, count, minutes)):
                minute = first_minute + passed * minutes
                begun_s = self.start_s + minute * 60
                if energy_wh is not None and not self.is_out(number, begun_s, begun_s + minutes * 60):
                    yield PlannedInterval(minute // minutes, begun_s, register_wh, energy_wh, minutes)
                    register_wh += energy_wh

    def measured_until(self, number: int, tick: int, lengths: Lengths = ()) -> int:
        """Return when the last interval ended (Unix seconds) that a meter has measured by a tick."""
        begun, ended, minutes = list(self._stretches(number, lengths, tick))[-1]
        stride = minutes // self.tick_minutes
        return self.start_s + (begun + (ended - begun) // stride * stride) * self.tick_minutes * 60

    def _stretches(self, number: int, lengths: Lengths, end_tick: int) -> Iterator[tuple[int, int, int]]:
        """Yield the interval lengths of a meter, each from one tick to another, up to ``end_tick``."""
        begun, minutes = 0, self.interval_of(number)
        for from_s, following in lengths:
            ended = (from_s - self.start_s) // (self.tick_minutes * 60)
            if ended >= end_tick:
                break
            yield begun, ended, minutes
            begun, minutes = ended, following
        yield begun, end_tick, minutes

    def flood_readings(self) -> list[tuple[int, int]]:
        """(time, register) of the ghost that opens more sessions than the head-end stores, one reading in each."""
        return [(self.start_s + step * _GHOST_STEP_S, step) for step in range(self.sessions + _SESSIONS_MORE)]

    def old_counter_readings(self) -> list[tuple[int, int]]:
        """(time, register) of the ghost that lost its counters; they fill the head-end's memory of gaps."""
        return [(self.start_s + step * _GHOST_STEP_S, step) for step in range(self.gap_runs + 3)]
