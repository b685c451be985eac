"""The record of who looked at households' data: what their meters said, and where they hang.

Written before the answer goes out: what cannot be recorded is not shown. Repeated looks within an hour are counted in
one row, so that a page that is looked at all day costs 24.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from django.db import connection
from django.utils import timezone

from meters.models import HouseholdAccess

_STATEMENT = """
    INSERT INTO meters_householdaccess (hour, account, door, meter_id, place_id, requests, first_at, last_at)
    SELECT %(hour)s, %(account)s, %(door)s, meter, place, 1, %(now)s, %(now)s
    FROM unnest(%(meters)s::int[], %(places)s::int[]) AS seen (meter, place)
    ON CONFLICT ON CONSTRAINT household_access_once_an_hour
    DO UPDATE SET requests = meters_householdaccess.requests + 1, last_at = excluded.last_at
"""


def note(request: Any, *, meters: Sequence[int] | None = None, place: int | None = None) -> None:
    """Record that the request's account is shown data of these meters, or of a place; of any where neither is named.

    ``request`` is Django's or DRF's; the door is the name of its address.
    """
    seen: list[int | None] = [*sorted(set(meters))] if meters else [None]
    now = timezone.now()
    match = request.resolver_match
    values = {
        "hour": now.replace(minute=0, second=0, microsecond=0),
        "account": request.user.get_username(),
        "door": "" if match is None else match.view_name,
        "meters": seen,
        "places": [place] * len(seen),
        "now": now,
    }
    with connection.cursor() as cursor:
        cursor.execute(_STATEMENT, values)


def purge(before: datetime) -> int:
    """Remove what was last counted before then; gives how many rows."""
    return HouseholdAccess.objects.filter(last_at__lt=before).delete()[0]
