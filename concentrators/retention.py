"""Deletes what is past its time: bodies and rows of uplinks, rejected frames, tallies; in batches, the oldest first.

The row of an uplink is kept longer than the readings that it brought, because they name it. If the counter of a
rejected frame was taken, its digest is kept when the evidence is deleted, for as long as readings.
Lots of the feed lose their rows first; what remains of them goes with the readings.
The sessions of retired and compromised keys are deleted, too, but for the newest of each key.
"""

from datetime import datetime, timedelta

from django.conf import settings
from django.db import connection, transaction

from concentrators.failures.kinds import BEFORE_COUNTER
from concentrators.failures.record import DIGEST_OCTETS
from concentrators.feed import lots
from concentrators.models import (
    CommandTally,
    FailureTally,
    HopFailure,
    RefusedFrame,
    RegisterDifference,
    ReportedSum,
    Uplink,
)
from concentrators.totals import masked_sets, read_success
from keyvault import sessions_store
from meters.readings.partitions import retention_start

_BATCH = 1_000


def delete_old(now: datetime) -> dict[str, int]:
    """Delete what has been kept for its time; how many rows of each sort went. Safe to stop at any instruction."""
    failures_before = now - timedelta(days=settings.FAILURE_KEEP_DAYS)
    return {
        "failures": _failures(failures_before),
        "tallies": _rows(FailureTally._meta.db_table, "hour", failures_before),
        "hop failures": _rows(HopFailure._meta.db_table, "hour", failures_before),
        "reported sums": _rows(ReportedSum._meta.db_table, "interval_start", failures_before),
        "tallies of commands": _rows(CommandTally._meta.db_table, "minute", now - timedelta(days=2)),
        "days of deadlines": read_success.delete_old(retention_start(now)),
        "register differences": _rows(RegisterDifference._meta.db_table, "span_start", retention_start(now)),
        "masked sets": masked_sets.delete_old(retention_start(now)),
        "digests": _rows(
            RefusedFrame._meta.db_table, "received_at", now - timedelta(days=settings.UPLINK_ROWS_KEEP_DAYS)
        ),
        "uplinks": _uplinks(now - timedelta(days=settings.UPLINK_ROWS_KEEP_DAYS)),
        "sessions": sessions_store.prune(),
        "positions of the feed": lots.empty(max(retention_start(now), now - timedelta(days=settings.FEED_KEEP_DAYS))),
        "lots": lots.delete_old(retention_start(now)),
    }


def _failures(before: datetime) -> int:
    """Evidence goes, and leaves digests."""
    deleted = 0
    while True:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(
                """WITH gone AS (
                       DELETE FROM concentrators_integrityfailure
                       WHERE id IN (SELECT id FROM concentrators_integrityfailure WHERE received_at < %(before)s
                                    ORDER BY received_at LIMIT %(batch)s FOR UPDATE SKIP LOCKED)
                       RETURNING id, kid, invocation_counter, frame, kind, received_at
                   ), left_over AS (
                       INSERT INTO concentrators_refusedframe (kid, invocation_counter, digest, kind, received_at)
                       SELECT DISTINCT ON (1, 2, 3) kid, invocation_counter, substr(sha256(frame), 1, %(octets)s), kind,
                                                    received_at
                       FROM gone WHERE kind <> ALL(%(kinds)s) AND kid IS NOT NULL AND invocation_counter IS NOT NULL
                       ORDER BY 1, 2, 3, id ON CONFLICT DO NOTHING
                   )
                   SELECT count(*) FROM gone""",
                {
                    "before": before,
                    "batch": _BATCH,
                    "octets": DIGEST_OCTETS,
                    "kinds": [kind.value for kind in BEFORE_COUNTER],
                },
            )
            gone = int(cursor.fetchone()[0])
        deleted += gone
        if gone < _BATCH:
            return deleted


def _rows(table: str, column: str, before: datetime) -> int:
    deleted = 0
    while True:
        with connection.cursor() as cursor:
            cursor.execute(
                f"""DELETE FROM {table} WHERE ctid = ANY(ARRAY(
                        SELECT ctid FROM {table} WHERE {column} < %s
                        ORDER BY {column} LIMIT %s FOR UPDATE SKIP LOCKED))""",
                [before, _BATCH],
            )
            deleted += int(cursor.rowcount)
            if cursor.rowcount < _BATCH:
                return deleted


def _uplinks(before: datetime) -> int:
    """By id, which follows the time: so each look stops at the first row that is young enough."""
    deleted, last = 0, 0
    while True:
        rows = list(
            Uplink.objects.filter(pk__gt=last).order_by("pk").values_list("pk", "received_at", "verified_at")[:_BATCH]
        )
        old = [pk for pk, received_at, verified_at in rows if received_at < before and verified_at is not None]
        with connection.cursor() as cursor:
            cursor.execute(
                """DELETE FROM concentrators_uplink u WHERE id = ANY(%s) AND body IS NULL
                     AND NOT EXISTS (SELECT 1 FROM concentrators_integrityfailure f WHERE f.uplink_id = u.id)""",
                [old],
            )
            deleted += int(cursor.rowcount)
        if len(rows) < _BATCH or not old:
            return deleted
        last = rows[-1][0]


def delete_bodies(now: datetime) -> int:
    """Delete the octets of verified uplinks after their time; return how many. Rows and verdicts stay.

    The time is UPLINK_KEEP_DAYS, or UPLINK_KEEP_WAITING_DAYS while frames of the uplink wait.
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
                    _BATCH,
                ],
            )
            purged += int(cursor.rowcount)
            if cursor.rowcount < _BATCH:
                return purged
