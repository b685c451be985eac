"""Records the highest ids from time to time: rows with higher ids were stored later, whatever their own times say."""

from datetime import datetime, timedelta

from ami_headend.alerts.models import StoredMark
from ami_headend.core import clock
from ami_headend.core.sql import execute

_EVERY = timedelta(minutes=1)
_KEPT = timedelta(days=32)
PERIOD_MAX_MINUTES = 30 * 1440  # marks reach back this far


def mark(now: datetime) -> None:
    """Record the highest ids, at most once a minute, and delete old records.

    A row with a lower id may still be uncommitted. It is found all the same, because periods are longer than
    transactions.
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
    ).delete()  # keeps the mark that covers all earlier times


def marked_before(at: datetime) -> StoredMark:
    """Return the last mark before a time, or the very first if none is so old."""
    found = StoredMark.objects.filter(at__lte=at).order_by("-at").first() or StoredMark.objects.order_by("at").first()
    return found or StoredMark(at=at, failure_id=0, event_id=0)
