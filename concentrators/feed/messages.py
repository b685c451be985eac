"""Rows of the feed, or of a period, as messages of IEC 61968-9, in the profile of a subscription."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import pyarrow as pa

from concentrators.feed.formats import end_device_events, meter_readings
from concentrators.feed.formats.event_message import END_DEVICE_EVENTS, METER_READINGS, Header, feed_header, name_id
from concentrators.feed.formats.profile import Profile
from concentrators.feed.packed import Columns
from concentrators.feed.pages import Plan
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


class PeriodMessage(NamedTuple):
    """A message with rows of a period, and the key to continue with; None at the end."""

    octets: bytes
    rows: int
    key: tuple[Any, ...] | None


def of_page(planned: Plan, batches: Iterable[pa.RecordBatch], profile: Profile) -> bytes | None:
    """Return the message with the rows of a page of the feed, which are of one change; None if there are none.

    What is new and what was told before are in different messages.
    """
    rows = [row for batch in batches for row in as_objects(planned.resource, batch)]
    if not rows:
        return None
    return _message(rows, profile, feed_header(planned.cursor.era, _NOUNS[planned.resource], rows))


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
