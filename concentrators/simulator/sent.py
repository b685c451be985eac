"""What was sent beside what it says: a genuine frame, of which misbehaviours make wrong ones. No Django."""

from typing import NamedTuple, Protocol

from concentrators.simulator.keys import Key
from concentrators.simulator.meter import SimulatedMeter, interval_payload
from concentrators.simulator.spool import Outgoing

ACCEPTED = "accepted"
DUPLICATE = "duplicate"


class Sender(Protocol):
    """Who sealed a frame for the head-end: a meter, or the concentrator that reports for it."""

    @property
    def system_title(self) -> bytes:
        """Whose name its frames bear (8 octets)."""
        ...

    @property
    def kid(self) -> bytes: ...

    @property
    def key(self) -> Key: ...

    def seal(self, payload: bytes, counter: int | None = None) -> bytes: ...

    def seal_as(self, scheme: str, alg: int, payload: bytes) -> bytes: ...

    def impostor(self, noise: bytes) -> "Sender": ...


class OverLink(NamedTuple):
    """What goes over the local link to a concentrator, which drops it for a reason, and says so."""

    concentrator: int
    octets: bytes
    reason: str


class Genuine(NamedTuple):
    """A genuine frame, and what it says: ``heard`` is how ``meter`` sent it, ``sender`` sealed it for the head-end."""

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
    """The payload of the same interval with other values."""
    return interval_payload(genuine.start_s, genuine.register_wh + 5, genuine.energy_wh + 1)
