"""Pages of the feed: which rows follow a cursor, and those rows.

A page is planned by counting alone, so its end is known before its first row is read; rows are read lot by lot, and
memory holds one batch of them.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

import pyarrow as pa

from ami_headend.core.sql import fetch_rows, int_array
from concentrators.feed import cursor as cursors
from concentrators.feed import eras, sequencer
from concentrators.feed.cursor import FIRST, Cursor, Gone, Place, State
from concentrators.feed.packed import unpack
from concentrators.feed.rows import EventRow, Page, ReadingRow, Resource
from concentrators.feed.tables import Chosen, Piece, Tables, as_objects

BATCH = 50_000  # rows of a record batch, or one lot's where it has more
_LOTS = 10_000  # of one page
_COUNTS = {Resource.READINGS: "readings", Resource.EVENTS: "events"}
_PACKS = {Resource.READINGS: "reading_rows", Resource.EVENTS: "event_rows"}


class GoneError(Exception):
    """A cursor cannot be followed: ``gone`` says where to go on, ``span`` which readings of the time [from, to] were
    missed, if any were; ``state`` is that of the feed.
    """

    def __init__(self, gone: Gone, span: tuple[datetime, datetime] | None, state: State) -> None:
        super().__init__(f"rows can be followed from position {gone.resume.position} on")
        self.gone, self.span, self.state = gone, span, state


class Slice(NamedTuple):
    """The rows [start, stop) of a position, which has ``rows``."""

    position: int
    rows: int
    start: int
    stop: int


@dataclass(frozen=True)
class Plan:
    """What a page has: slices of positions, the cursor after them, and whether nothing followed yet."""

    resource: Resource
    slices: Sequence[Slice]
    cursor: Cursor
    at_end: bool

    @property
    def rows(self) -> int:
        return sum(one.stop - one.start for one in self.slices)

    @property
    def first(self) -> Place:
        """The place of the first row; of a page without rows, where it would be."""
        return Place(self.slices[0].position, self.slices[0].start) if self.slices else self.cursor.place

    @property
    def last(self) -> Place:
        """The place of the last row; of a page without rows, where the next would be."""
        return Place(self.slices[-1].position, self.slices[-1].stop - 1) if self.slices else self.cursor.place


def plan(resource: Resource, text: str | None, limit: int, *, one_change: bool = False) -> Plan:
    """Plan the page of at most ``limit`` rows after a cursor; without one, from the first position that is kept.

    With ``one_change`` it ends where rows of another change begin. What has settled since is numbered first, where
    nothing else follows: a consumer need not wait for the schedule. CursorError; GoneError if the cursor is of another
    era, or of rows that are no longer kept.
    """
    planned = _plan(resource, text, limit, one_change=one_change)
    if planned.at_end and sequencer.number_settled():
        return _plan(resource, text, limit, one_change=one_change)
    return planned


def plan_until(resource: Resource, text: str, until: Place) -> Plan:
    """Plan the page from a cursor to the place of the row after its last one. CursorError, GoneError."""
    return _plan(resource, text, sys.maxsize, until=until)


def _plan(
    resource: Resource, text: str | None, limit: int, *, until: Place | None = None, one_change: bool = False
) -> Plan:
    """Plan a page of what is numbered; three queries."""
    state = eras.state()
    if text is None:
        place: Place | Gone = max(FIRST, Place(state.first_kept, 0))
    else:
        place = cursors.follow(cursors.parse(text, resource), state)
    if isinstance(place, Gone):
        raise GoneError(place, span(place.missed), state)
    rows = fetch_rows(
        f"""SELECT position, {_COUNTS[resource]}, change FROM concentrators_feedlot
            WHERE position >= %s AND position <= %s AND {_COUNTS[resource]} > 0 ORDER BY position LIMIT %s""",
        place.position,
        state.last,
        _LOTS,
    )
    slices: list[Slice] = []
    following, left = Place(state.last + 1, 0), limit
    if len(rows) == _LOTS:
        following = Place(rows[-1][0] + 1, 0)
    told = None  # the change of the rows so far
    for position, count, change in rows:
        start = place.row if position == place.position else 0
        if until is not None and (position, start) >= until:
            break
        if one_change and told not in (None, change):
            following = Place(position, start)
            break
        most = count if until is None or position < until.position else min(count, until.row)
        stop = min(most, start + left)
        if start < stop:
            slices.append(Slice(position, count, start, stop))
            left, told = left - (stop - start), change
        if stop < count:
            following = Place(position, stop)
            break
    if until is not None:
        following = until
    return Plan(resource, slices, Cursor(resource, state.era, following), following == (state.last + 1, 0))


def batches(planned: Plan, *, shows_places: bool, only: Chosen | None = None) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a planned page in batches; ``only`` chooses of the ids of meters whose rows are told.

    GoneError if they are no longer kept.
    """
    tables = Tables(planned.resource, shows_places=shows_places, only=only)
    for part in _parts(planned.slices):
        yield tables.batch(_pieces(planned, part))


def count(planned: Plan, only: Chosen | None = None) -> int:
    """Count the rows that ``batches`` yields; to choose of them, they are unpacked. GoneError."""
    if only is None:
        return planned.rows
    tables = Tables(planned.resource, shows_places=False, only=only)
    return sum(tables.count(_pieces(planned, part)) for part in _parts(planned.slices))


def page(
    resource: Resource, text: str | None, limit: int, *, only: Chosen | None = None
) -> Page[ReadingRow | EventRow]:
    """Return a page of rows as objects. CursorError, GoneError."""
    planned = plan(resource, text, limit)
    rows = [row for batch in batches(planned, shows_places=True, only=only) for row in as_objects(resource, batch)]
    return Page(planned.cursor.era, tuple(rows), str(planned.cursor), planned.at_end)


def _parts(slices: Sequence[Slice]) -> Iterator[list[Slice]]:
    """Divide slices into parts of about BATCH rows."""
    part: list[Slice] = []
    rows = 0
    for one in slices:
        part.append(one)
        rows += one.stop - one.start
        if rows >= BATCH:
            yield part
            part, rows = [], 0
    if part:
        yield part


def _pieces(planned: Plan, part: Sequence[Slice]) -> list[Piece]:
    found = fetch_rows(
        f"""SELECT position, change, stored_at, {_PACKS[planned.resource]} FROM concentrators_feedlot
            WHERE position = ANY(%s::bigint[])""",
        int_array(one.position for one in part),
    )
    lots = {position: lot for position, *lot in found if lot[-1] is not None}
    pieces = []
    for one in part:
        if one.position not in lots:
            state = eras.state()
            missed = one.position, state.first_kept
            raise GoneError(Gone(Place(state.first_kept, 0), None, missed), span(missed), state)
        change, stored_at, pack = lots[one.position]
        columns = unpack(bytes(pack), one.rows).part(one.start, one.stop)
        pieces.append(Piece(one.position, one.start, change, stored_at, columns))
    return pieces


def span(missed: tuple[int, int] | None) -> tuple[datetime, datetime] | None:
    """Return the times [from, to] that the rows of positions [from, to) are of; None if that is not known any more."""
    if missed is None:
        return None
    first, last, lots = fetch_rows(
        """SELECT min(captured_from), max(captured_to), count(*) FROM concentrators_feedlot
           WHERE position >= %s AND position < %s""",
        *missed,
    )[0]
    return (first, last) if lots == missed[1] - missed[0] else None
