"""What the model of the head-end is made of: frames as they were sealed, keys, counters, uplinks, assignments."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

INTERVAL = "1-0:1.29.0"
TRANSFER_EPOCH = 0
ACCEPTED, DUPLICATE, REFUSED = "accepted", "duplicate", "refused"  # refused: of an attacker, whatever the reason
WAITING = ("unknown_device", "unknown_epoch", "device_suspended", "unknown_register", "registry_mismatch")
ENERGY, EXTRA = "1-0:1.8.0", "1-0:99.8.0"  # the second one is not in the catalogue at first
EVENTS = ("0-0:96.11.0", "0-0:96.13.0", "0-0:96.13.1", "0-0:96.13.2")
INTERVAL_S = 1800
CLOCK_SKEW_S = 300
ACCEPTABLE = ("pending", "active", "retiring")

Kid = tuple[bytes, int]
Value = tuple[str, int, int]  # register, Unix second, value
Place = tuple[bytes, str, int]  # whose value: system title, register, Unix second


class Sum(NamedTuple):
    """What a concentrator says that a register of its meters adds up to, from a Unix second on."""

    register: str
    start_s: int
    value: int
    meters: int


class Certificate(NamedTuple):
    """What an authority said of a meter's key pair; ``version`` is the head-end's key that the meter agrees with."""

    cti: bytes
    issued_s: int
    expires_s: int
    public: bytes
    version: int


class Sent(NamedTuple):
    """A frame as its device sealed it, or an attacker made it (then nothing else counts).

    ``context`` is of the session that the counter is of, if one; ``about`` the meter that a concentrator reports for;
    ``key_name`` the fingerprint of the key, where the head-end may have another one of that kid.
    """

    octets: bytes
    title: bytes
    epoch: int
    counter: int
    values: tuple[Value, ...]
    honest: bool = True
    context: bytes = b""
    about: bytes = b""
    sums: tuple[Sum, ...] = ()
    certificate: Certificate | None = None
    key_name: bytes = b""

    @property
    def kid(self) -> Kid:
        return self.title, self.epoch

    @property
    def meter(self) -> bytes:
        """Whose readings they are."""
        return self.about or self.title

    def __repr__(self) -> str:
        whose = "device" if self.honest else "attacker"
        about = f" about {self.about[-2:].hex()}" if self.about else " with certificate" if self.certificate else ""
        return f"<{whose} {self.title[-2:].hex()} epoch {self.epoch} counter {self.counter}{about}>"


@dataclass
class Counters:
    """Which counters were taken under a key, or in one session of it."""

    taken: set[int] = field(default_factory=set)
    floor: int = 0

    def look(self, counter: int) -> str:
        if counter < self.floor:
            return "old"
        return "seen" if counter in self.taken else "free"

    def take(self, counter: int, runs_kept: int) -> None:
        """Take a counter; where more runs of skipped ones are left than are kept, the oldest are given up."""
        self.taken.add(counter)
        given_up = self.gaps()[:-runs_kept]
        if given_up:
            self.floor = given_up[-1][1] + 1

    def gaps(self) -> list[tuple[int, int]]:
        """The runs of counters above the floor that may come yet, each by its first and its last."""
        runs, expected = [], self.floor
        for one in sorted(c for c in self.taken if c >= self.floor):
            if one > expected:
                runs.append((expected, one - 1))
            expected = one + 1
        return runs


@dataclass
class Key:
    """One epoch of a device: its state, and the counters taken under it and in its sessions."""

    state: str
    name: bytes = b""  # its fingerprint
    scheme: str = "ccm"
    own: Counters = field(default_factory=Counters)
    sessions: dict[bytes, Counters] = field(default_factory=dict)
    session_floor: bytes = b""
    retiring_at: datetime | None = None
    given_away: bool = False  # octets that bring it have left the head-end

    def look(self, sent: Sent) -> str:
        """What became of the counter of a frame: "free", "seen", "old", or "closed" with its session."""
        if not sent.context:
            return self.own.look(sent.counter)
        if sent.context in self.sessions:
            return self.sessions[sent.context].look(sent.counter)
        return "closed" if sent.context <= self.session_floor else "free"

    def take(self, sent: Sent, runs_kept: int) -> None:
        counters = self.sessions.setdefault(sent.context, Counters()) if sent.context else self.own
        counters.take(sent.counter, runs_kept)

    def is_open_to(self, sent: Sent, state: str) -> bool:
        """Whether the key is in a state, and the counter of a frame not yet taken."""
        return self.state == state and self.look(sent) == "free"

    def give_up_sessions(self, kept: int) -> None:
        """Keep the highest sessions; what is not above the floor never comes again."""
        for context in sorted(self.sessions)[:-kept]:
            self.session_floor = max(self.session_floor, context)
            del self.sessions[context]


@dataclass
class Posted:
    """An uplink: what was posted, and the verdicts, once there are any."""

    received_at: datetime
    frames: list[Sent]
    verdicts: list[str] | None = None
    corrected_at: datetime | None = None  # where the head-end's clock was behind

    @property
    def came_at(self) -> datetime:
        return self.corrected_at or self.received_at


@dataclass
class Assigned:
    """To which concentrator a meter's intervals count, from a Unix second on."""

    since_s: int
    concentrator: int
