"""The result of deciding: a verdict for each frame, and what is to be stored. Pure."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from concentrators.failures.kinds import FailureKind
from concentrators.ingest.facts import Delivery, SumPlace, SumSaid
from keyvault.coupons.verifying import Coupons
from meters.values import NewSignature, NewValue


class Failure(NamedTuple):
    """A rejected frame: its index in the uplink, octets, reason, and the key and counter that it claims.

    ``is_copy``: the same octets were rejected for the same reason before, as far as is known here.
    """

    frame_index: int
    octets: bytes
    kind: FailureKind
    detail: str
    kid: bytes | None = None
    counter: int | None = None
    meter_id: int | None = None
    is_copy: bool = False


@dataclass(slots=True)
class Verdicts:
    """The number of frames with each verdict."""

    accepted: int = 0
    duplicate: int = 0
    failures: Counter[FailureKind] = field(default_factory=Counter)
    waiting_frames: dict[FailureKind, list[int]] = field(default_factory=dict)  # may be accepted later

    @property
    def rejected(self) -> int:
        return self.failures.total()

    @property
    def waiting(self) -> int:
        """The rejected frames that may be accepted once their reason has passed."""
        return sum(map(len, self.waiting_frames.values()))

    def add(self, other: "Verdicts") -> None:
        self.accepted += other.accepted
        self.duplicate += other.duplicate
        self.failures += other.failures
        for kind, indexes in other.waiting_frames.items():
            self.waiting_frames.setdefault(kind, []).extend(indexes)


class DecidedUplink(NamedTuple):
    """The verdicts of the frames of an uplink, and the evidence of the rejected ones."""

    delivery: Delivery
    verdicts: Verdicts
    failures: Sequence[Failure]


class Heard(NamedTuple):
    """When a device was heard, and which concentrator brought its frame."""

    at: datetime
    via: int


class MeterAnswer(NamedTuple):
    """The answer of a meter to a command, in an event: the number of the command, and the OBIS code of the event."""

    meter_id: int
    number: int
    obis_code: str


@dataclass(frozen=True, slots=True)
class Decisions:
    """What is to be stored for a batch, besides the counters that its frames took.

    ``heard`` names the devices of accepted frames, by kid. ``sums`` are added to totals: (sum in the register's
    steps, meters) by concentrator, register, minutes and start in Unix seconds. ``activated`` are pending keys
    under which a frame was accepted: the id of the meter by kid, None for a concentrator.
    ``masked`` are values that are stored apart, ``arrived`` how many of them count for a place of totals.
    ``reported`` names the keys of meters that their concentrator reported for, by id; ``said_sums`` are the sums that
    concentrators say. ``signatures`` are those that spent a coupon, whatever became of what they sign; ``coupons`` is
    where coupons were spent or announced, if any were.
    """

    uplinks: Sequence[DecidedUplink]
    heard: Mapping[bytes, Heard]
    readings: Sequence[NewValue]
    events: Sequence[NewValue]
    sums: Mapping[tuple[int, int, int, int], Sequence[int]]
    answers: Sequence[MeterAnswer]
    activated: Mapping[bytes, int | None]
    reported: Mapping[int, Heard] = field(default_factory=dict)
    said_sums: Mapping[SumPlace, SumSaid] = field(default_factory=dict)
    masked: Sequence[NewValue] = ()
    arrived: Mapping[tuple[int, int, int, int], int] = field(default_factory=dict)
    signatures: Sequence[NewSignature] = ()
    coupons: Coupons | None = None
