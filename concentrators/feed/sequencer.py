"""The sequencer: gives lots their positions, in the order of commits and without gaps.

Neither sequences nor clocks follow the order of commits: a transaction that began earlier may commit later, and whoever
reads past its number never sees its rows. So only settled lots get a position: those of transactions older than every
one that still runs. PostgreSQL gives ids to transactions in order, and the oldest running one is in each snapshot.
"""

from datetime import datetime
from typing import NamedTuple

from django.db import transaction
from django.db.models import Count, Min

from ami_headend.core.sql import fetch_rows
from concentrators.models import FeedHead, FeedLot

_LOTS = 5_000
_NUMBER = """
WITH settled AS (
    SELECT id, xid, readings, events FROM concentrators_feedlot
    WHERE position IS NULL AND (%s OR xid < pg_snapshot_xmin(pg_current_snapshot()))
    ORDER BY xid, id LIMIT %s
), numbered AS (
    SELECT id, readings, events, row_number() OVER w AS number,
           sum(readings) OVER w AS readings_so_far, sum(events) OVER w AS events_so_far
    FROM settled WINDOW w AS (ORDER BY xid, id ROWS UNBOUNDED PRECEDING)
), given AS (
    UPDATE concentrators_feedlot l
    SET position = h.position + n.number,
        readings_before = h.readings + n.readings_so_far - n.readings,
        events_before = h.events + n.events_so_far - n.events
    FROM numbered n, concentrators_feedhead h WHERE l.id = n.id
)
UPDATE concentrators_feedhead h
SET position = h.position + n.number, readings = h.readings + n.readings_so_far, events = h.events + n.events_so_far
FROM (SELECT * FROM numbered ORDER BY number DESC LIMIT 1) AS n
RETURNING n.number
"""


def number_settled(*, all_committed: bool = False) -> int:
    """Give the settled lots their positions; return how many. Nothing if another process is at it.

    ``all_committed``: every lot that is there, for a database that was just restored: its transactions' ids are another
    server's, and nothing else writes.
    """
    numbered = 0
    while True:
        with transaction.atomic():
            # Whoever has this row is the one sequencer. The statement after it has a snapshot of its own.
            if FeedHead.objects.select_for_update(skip_locked=True).first() is None:
                return numbered
            rows = fetch_rows(_NUMBER, all_committed, _LOTS)
        given = int(rows[0][0]) if rows else 0
        numbered += given
        if given < _LOTS:
            return numbered


class Unnumbered(NamedTuple):
    """How many lots have no position yet, and when the oldest of them was stored."""

    lots: int
    oldest_at: datetime | None


def unnumbered() -> Unnumbered:
    """Return what waits for positions: usually for seconds, and longer while an older transaction runs."""
    found = FeedLot.objects.filter(position=None).aggregate(lots=Count("pk"), oldest_at=Min("stored_at"))
    return Unnumbered(**found)


def head() -> FeedHead:
    """Return the last position, its era, and how many rows there are up to it."""
    return FeedHead.objects.get()
