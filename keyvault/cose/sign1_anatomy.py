"""The parts of a COSE_Sign1 (RFC 9052 section 4.2) and their names, to explain evidence. Pure.

A place is a path of array indices and map labels from the COSE_Sign1 on, through the CBOR in its byte strings, too.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

Place = tuple[int | str, ...]

TAGS = {18: "COSE_Sign1 (RFC 9052 section 4.2)"}
_EMBEDDED = frozenset[Place]({(0,), (2,)})  # byte strings with CBOR inside
_LATEST_S = 253_402_300_799  # the end of the year 9999


def _as_it_is(place: Place) -> Place:
    return place


@dataclass(frozen=True)
class Sign1Anatomy:
    """The names of the parts of one kind of COSE_Sign1.

    ``root`` is where it stands in what is walked through, ``times`` the places of Unix seconds. ``usual`` gives the
    place under which a place is named, such as that of the first item for every item of an array.
    """

    what: str
    places: Mapping[Place, str]
    root: Place = ()
    times: frozenset[Place] = frozenset()
    tags: Mapping[int, str] = field(default_factory=lambda: TAGS)
    usual: Callable[[Place], Place] = _as_it_is

    def within(self, path: Place) -> Place | None:
        """The place in the COSE_Sign1 that an item stands at; None of one elsewhere."""
        return path[len(self.root) :] if path[: len(self.root)] == self.root else None

    def is_embedded(self, path: Place) -> bool:
        """Whether the byte string there has CBOR inside."""
        return self.within(path) in _EMBEDDED

    def label(self, place: Place, value: int) -> str:
        """What a label of the map at a place says."""
        return self.places.get(self.usual((*place, value)), f"not one that {self.what} has")

    def meaning(self, place: Place, otherwise: str, value: int | None = None) -> str:
        """What the item at a place is; ``otherwise`` is its form, ``value`` its number where it is one."""
        place = self.usual(place)
        name = self.places.get(place)
        if name is None:
            return otherwise
        if value is not None and place in self.times and 0 <= value <= _LATEST_S:
            return f"{name}: {datetime.fromtimestamp(value, UTC):%Y-%m-%d %H:%M:%S} UTC"
        return f"{name}: {otherwise}"
