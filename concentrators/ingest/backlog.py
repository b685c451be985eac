"""The backlog: uplinks that wait for verification.

``uplink_state.claim_overdue`` gives them to another worker where one was killed; ``tasks.sweep_uplinks`` calls both.
"""

from datetime import datetime, timedelta
from typing import NamedTuple

from django.db.models import Count, Min

from concentrators.models import Uplink

_TAKEN_UP_WITHIN = timedelta(seconds=2)


class Backlog(NamedTuple):
    """The number of uplinks that are not verified yet, and when the oldest was received."""

    uplinks: int
    oldest_received_at: datetime | None


def waiting() -> Backlog:
    """Return the backlog."""
    row = Uplink.objects.filter(verified_at=None).aggregate(n=Count("pk"), oldest=Min("received_at"))
    return Backlog(row["n"], row["oldest"])


def is_over(limit: int) -> bool:
    """Return whether more than ``limit`` uplinks wait; it counts no further than that."""
    return Uplink.objects.filter(verified_at=None).order_by()[limit : limit + 1].values("pk").exists()


def left_behind(now: datetime) -> list[int]:
    """Return the oldest uplink that nobody has tried for some seconds, because its task or worker is lost; or None.

    One is enough, because its worker continues with all others that wait (``dispatch``). In a long queue it may just
    wait for its turn; then the second task finds it verified.
    """
    untried = Uplink.objects.filter(
        verified_at=None, attempts=0, begun=0, claims=0, received_at__lt=now - _TAKEN_UP_WITHIN
    )
    return list(untried.order_by("due_at", "pk").values_list("pk", flat=True)[:1])
