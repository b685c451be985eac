"""What was posted and verified over the last while, in three queries."""

from dataclasses import dataclass
from datetime import datetime

from django.db import connection
from django.db.models import Q, Sum

from concentrators.ingest import backlog
from concentrators.models import Uplink


@dataclass(frozen=True)
class Activity:
    """Frames by verdict and failures by kind of the uplinks received in the period; the queue as it stands."""

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
    """The activity from `since` on."""
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
