"""Numbers of posted and verified frames over a recent period, in three queries."""

from dataclasses import dataclass
from datetime import datetime

from django.db import connection
from django.db.models import Q, Sum

from ami_headend.core.sql import fetch_rows
from concentrators.ingest import backlog
from concentrators.models import Uplink


@dataclass(frozen=True)
class Activity:
    """Frames by verdict and failures by kind of the uplinks received in a period, and the present queue."""

    posted: int
    accepted: int
    duplicate: int
    rejected: int
    failures: dict[str, int]
    queue: int

    @property
    def verified(self) -> int:
        return self.accepted + self.duplicate + self.rejected


def activity(since: datetime) -> Activity:
    """Return the activity since a time."""
    received = Uplink.objects.filter(received_at__gte=since)
    sums = received.aggregate(
        posted=Sum("frames", default=0),
        **{
            verdict: Sum(verdict, filter=Q(verified_at__isnull=False), default=0)
            for verdict in ("accepted", "duplicate", "rejected")
        },
    )
    with connection.cursor() as cursor:
        cursor.execute(_FAILURES, [since])
        failures = dict(cursor.fetchall())
    return Activity(**sums, failures=failures, queue=backlog.waiting().uplinks)


_FAILURES = """
SELECT kind, sum(number::bigint)::bigint
FROM concentrators_uplink, jsonb_each_text(failures) AS kinds(kind, number)
WHERE received_at >= %s AND verified_at IS NOT NULL
GROUP BY kind ORDER BY kind
"""


def clock_skew(since: datetime) -> tuple[datetime | None, int, int]:
    """Return of the newest thousand uplinks: when the last came, the frames since a time, and those with clock_skew."""
    [(newest, frames, skewed)] = fetch_rows(
        """SELECT max(received_at), coalesce(sum(frames) FILTER (WHERE received_at > %s), 0)::bigint,
                  coalesce(sum((failures ->> 'clock_skew')::bigint) FILTER (WHERE received_at > %s), 0)::bigint
           FROM (SELECT received_at, frames, failures FROM concentrators_uplink ORDER BY id DESC LIMIT 1000) AS u""",
        since,
        since,
    )
    return newest, frames, skewed
