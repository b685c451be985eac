"""The way from meters to the head-end: direct, or through concentrators that check, open and add up. No Django."""

import sqlite3
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from concentrators.simulator.hop_concentrator import HopConcentrator, Reporter, SumPlace
from concentrators.simulator.link_store import LinkStore
from concentrators.simulator.meter import SimulatedMeter
from concentrators.simulator.sent import ACCEPTED, OverLink, Sender
from concentrators.simulator.spool import Outgoing


class Carried(NamedTuple):
    """A reading that was carried: how the meter sent it, who sealed it for the head-end, and under which counter."""

    octets: bytes
    heard: bytes
    sender: Sender
    counter: int


class LinkError(RuntimeError):
    """A concentrator passed on a frame that it has to drop: a fault of the simulation."""


class Link(Protocol):
    """The local link of all concentrators of a run."""

    def is_ready(self) -> bool:
        """Return whether it can carry anything yet."""
        ...

    def take_keys(self) -> None:
        """Take what the head-end gave the concentrators meanwhile."""
        ...

    def home_of(self, meter: SimulatedMeter) -> int | None:
        """Which concentrator the meter was told to send over; None where that is all the same."""
        ...

    def reading(
        self, meter: SimulatedMeter, concentrator: int, payload: bytes, minutes: int, now_s: float
    ) -> Carried | None:
        """Carry a reading of an interval of some minutes; None if it waits, or is dropped."""
        ...

    def event(self, meter: SimulatedMeter, concentrator: int, payload: bytes, now_s: float) -> bytes | None:
        """Carry an event; return the frame for the head-end, or None if it waits, or is dropped."""
        ...

    def drop(self, over: OverLink, now_s: float) -> None:
        """Carry a frame that is to be dropped."""
        ...

    def sums(self, until_s: float, lies: Iterable[tuple[int, SumPlace]]) -> list[Outgoing]:
        """What concentrators add up of the intervals that ended; of some they lie."""
        ...

    def write(self, db: sqlite3.Connection) -> None:
        """Write what happened since the last time."""
        ...


class DirectLink:
    """Concentrators without keys, which pass on everything."""

    def is_ready(self) -> bool:
        return True

    def take_keys(self) -> None:
        return

    def home_of(self, meter: SimulatedMeter) -> int | None:
        return None

    def reading(
        self, meter: SimulatedMeter, concentrator: int, payload: bytes, minutes: int, now_s: float
    ) -> Carried | None:
        if meter.waits:
            return None
        counter = meter.next_counter()
        octets = meter.seal(payload, counter)
        return Carried(octets, octets, meter, counter)

    def event(self, meter: SimulatedMeter, concentrator: int, payload: bytes, now_s: float) -> bytes | None:
        return meter.seal_event(payload)

    def drop(self, over: OverLink, now_s: float) -> None:
        raise LinkError("a concentrator without keys drops nothing")

    def sums(self, until_s: float, lies: Iterable[tuple[int, SumPlace]]) -> list[Outgoing]:
        return []

    def write(self, db: sqlite3.Connection) -> None:
        return


class KeyedLink:
    """Concentrators that hold keys, started from their stored states."""

    def __init__(self, store: LinkStore, concentrators: Sequence[HopConcentrator]) -> None:
        self.concentrators = concentrators
        self._store = store
        self._numbers = {one.system_title: number for number, one in enumerate(concentrators)}
        self._dropped: Counter[tuple[int, str]] = Counter()
        self._sums: list[tuple[int, SumPlace, int, int]] = []

    def is_ready(self) -> bool:
        """Whether each has keys."""
        self.take_keys()
        return all(one.has_keys for one in self.concentrators)

    def take_keys(self) -> None:
        for number, one in enumerate(self.concentrators):
            if (octets := self._store.next_key(number)) is not None:
                one.take_next_key(octets)
            if keys := self._store.keys(number):
                one.take_keys(keys)

    def home_of(self, meter: SimulatedMeter) -> int | None:
        """That of the meters that concentrators can read; all others are heard wherever they are."""
        return self._numbers.get(meter.concentrator) if meter.key.scheme in ("hop", "mac") else None

    def reading(
        self, meter: SimulatedMeter, concentrator: int, payload: bytes, minutes: int, now_s: float
    ) -> Carried | None:
        if meter.waits:
            return None
        carrier, is_hop = self.concentrators[concentrator], meter.key.scheme == "hop"
        if is_hop and not carrier.knows(meter.kid):
            return None
        counter = meter.next_counter()
        sealed = meter.seal(payload, counter)
        heard = sealed if is_hop else meter.wear_tag(sealed)
        octets = carrier.receive(heard, minutes, now_s)
        if octets is None:
            return None
        if is_hop:
            return Carried(octets, heard, Reporter(carrier, meter.system_title), carrier.counter - 1)
        return Carried(octets, heard, meter, counter)

    def event(self, meter: SimulatedMeter, concentrator: int, payload: bytes, now_s: float) -> bytes | None:
        return self.concentrators[concentrator].receive(meter.wear_tag(meter.seal_event(payload)), 0, now_s)

    def drop(self, over: OverLink, now_s: float) -> None:
        if self.concentrators[over.concentrator].receive(over.octets, 0, now_s) is not None:
            raise LinkError(f"concentrator {over.concentrator} passed on what is {over.reason}")
        self._dropped[over.concentrator, over.reason] += 1

    def sums(self, until_s: float, lies: Iterable[tuple[int, SumPlace]]) -> list[Outgoing]:
        untrue = set(lies)
        frames = []
        for number, one in enumerate(self.concentrators):
            said = [
                (place, value + ((number, place) in untrue), meters) for place, value, meters in one.sums_until(until_s)
            ]
            self._sums += [(number, *of) for of in said]
            frames += [Outgoing(number, octets, ACCEPTED) for octets in one.seal_sums(said)]
        return frames

    def write(self, db: sqlite3.Connection) -> None:
        states = {number: (one.dump(), one.failures()) for number, one in enumerate(self.concentrators)}
        self._store.write(db, states, self._dropped, self._sums)
        self._dropped, self._sums = Counter(), []
