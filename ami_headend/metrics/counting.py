"""Adds verified uplinks to counters that only grow, in a few statements for all of them.

Rows are counted by ``verified_at``, which the verifying transaction takes from the database's clock. An open
transaction may still commit rows with an earlier time. So counting stops at the beginning of the oldest transaction
that writes, and no uplink is missed or counted twice. (All processes must use one role: PostgreSQL shows a role only
the transactions of its own sessions.)
"""

from collections import Counter
from datetime import datetime

from django.db import transaction

from ami_headend.core.sql import fetch_rows
from ami_headend.metrics.models import Counted

# From post to verified, in seconds.
BOUNDS_S = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1_800, 7_200, 86_400)


def count() -> Counted:
    """Count uplinks verified since the last time, in three statements, unless another process is counting."""
    with transaction.atomic():
        row = Counted.objects.select_for_update(skip_locked=True).first()
        if row is not None:
            until = _settled()
            if until is not None and until > row.until:
                _add(row, until)
                row.until = until
                row.save()
            return row
    return Counted.objects.get()


def _settled() -> datetime | None:
    """Return the time before which no more verdicts can come; None if this role cannot see when some session began to
    write.
    """
    until: datetime | None = fetch_rows(
        """SELECT CASE WHEN count(*) FILTER (WHERE xact_start IS NULL) = 0
                       THEN least(statement_timestamp(), min(xact_start)) END
           FROM pg_stat_activity
           WHERE datname = current_database() AND pid <> pg_backend_pid()
             AND pid IN (SELECT pid FROM pg_locks
                         WHERE locktype = 'transactionid' AND mode = 'ExclusiveLock' AND granted)"""
    )[0][0]
    return until


def _add(row: Counted, until: datetime) -> None:
    buckets = ", ".join(f"count(*) FILTER (WHERE took <= {bound})" for bound in BOUNDS_S)
    (uplinks, octets, accepted, duplicate, latency_s, *within), *_ = fetch_rows(
        f"""SELECT count(*), coalesce(sum(octets), 0)::bigint, coalesce(sum(accepted), 0)::bigint,
                   coalesce(sum(duplicate), 0)::bigint, coalesce(sum(took), 0)::float8, {buckets}
            FROM (SELECT octets, accepted, duplicate,
                         greatest(0, extract(epoch FROM verified_at - received_at))::float8 AS took
                  FROM concentrators_uplink WHERE verified_at >= %s AND verified_at < %s) AS u""",
        row.until,
        until,
    )
    failures = fetch_rows(
        """SELECT kind, sum(number::bigint)::bigint
           FROM concentrators_uplink, jsonb_each_text(failures) AS kinds(kind, number)
           WHERE verified_at >= %s AND verified_at < %s AND rejected > 0 GROUP BY kind""",
        row.until,
        until,
    )
    row.uplinks += uplinks
    row.octets += octets
    row.latency_s += latency_s
    frames = Counter(row.frames)
    frames.update(accepted=accepted, duplicate=duplicate, **dict(failures))
    row.frames = dict(frames)
    cumulative = [*within, uplinks]
    fresh = [here - before for here, before in zip(cumulative, [0, *cumulative], strict=False)]
    row.latencies = [a + b for a, b in zip(row.latencies or [0] * len(fresh), fresh, strict=True)]
