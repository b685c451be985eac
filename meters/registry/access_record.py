"""The record of access to household data: readings of meters, and the places of meters.

Written before the answer goes out: what cannot be recorded is not shown. Repeated looks within an hour are counted in
one row, so that a page that is looked at all day costs 24. Functions of the owner count and remove (migration 0012):
the role that web and workers act in may add to the record and read it, and change or remove nothing.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from django.conf import settings
from django.db import connection
from django.utils import timezone

_STATEMENT = """SELECT meters_note_accesses(
    %(hour)s, %(account)s, %(door)s, %(meters)s::int[], %(places)s::bigint[], %(now)s
)"""


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
    """Remove what was last counted before then; gives how many rows.

    In a role that does not own the record only what is also older than the owner's word (``set_keep_days``).
    """
    with connection.cursor() as cursor:
        cursor.execute("SELECT meters_purge_accesses(%s)", [before])
        removed: int = cursor.fetchone()[0]
    return removed


def set_keep_days() -> None:
    """The owner's word on what may be removed by the role that workers act in: what is past ACCESS_KEEP_DAYS now."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT to_regprocedure('meters_access_days()')")
        if cursor.fetchone() != (None,):  # migrated so far
            cursor.execute(
                "CREATE OR REPLACE FUNCTION meters_access_days() RETURNS integer LANGUAGE sql IMMUTABLE"
                f" AS 'SELECT {int(settings.ACCESS_KEEP_DAYS)}'"
            )


def keep_days_set() -> int:
    """The days for which the owner last said that the record is kept."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT meters_access_days()")
        days: int = cursor.fetchone()[0]
    return days
