"""The life of uplink rows between reception and purge: backlog, what is overdue, and whose octets may go."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from django.conf import settings
from django.db import connection
from django.db.models import Count, F, Min

from ami_headend.core import clock
from concentrators.models import Uplink

_CLAIM = 5_000
_PUT_OFF_MAX = timedelta(minutes=10)
_TAKEN_UP_WITHIN = timedelta(seconds=2)
RETRY_S = 20  # after a failed attempt, doubled each time
RETRY_DOUBLINGS = 8
_PURGE_BATCH = 1_000
BEGUN_MAX = 32_000


class Backlog(NamedTuple):
    """Uplinks that are not verified yet, and since when the oldest waits."""

    uplinks: int
    oldest_received_at: datetime | None


def backlog() -> Backlog:
    """What waits for verification."""
    row = Uplink.objects.filter(verified_at=None).aggregate(n=Count("pk"), oldest=Min("received_at"))
    return Backlog(row["n"], row["oldest"])


def is_backlog_over(limit: int) -> bool:
    """Whether more than ``limit`` uplinks wait; never counts further than that."""
    return Uplink.objects.filter(verified_at=None).order_by()[limit : limit + 1].values("pk").exists()


def claim_overdue(now: datetime) -> list[int]:
    """Ids of unverified uplinks that are due again: their task was lost, or an attempt failed.

    Each is put off by its age, at least UPLINK_SWEEP_AFTER_S and at most ten minutes, so that a queue
    that is merely long does not fill up with repetitions. What was received in the future, or put off for longer than
    anything is, counts as due: the clock was ahead then.
    """
    after = timedelta(seconds=settings.UPLINK_SWEEP_AFTER_S)
    with connection.cursor() as cursor:
        cursor.execute(
            """UPDATE concentrators_uplink
               SET claims = least(claims + 1, 32767),
                   due_at = %(now)s + greatest(least(%(now)s - received_at, interval '10 minutes'),
                                               make_interval(secs => %(after)s))
               WHERE id IN (SELECT id FROM concentrators_uplink WHERE verified_at IS NULL AND (
                                due_at <= %(now)s OR received_at > %(ahead)s AND due_at > %(usual)s
                                OR due_at - make_interval(secs => %(retry)s * 2 ^ least(attempts, %(doublings)s))
                                   > %(latest)s)
                            ORDER BY due_at LIMIT %(claim)s FOR UPDATE SKIP LOCKED)
               RETURNING id""",
            {
                "now": now,
                "after": settings.UPLINK_SWEEP_AFTER_S,
                "claim": _CLAIM,
                "ahead": now + clock.DIFFERENCE_MAX,
                "usual": clock.latest_due(after, now),
                "latest": clock.latest_due(_PUT_OFF_MAX + after, now),
                "retry": RETRY_S,
                "doublings": RETRY_DOUBLINGS,
            },
        )
        return sorted(row[0] for row in cursor.fetchall())


def left_behind(now: datetime) -> list[int]:
    """The oldest uplink that nobody has tried for some seconds, where there is one: its task, or its worker, is gone.

    Whoever verifies it goes on to all others that wait (concentrators.ingest.dispatch): so one is enough. In a long
    queue it is one that waits for its turn, and the repetition finds it done.
    """
    untried = Uplink.objects.filter(
        verified_at=None, attempts=0, begun=0, claims=0, received_at__lt=now - _TAKEN_UP_WITHIN
    )
    return list(untried.order_by("due_at", "pk").values_list("pk", flat=True)[:1])


def note_begun(uplink_ids: Sequence[int]) -> None:
    """Count that work begins on uplinks that the sweep has claimed: committed before it, so that it outlives it."""
    Uplink.objects.filter(pk__in=uplink_ids, verified_at=None, begun__lt=BEGUN_MAX).update(begun=F("begun") + 1)


def note_not_begun(uplink_ids: Sequence[int]) -> None:
    """Take that back: what stopped the work has nothing to do with the uplinks."""
    Uplink.objects.filter(pk__in=uplink_ids, verified_at=None, begun__gt=0).update(begun=F("begun") - 1)


def purge(now: datetime) -> int:
    """Empty the octets of verified uplinks whose keeping has ended; gives how many. Rows and verdicts stay.

    Kept for UPLINK_KEEP_DAYS, or UPLINK_KEEP_WAITING_DAYS while frames of the uplink wait for a key, or are parked.
    """
    purged = 0
    while True:
        with connection.cursor() as cursor:
            cursor.execute(
                """UPDATE concentrators_uplink SET body = NULL
                   WHERE id IN (SELECT id FROM concentrators_uplink
                                WHERE body IS NOT NULL AND verified_at IS NOT NULL AND received_at < %s
                                  AND (waiting = 0 OR received_at < %s)
                                ORDER BY received_at LIMIT %s FOR UPDATE SKIP LOCKED)""",
                [
                    now - timedelta(days=settings.UPLINK_KEEP_DAYS),
                    now - timedelta(days=settings.UPLINK_KEEP_WAITING_DAYS),
                    _PURGE_BATCH,
                ],
            )
            purged += int(cursor.rowcount)
            if cursor.rowcount < _PURGE_BATCH:
                return purged
