"""Genuine frames with their content, from which misbehaviours make wrong frames. No Django."""

from typing import NamedTuple, Protocol

from concentrators.simulator.keys import Key
from concentrators.simulator.meter import SimulatedMeter
from concentrators.simulator.packs import interval_payload
from concentrators.simulator.spool import Outgoing

ACCEPTED = "accepted"
DUPLICATE = "duplicate"


class Sender(Protocol):
    """Who sealed a frame for the head-end: a meter, or the concentrator that reports for it."""

    @property
    def system_title(self) -> bytes:
        """The system title (8 octets) in its frames."""
        ...

    @property
    def kid(self) -> bytes: ...

    @property
    def key(self) -> Key: ...

    def seal(self, payload: bytes, counter: int | None = None) -> bytes: ...

    def seal_as(self, scheme: str, alg: int, payload: bytes) -> bytes: ...

    def impostor(self, noise: bytes) -> "Sender": ...


class OverLink(NamedTuple):
    """A frame on the local link that the concentrator must drop, with the reason that it must report."""

    concentrator: int
    octets: bytes
    reason: str


class Genuine(NamedTuple):
    """A genuine frame and its content: ``heard`` is how ``meter`` sent it; ``sender`` sealed it for the head-end."""

    meter: SimulatedMeter
    heard: bytes
    sender: Sender
    frame: Outgoing
    counter: int
    start_s: int
    interval_minutes: int
    register_wh: int
    energy_wh: int


def other_values(genuine: Genuine) -> bytes:
    """Return a payload of the same interval with other values."""
    return interval_payload(genuine.start_s, genuine.register_wh + 5, genuine.energy_wh + 1)
