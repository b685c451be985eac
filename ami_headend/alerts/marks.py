"""Notes the highest ids at given times: rows with higher ids were stored later, whatever their own times say."""

from datetime import datetime, timedelta

from ami_headend.alerts.models import StoredMark
from ami_headend.core import clock
from ami_headend.core.sql import execute

_EVERY = timedelta(minutes=1)
_KEPT = timedelta(days=32)
PERIOD_MAX_MINUTES = 30 * 1440  # marks reach back so far


def mark(now: datetime) -> None:
    """Note how far ids went, once a minute at most, and forget old notes.

    A row with a lower id may still be uncommitted: it is seen all the same, as periods are longer than transactions.
    """
    execute(
        """INSERT INTO alerts_storedmark (at, failure_id, event_id)
           SELECT %s, coalesce((SELECT max(id) FROM concentrators_integrityfailure), 0),
                  coalesce((SELECT max(id) FROM meters_meterevent), 0)
           WHERE NOT EXISTS (SELECT 1 FROM alerts_storedmark WHERE at > %s AND at <= %s)""",
        now,
        now - _EVERY,
        now + clock.DIFFERENCE_MAX,
    )
    StoredMark.objects.filter(
        at__lt=marked_before(now - _KEPT).at
    ).delete()  # the one that stands for all before it stays


def marked_before(at: datetime) -> StoredMark:
    """The last note from before a time, or the first of all where none is so old."""
    found = StoredMark.objects.filter(at__lte=at).order_by("-at").first() or StoredMark.objects.order_by("at").first()
    return found or StoredMark(at=at, failure_id=0, event_id=0)
