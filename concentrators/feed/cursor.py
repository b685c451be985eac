"""Cursors: how far a consumer has come in the feed, and what becomes of one. Pure.

A cursor is opaque to consumers. It names the resource, the era, and the place of the next row: its position, and its
number in that. A checksum finds cursors that were cut or retyped; it is no secret.
"""

import base64
import binascii
import json
import zlib
from collections.abc import Mapping
from typing import NamedTuple

from concentrators.feed.rows import Resource

_VERSION = 1
_LONGEST = 200


class CursorError(ValueError):
    """Not a cursor of this resource: the caller's mistake, named in the message."""


class Place(NamedTuple):
    """The place of the next row: its position, and its number in that."""

    position: int
    row: int


FIRST = Place(1, 0)


class Cursor(NamedTuple):
    """A place in an era of a resource."""

    resource: Resource
    era: str
    place: Place

    def __str__(self) -> str:
        content = json.dumps([_VERSION, self.resource, self.era, *self.place], separators=(",", ":")).encode()
        checked = content + zlib.crc32(content).to_bytes(4, "big")
        return base64.urlsafe_b64encode(checked).decode().rstrip("=")


def parse(text: str, resource: Resource | None = None) -> Cursor:
    """Return the cursor that a text is, of a resource if one is given; CursorError."""
    wrong = CursorError("not a cursor of this head-end: give the one that came with the last page, unchanged")
    if len(text) > _LONGEST:
        raise wrong
    try:
        checked = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        content, checksum = checked[:-4], checked[-4:]
        if zlib.crc32(content).to_bytes(4, "big") != checksum:
            raise wrong
        version, of, era, position, row = json.loads(content)
    except (binascii.Error, UnicodeError, ValueError, TypeError):
        raise wrong from None
    if version != _VERSION or any(type(number) is not int for number in (position, row)):
        raise wrong
    if not isinstance(era, str) or not 1 <= position < 2**62 or not 0 <= row < 2**31:
        raise wrong
    if of not in list(Resource):
        raise wrong
    if resource is not None and of != resource:
        raise CursorError(f"a cursor of the feed of {of}, not of {resource}: each resource has its own")
    found = Cursor(Resource(of), era, Place(position, row))
    if str(found) != text:  # base64 has several texts for the same octets
        raise wrong
    return found


class Era(NamedTuple):
    """An era's parent, if it has one, the last position that it shares with it, and the Unix second it began at."""

    parent: str | None
    position: int
    began_s: int = 0


class State(NamedTuple):
    """What is known when a cursor is judged: all eras, the present one, its last position, and the first one kept."""

    eras: Mapping[str, Era]
    era: str
    last: int
    first_kept: int


class Gone(NamedTuple):
    """A cursor that cannot be followed, and where to go on.

    ``discard_after``: rows that were taken at later positions are of an era that is over, and not, or elsewhere, in
    this one; None if nothing is to be discarded. ``missed`` are the positions [from, to) whose rows are no longer kept
    and were not read; None if there are none.
    """

    resume: Place
    discard_after: int | None
    missed: tuple[int, int] | None


def follow(cursor: Cursor, state: State) -> Place | Gone:
    """Return the place to read from, or why that is not possible: another era, or rows that are no longer kept.

    CursorError if the cursor is ahead of everything: it was made up.
    """
    place, discard_after = cursor.place, None
    if cursor.era != state.era:
        shared = last_shared(cursor.era, state)
        if place > (shared + 1, 0):
            place, discard_after = Place(shared + 1, 0), shared
    elif place > (state.last + 1, 0):
        raise CursorError(f"position {place.position} is not given yet: the last one is {state.last}")
    missed = None
    if place < (state.first_kept, 0):
        missed = place.position, state.first_kept
        place = Place(state.first_kept, 0)
    if cursor.era == state.era and missed is None:
        return place
    return Gone(place, discard_after, missed)


def for_deliveries(cursor: Cursor, state: State) -> Gone:
    """Return what a consumer is told that is delivered to, and whose ``cursor`` is of another era.

    After a restore that cursor is the one of the backup. The consumer may have been given more since, also of eras that
    began after the backup. So it is told all anew from the first position that any of them may not share with this one.
    """
    began_s = state.eras[cursor.era].began_s if cursor.era in state.eras else 0
    since = {cursor.era, *(name for name, era in state.eras.items() if era.began_s >= began_s)} - {state.era}
    shared = min(cursor.place.position - 1, *(last_shared(name, state) for name in since))
    if shared + 1 >= state.first_kept:
        return Gone(Place(shared + 1, 0), shared, None)
    return Gone(Place(state.first_kept, 0), shared, (shared + 1, state.first_kept))


def last_shared(era: str, state: State) -> int:
    """Return the last position that an era has in common with the present one; 0 if the era is unknown."""
    if era not in state.eras:
        return 0
    reached = _ancestors(era, state)
    mine = _ancestors(state.era, state)
    common = [min(position, mine[name]) for name, position in reached.items() if name in mine]
    return int(min(max(common, default=0), state.last))


def _ancestors(era: str, state: State) -> dict[str, int]:
    """Return the era and those before it, each with the last of its positions that the era has, too."""
    found: dict[str, int] = {}
    shared = 2**62
    name: str | None = era
    while name is not None and name in state.eras and name not in found:
        found[name] = shared
        parent, position, _ = state.eras[name]
        shared = min(shared, position)
        name = parent
    return found
