"""Lots: what one transaction stored or corrected, kept beside the rows themselves until every consumer has had time.

Whoever stores readings or events adds a lot in the same transaction, so the two are committed together or not at all.
Its number in the order of commits, the position, comes afterwards (``sequencer``).
"""

import itertools
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from django.db import transaction

from ami_headend.core.sql import chunks, execute, fetch_rows
from concentrators.feed.packed import pack
from concentrators.feed.rows import Change
from concentrators.models import FeedHead, FeedLot
from meters.readings import copy_format
from meters.readings.queries import Stored
from meters.values import Value

_BATCH = 1_000  # lots
_ROWS = 50_000  # of one lot of corrections


class Relabelled(NamedTuple):
    """A reading as it stands after its interval length was corrected, and its length before."""

    captured_at: datetime
    meter_id: int
    register_id: int
    value: int
    uplink_id: int
    interval_minutes: int
    scheme: int | None
    former_minutes: int


# What an UPDATE of meters_reading r returns for it, joined to the same rows before it as o.
RETURNING_RELABELLED = """RETURNING r.captured_at, r.meter_id, r.register_id, r.value, r.uplink_id, r.interval_minutes,
          r.scheme, o.interval_minutes"""
SAME_ROW = "o.captured_at = r.captured_at AND o.meter_id = r.meter_id AND o.register_id = r.register_id"


def add_relabelled(rows: Iterable[tuple[Any, ...]]) -> None:
    """Add lots of readings whose interval length was corrected, from the rows that RETURNING_RELABELLED gives."""
    told = sorted(map(Relabelled._make, rows))
    for part in chunks(told, _ROWS):
        add(Change.RELABELLED, _copied(part), former_minutes=[row.former_minutes for row in part])


def add_again(change: Change, rows: Sequence[Stored]) -> None:
    """Add lots of readings that are told again, because something else is known of them now."""
    for part in chunks(rows, _ROWS):
        add(change, _copied(part))


def _copied(rows: Iterable[Relabelled | Stored]) -> list[bytes]:
    return copy_format.rows_of(
        [
            (
                row.meter_id,
                Value(int(row.captured_at.timestamp()), row.register_id, row.value, row.interval_minutes, False),
                row.uplink_id,
                row.scheme,
            )
            for row in rows
        ]
    )


def add(
    change: Change, readings: Sequence[bytes], events: Sequence[bytes] = (), former_minutes: Sequence[int] = ()
) -> None:
    """Add a lot of rows in the octets of COPY, in order; one statement, none if there is nothing to tell.

    ``former_minutes`` has the interval length that each reading had before, where they are relabelled.
    """
    if not readings and not events:
        return
    first = min(copy_format.captured_s(rows[0]) for rows in (readings, events) if rows)
    last = max(copy_format.captured_s(rows[-1]) for rows in (readings, events) if rows)
    execute(
        """INSERT INTO concentrators_feedlot
                  (change, readings, events, captured_from, captured_to, reading_rows, event_rows)
           VALUES (%s, %s, %s, %s, %s, %s, %s)""",
        change.value,
        len(readings),
        len(events),
        datetime.fromtimestamp(first, UTC),
        datetime.fromtimestamp(last, UTC),
        pack(readings, former_minutes) if readings else None,
        pack(events) if events else None,
    )


def empty(before: datetime) -> int:
    """Let go of the rows of the first positions, as far as they were all stored before a time; return how many.

    From then on cursors of those positions are gone (``cursor.follow``); what is left of a lot says what they missed.
    """
    emptied = 0
    while True:
        with transaction.atomic():
            head = FeedHead.objects.select_for_update().get()
            old = _stored_before(before, "position >= %s", head.first_kept)
            if old:
                FeedLot.objects.filter(position__in=old).update(reading_rows=None, event_rows=None)
                head.first_kept = old[-1] + 1
                head.save(update_fields=["first_kept"])
        emptied += len(old)
        if len(old) < _BATCH:
            return emptied


def delete_old(before: datetime) -> int:
    """Delete emptied lots that were stored before a time, the first positions first; return how many."""
    deleted = 0
    while True:
        with transaction.atomic():
            old = _stored_before(before, "position < %s", FeedHead.objects.get().first_kept)
            FeedLot.objects.filter(position__in=old).delete()
        deleted += len(old)
        if len(old) < _BATCH:
            return deleted


def _stored_before(before: datetime, condition: str, position: int) -> list[int]:
    """Return the first positions of those under a condition, up to the first that was stored later."""
    rows = fetch_rows(
        f"SELECT position, stored_at FROM concentrators_feedlot WHERE {condition} ORDER BY position LIMIT %s",
        position,
        _BATCH,
    )
    return [found for found, _ in itertools.takewhile(lambda row: row[1] < before, rows)]
