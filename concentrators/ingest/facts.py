"""The facts by which frames are decided: the uplinks with their opened frames, meters, registers, times. Pure."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import NamedTuple, Protocol

from concentrators.failures.kinds import FailureKind
from keyvault.coupons.verifying import Coupons
from keyvault.replay_window import Take
from meters.contents.lines import Catalogue, Reader
from meters.readings.expectation import assignment_of
from meters.registry.interval_lengths import Lengths
from meters.values import Spot, Standing

# The octets of a frame with its index in the uplink; in the order of the uplink.
Frames = Sequence[tuple[int, bytes]]


class FrameKey(Protocol):
    """The key that opened a frame: the content of its scheme, the scheme's number, and its counters.

    ``opened_s`` is when the session of the counters began (Unix seconds); 0 without a session. The counters belong to
    this batch, and the decision moves them: every attempt reads them again.
    """

    content: str
    scheme: int | None  # of the usual one

    @property
    def opened_s(self) -> int: ...

    def look(self, counter: int) -> Take: ...

    def take(self, counter: int) -> Take: ...


# A frame whose tag verified: its index, kid, counter, plaintext, and key. A plain tuple, as every frame makes one.
OpenedFrame = tuple[int, bytes, int, bytes, FrameKey]
# A frame that did not open: its index, verdict, reason, and the kid and counter that it claims, if it is a frame.
RefusedFrame = tuple[int, str, str, bytes | None, int | None]
# What names a frame whose counter was taken: kid, counter and octets.
SeenFrame = tuple[bytes, int, bytes]


@dataclass(frozen=True, slots=True)
class Delivery:
    """What the frames of an uplink have in common: its id, concentrator, receipt, and when it is judged (UTC).

    ``corrected_at`` is the corrected time of receipt, if somebody reported that our clock was behind. ``waited`` has
    the previous verdicts of frames that are judged again, by index: if a verdict stays, the evidence stays as it is.
    """

    uplink_id: int
    concentrator_id: int
    received_at: datetime
    judged_at: datetime
    corrected_at: datetime | None = None
    waited: Mapping[int, FailureKind] = field(default_factory=dict)

    @property
    def came_at(self) -> datetime:
        """Return when it was received, after any correction."""
        return self.corrected_at or self.received_at


# What a sum is of: a concentrator and a register by their ids, minutes, and the start in Unix seconds.
SumPlace = tuple[int, int, int, int]


# The interval of sums, without register: a concentrator by its id, minutes, and the start in Unix seconds.
SumInterval = tuple[int, int, int]


class SumSaid(NamedTuple):
    """A sum that a concentrator reports, with key epoch and counter of its frame, and the uplink that brought it."""

    counter: tuple[int, int]
    value: int
    meters: int
    uplink_id: int


class OpenedUplink(NamedTuple):
    """One uplink of a batch: the octets of its frames, the frames that opened, and those that did not.

    ``named`` has the system titles of the meters that reports among them name, by the frame's index.
    """

    delivery: Delivery
    frames: Frames
    opened: Sequence[OpenedFrame]
    refused: Sequence[RefusedFrame]
    named: Mapping[int, bytes] = MappingProxyType({})


Batch = Sequence[OpenedUplink]


class AssignedMeter:
    """A meter as verification needs it: id, whether it is in service, interval length, and its assignments.

    ``lengths`` is None unless it had another interval length before, or may have one already.
    """

    __slots__ = ("_assignments", "id", "in_service", "interval_minutes", "is_retired", "lengths", "serial_number")

    def __init__(
        self,
        meter_id: int,
        interval_minutes: int,
        lengths: Lengths | None = None,
        *,
        in_service: bool = True,
        is_retired: bool = False,
        serial_number: str | None = None,
    ) -> None:
        self.id = meter_id
        self.in_service = in_service
        self.is_retired = is_retired
        self.interval_minutes = interval_minutes
        self.lengths = lengths
        self.serial_number = serial_number
        self._assignments: list[tuple[int, int, int | None]] = []

    def add(self, concentrator_id: int, from_s: int, to_s: int | None) -> None:
        self._assignments.append((concentrator_id, from_s, to_s))

    def is_assigned(self, concentrator_id: int, at_s: int) -> bool:
        """Return whether it belongs to a concentrator at a Unix second."""
        for one, from_s, to_s in self._assignments:  # any() costs every report twice as much
            if one == concentrator_id and from_s <= at_s and (to_s is None or at_s < to_s):
                return True
        return False

    def concentrator_of(self, start_s: int, minutes: int) -> int | None:
        """Return the concentrator that an interval counts for, or None; ``start_s`` is its start in Unix seconds."""
        return assignment_of(self._assignments, start_s, start_s + 60 * minutes)


@dataclass(frozen=True, slots=True)
class Facts:
    """The facts that were gathered for a batch; ``Earlier`` has the values that are stored already.

    ``meters`` has the known meters by system title, ``readers`` the readers of payloads by name of the content. If
    concentrators report: ``concentrators`` has their ids by system title, ``hop_keys`` the id of the newest usable key
    of each meter of scheme hop that they name, by its title, ``without_meters`` the intervals of sums for which no
    meter was assigned to them. ``coupons`` are those that signatures and lists of the
    batch name, None if there are none; the decision moves them, as it moves counters. ``pending_kids`` are the kids of
    keys under which no frame was accepted yet. ``earliest_s`` is the first Unix second of retention.
    ``looks_everywhere``: the counters are locked, or nothing will be stored, and stored values are looked up for every
    value; otherwise only where a counter was seen before, and primary keys reveal other conflicts.
    ``schemes_without_totals`` are numbers of schemes whose intervals are stored, and count as arrived in
    totals, whose sums have none of them.
    """

    meters: Mapping[bytes, AssignedMeter]
    registers: Catalogue
    readers: Mapping[str, Reader]
    pending_kids: Collection[bytes]
    earliest_s: int
    clock_skew_s: int
    retransmission_window: timedelta
    looks_everywhere: bool = False
    concentrators: Mapping[bytes, int] = field(default_factory=dict)
    hop_keys: Mapping[bytes, int] = field(default_factory=dict)
    without_meters: Collection[SumInterval] = ()
    coupons: Coupons | None = None
    schemes_without_totals: Collection[int | None] = ()


@dataclass(frozen=True, slots=True)
class Earlier:
    """Results of earlier uplinks: looked up only if the counter of a frame was seen before, or under locks.

    ``standing`` has the stored values in the places of new ones, and the uplinks that brought them; ``received_at`` the
    times of those uplinks; ``refused`` the verdicts of rejected frames whose counters were taken; ``sums`` stored sums.
    """

    standing: Mapping[Spot, Standing] = field(default_factory=dict)
    received_at: Mapping[int, datetime] = field(default_factory=dict)
    refused: Mapping[SeenFrame, FailureKind] = field(default_factory=dict)
    sums: Mapping[SumPlace, SumSaid] = field(default_factory=dict)


NOTHING_EARLIER = Earlier()
