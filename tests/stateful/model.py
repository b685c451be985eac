"""What ought to be true: a small honest model of the head-end, without database, ciphers or batches.

It judges one frame at a time, by sets of plain counters, as docs/architecture.md says.
"""

from collections import Counter
from collections.abc import Container
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple, Self

INTERVAL = "1-0:1.29.0"
TRANSFER_EPOCH = 0
ACCEPTED, DUPLICATE, REFUSED = "accepted", "duplicate", "refused"  # refused: of an attacker, whatever the reason
WAITING = ("unknown_device", "unknown_epoch", "device_suspended", "unknown_register", "registry_mismatch")
ENERGY, EXTRA = "1-0:1.8.0", "1-0:99.8.0"  # the second one is not in the catalogue at first
EVENTS = ("0-0:96.13.0", "0-0:96.13.1", "0-0:96.13.2")
INTERVAL_S = 1800
CLOCK_SKEW_S = 300
ACCEPTABLE = ("pending", "active", "retiring")

Kid = tuple[bytes, int]
Value = tuple[str, int, int]  # register, Unix second, value


class Sent(NamedTuple):
    """A frame as its meter sealed it, or an attacker made it (then nothing else counts)."""

    octets: bytes
    title: bytes
    epoch: int
    counter: int
    values: tuple[Value, ...]
    honest: bool = True
    context: bytes = b""  # of the session that the counter is of, if one

    @property
    def kid(self) -> Kid:
        return self.title, self.epoch

    def __repr__(self) -> str:
        whose = "meter" if self.honest else "attacker"
        return f"<{whose} {self.title[-2:].hex()} epoch {self.epoch} counter {self.counter}>"


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


