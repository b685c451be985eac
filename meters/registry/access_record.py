"""The record of access to household data: readings of meters, and the places of meters.

It is written before the answer leaves: data whose access cannot be recorded is not shown. Repeated access within an
hour is counted in one row, so that a page that is open all day takes 24 rows. Functions of the owner count and delete
(migration 0012): the role of web and workers may only add to the record and read it.
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
    """Record that the account of a request sees data of these meters, or of a place, or of any if neither is given.

    ``request`` is Django's or DRF's; the record has the name of its address.
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
    """Delete rows that were last counted before a time; return how many. Each batch is a transaction of its own.

    A role that does not own the record can delete only rows that are also older than ``set_keep_days`` allows.
    """
    deleted = 0
    with connection.cursor() as cursor:
        while removed := _purge_batch(cursor, before):
            deleted += removed
    return deleted


def _purge_batch(cursor: Any, before: datetime) -> int:
    cursor.execute("SELECT meters_purge_accesses(%s)", [before])
    removed: int = cursor.fetchone()[0]
    return removed


def set_keep_days() -> None:
    """As the owner, set what the role of workers may delete: rows older than the present ACCESS_KEEP_DAYS."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT to_regprocedure('meters_access_days()')")
        if cursor.fetchone() != (None,):  # migrated so far
            cursor.execute(
                "CREATE OR REPLACE FUNCTION meters_access_days() RETURNS integer LANGUAGE sql IMMUTABLE"
                f" AS 'SELECT {int(settings.ACCESS_KEEP_DAYS)}'"
            )


def keep_days_set() -> int:
    """Return the days for which the record is kept, as the owner last set them."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT meters_access_days()")
        days: int = cursor.fetchone()[0]
    return days
