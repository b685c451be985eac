"""What waits for verification."""

from datetime import datetime, timedelta
from typing import NamedTuple

from django.db.models import Count, Min

from concentrators.models import Uplink

_TAKEN_UP_WITHIN = timedelta(seconds=2)


class Backlog(NamedTuple):
    """Uplinks that are not verified yet, and since when the oldest waits."""

    uplinks: int
    oldest_received_at: datetime | None


def waiting() -> Backlog:
    """What waits for verification."""
    row = Uplink.objects.filter(verified_at=None).aggregate(n=Count("pk"), oldest=Min("received_at"))
    return Backlog(row["n"], row["oldest"])


def is_over(limit: int) -> bool:
    """Whether more than ``limit`` uplinks wait; never counts further than that."""
    return Uplink.objects.filter(verified_at=None).order_by()[limit : limit + 1].values("pk").exists()


def left_behind(now: datetime) -> list[int]:
    """The oldest uplink that nobody has tried for some seconds, where there is one: its task, or its worker, is gone.

    Whoever verifies it goes on to all others that wait (``dispatch``): so one is enough. In a long queue it is
    one that waits for its turn, and the repetition finds it done.
    """
    untried = Uplink.objects.filter(
        verified_at=None, attempts=0, begun=0, claims=0, received_at__lt=now - _TAKEN_UP_WITHIN
    )
    return list(untried.order_by("due_at", "pk").values_list("pk", flat=True)[:1])
