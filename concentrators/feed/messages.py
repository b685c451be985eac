"""Rows of the feed, or of a period, as messages of IEC 61968-9, in the profile of a subscription."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import takewhile
from typing import Any, NamedTuple

import pyarrow as pa

from concentrators.feed import pages
from concentrators.feed.cursor import Cursor, Place
from concentrators.feed.formats import end_device_events, meter_readings
from concentrators.feed.formats.event_message import END_DEVICE_EVENTS, METER_READINGS, Header, name_id
from concentrators.feed.formats.profile import Profile
from concentrators.feed.packed import Columns
from concentrators.feed.place_documents import codes
from concentrators.feed.rows import Change, EventRow, Quality, ReadingRow, Resource
from concentrators.feed.tables import Piece, Tables, as_objects
from concentrators.validation import differences
from meters.readings import event_queries, queries
from meters.readings.event_queries import EventSelection
from meters.readings.queries import ReadingSelection, Stored
from meters.registry import site_codes

_SECOND = timedelta(seconds=1)
_NOUNS = {Resource.READINGS: METER_READINGS, Resource.EVENTS: END_DEVICE_EVENTS}


class FeedMessage(NamedTuple):
    """A message with the rows after a cursor, and the cursor after them; None if nothing follows yet."""

    octets: bytes | None
    rows: int
    cursor: Cursor
    at_end: bool


class PeriodMessage(NamedTuple):
    """A message with rows of a period, and the key to continue with; None at the end."""

    octets: bytes
    rows: int
    key: tuple[Any, ...] | None


def after(resource: Resource, cursor: str | None, profile: Profile, *, shows_places: bool) -> FeedMessage:
    """Return the message after a cursor, or from the first row that is kept. CursorError, GoneError.

    What is new and what was told before are in different messages: one ends where that changes.
    """
    planned = pages.plan(resource, cursor, profile.readings_per_message)
    found = [row for batch in pages.batches(planned, shows_places=shows_places) for row in as_objects(resource, batch)]
    if not found:
        return FeedMessage(None, 0, planned.cursor, planned.at_end)
    part = list(takewhile(lambda row: row.change is found[0].change, found))
    (octets,) = _messages(resource, planned.cursor.era, part, profile)
    if len(part) == len(found):
        return FeedMessage(octets, len(part), planned.cursor, planned.at_end)
    following = found[len(part)]
    place = Place(following.position, following.row)
    return FeedMessage(octets, len(part), Cursor(resource, planned.cursor.era, place), at_end=False)


def of_period(
    selection: ReadingSelection | EventSelection, profile: Profile, now: datetime, *, shows_places: bool
) -> PeriodMessage:
    """Return the message with the first rows of a selection, from its key on. SelectionError if that costs too much.

    It has no position in the feed, and no place of a reading's correction. For the same rows, the same MessageID.
    """
    resource = Resource.READINGS if isinstance(selection, ReadingSelection) else Resource.EVENTS
    stored, key = _stored(selection, profile.readings_per_message)
    batch = Tables(resource, shows_places=shows_places).batch([_piece(stored, now)] if stored else [])
    rows = list(as_objects(resource, batch))
    if resource is Resource.READINGS:
        rows = _flagged(stored, rows)
    name = f"period/{resource}/{replace(selection, after=None)}/{selection.after}"
    header = Header(_NOUNS[resource], name_id(name), now)
    return PeriodMessage(_message(rows, profile, header), len(rows), key)


def _stored(selection: ReadingSelection | EventSelection, limit: int) -> tuple[list[Stored], tuple[Any, ...] | None]:
    if isinstance(selection, ReadingSelection):
        return queries.stored_readings(selection, limit)
    return event_queries.stored_events(selection, limit)


def _flagged(stored: Sequence[Stored], rows: Sequence[Any]) -> list[Any]:
    """Return the rows of stored readings with what validation has found since. One query."""
    spans = defaultdict(list)
    if stored:
        captured = [row.captured_at for row in stored]
        for span in differences.flagged({row.meter_id for row in stored}, min(captured), max(captured) + _SECOND):
            spans[span.meter_id, span.register_id].append(span)
    return [
        replace(row, quality=(*row.quality, Quality.FAILED))
        if any(one.start <= of.captured_at < one.end for one in spans.get((of.meter_id, of.register_id), ()))
        else row
        for of, row in zip(stored, rows, strict=True)
    ]


def _messages(resource: Resource, era: str, rows: Sequence[Any], profile: Profile) -> list[bytes]:
    if resource is Resource.EVENTS:
        return list(end_device_events.feed_messages(era, rows, profile, site_codes.events()))
    return list(meter_readings.feed_messages(era, rows, profile, codes()))


def _message(rows: Sequence[ReadingRow | EventRow], profile: Profile, header: Header) -> bytes:
    if header.noun == END_DEVICE_EVENTS:
        events = [row for row in rows if isinstance(row, EventRow)]
        return end_device_events.message(events, profile, site_codes.events(), header)
    readings = [row for row in rows if isinstance(row, ReadingRow)]
    return meter_readings.message(readings, profile, codes(), header)


def _piece(stored: Sequence[Stored], now: datetime) -> Piece:
    """Return stored rows as a piece of no position."""
    captured, meters, registers, values, uplinks, minutes, schemes = zip(*stored, strict=True)
    columns = Columns(
        pa.array(captured, pa.timestamp("us", tz="UTC")).cast(pa.int64()),
        pa.array(meters, pa.int32()),
        pa.array(registers, pa.int16()),
        pa.array(values, pa.int64()),
        pa.array(uplinks, pa.int64()),
        pa.array(minutes, pa.int16()),
        pa.array(schemes, pa.int16()),
        pa.nulls(len(stored), pa.int16()),
    )
    return Piece(0, 0, Change.NEW.value, now, columns)