@dataclass
class Truth:
    """Keys, meters, uplinks and readings as they ought to stand."""

    runs_kept: int
    sessions_kept: int
    window: timedelta
    grace: timedelta
    keys: dict[Kid, Key] = field(default_factory=dict)
    in_service: dict[bytes, bool] = field(default_factory=dict)
    assigned: dict[bytes, list[Assigned]] = field(default_factory=dict)
    uplinks: dict[int, Posted] = field(default_factory=dict)
    standing: dict[tuple[bytes, str, int], tuple[int, int]] = field(default_factory=dict)  # the value, and its uplink
    registers: set[str] = field(default_factory=lambda: {ENERGY, INTERVAL, *EVENTS})
    lengths: dict[bytes, int] = field(default_factory=dict)  # registered, in minutes, where not as meters measure
    wrong_registers: set[str] = field(default_factory=set)  # in the catalogue with another unit than meters say

    def copy(self) -> Self:
        return deepcopy(self)

    def newest(self, title: bytes) -> tuple[int, Key] | None:
        """The newest epoch of a device, and its key."""
        epochs = [epoch for owner, epoch in self.keys if owner == title and epoch != TRANSFER_EPOCH]
        return (max(epochs), self.keys[title, max(epochs)]) if epochs else None

    def judge_uplink(self, uplink_id: int, now: datetime) -> None:
        """Every frame of an uplink gets its verdict, in their order."""
        uplink = self.uplinks[uplink_id]
        assert uplink.verdicts is None
        uplink.verdicts = [self.judge(sent, uplink_id, now) for sent in uplink.frames]

    def judge_again(self, uplink_id: int, now: datetime, kinds: Container[str] = WAITING) -> None:
        """The honest frames of an uplink that wait for something of ours, and need not wait longer."""
        uplink = self.uplinks[uplink_id]
        for index, verdict in enumerate(uplink.verdicts or []):
            sent = uplink.frames[index]
            waits = verdict in kinds and (verdict != "device_suspended" or self.in_service[sent.title])
            if waits and uplink.verdicts is not None:
                uplink.verdicts[index] = self.judge(sent, uplink_id, now)

    def give_up_sessions(self) -> None:
        """As each batch ends with it: all frames of one find the sessions that stood before it."""
        for key in self.keys.values():
            key.give_up_sessions(self.sessions_kept)

    def judge(self, sent: Sent, uplink_id: int, now: datetime) -> str:
        """The verdict of one frame, and what follows from it."""
        if not sent.honest:
            return REFUSED
        key = self.keys.get(sent.kid)
        if key is None:
            return "unknown_epoch" if any(title == sent.title for title, _ in self.keys) else "unknown_device"
        if key.state not in ACCEPTABLE:
            return "key_retired"
        came_at = self.uplinks[uplink_id].came_at
        gone_by = self._by_counter(sent, key, came_at)
        if gone_by is not None:
            return gone_by
        if not self.in_service[sent.title]:
            return "device_suspended"
        if any(register not in self.registers for register, _, _ in sent.values):
            return "unknown_register"
        if any(self._is_other_than_registered(sent.title, register, time_s) for register, time_s, _ in sent.values):
            return "registry_mismatch"
        if self._is_ahead(sent, came_at):
            return "clock_skew"
        key.take(sent, self.runs_kept)
        for register, time_s, value in sent.values:
            there = self.standing.setdefault((sent.title, register, time_s), (value, uplink_id))
            assert there[0] == value, "an honest meter never says two things"
        if key.state == "pending":
            self._activate(sent.title, key, now)
        return ACCEPTED

    def _by_counter(self, sent: Sent, key: Key, came_at: datetime) -> str | None:
        """The verdict of a frame by its counter, and its session, alone; None where that is free."""
        if int.from_bytes(sent.context[:4], "big") > int(came_at.timestamp()) + CLOCK_SKEW_S:
            return "clock_skew"
        match key.look(sent):
            case "old":
                return "counter_too_old"
            case "closed":
                return "session_closed"
            case "seen":
                return self._again(sent, came_at)
        return None

    def _is_other_than_registered(self, title: bytes, register: str, time_s: int) -> bool:
        return register in self.wrong_registers or (register == INTERVAL and time_s % self._length_s(title) != 0)

    def _length_s(self, title: bytes) -> int:
        """The length of a meter's intervals, as registered."""
        return self.lengths[title] * 60 if title in self.lengths else INTERVAL_S

    def _is_ahead(self, sent: Sent, came_at: datetime) -> bool:
        """Whether something in a frame was not over when it came."""
        length_s = self._length_s(sent.title)
        ends = [time_s + length_s * (register == INTERVAL) for register, time_s, _ in sent.values]
        return max(ends) > int(came_at.timestamp()) + CLOCK_SKEW_S

    def _again(self, sent: Sent, came_at: datetime) -> str:
        brought = {self.standing[sent.title, register, time_s][1] for register, time_s, _ in sent.values}
        first = max(self.uplinks[uplink_id].came_at for uplink_id in brought)
        return DUPLICATE if came_at - first <= self.window else "replayed"

    def _activate(self, title: bytes, new: Key, now: datetime) -> None:
        for (owner, epoch), key in self.keys.items():
            if owner == title and epoch != TRANSFER_EPOCH and key.state == "active":
                key.state, key.retiring_at = "retiring", now
        new.state = "active"

    def is_due(self, key: Key, now: datetime) -> bool:
        """Whether a replaced key's grace time is over."""
        return key.state == "retiring" and key.retiring_at is not None and key.retiring_at <= now - self.grace

    def totals(self) -> dict[tuple[int, str, int], tuple[int, int]]:
        """Sum and number of meters by concentrator, register and interval."""
        sums: dict[tuple[int, str, int], tuple[int, int]] = {}
        for (title, register, time_s), (value, _) in self.standing.items():
            whose = [one.concentrator for one in self.assigned.get(title, []) if one.since_s <= time_s]
            if register == INTERVAL and whose:
                total, meters = sums.get((whose[-1], register, time_s), (0, 0))
                sums[whose[-1], register, time_s] = (total + value, meters + 1)
        return sums

    def times_accepted(self) -> Counter[bytes]:
        """How often each frame, by its octets, was accepted, over all uplinks."""
        return Counter(
            sent.octets
            for uplink in self.uplinks.values()
            for sent, verdict in zip(uplink.frames, uplink.verdicts or [], strict=False)
            if verdict == ACCEPTED
        )
