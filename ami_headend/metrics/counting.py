"""Adds verified uplinks to counters that only grow, in a few statements for very many of them.

Each verification leaves a row (``Uncounted``, by a trigger) in its own transaction, and counting deletes the rows that
it adds. So each uplink is counted once, whenever its transaction commits and however the database's clock was set.
"""

from collections import Counter

from django.db import transaction

from ami_headend.core.sql import fetch_rows
from ami_headend.metrics.models import Counted

# From post to verified, in seconds.
BOUNDS_S = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1_800, 7_200, 86_400)
_BATCH = 10_000  # uplinks


def count_all() -> None:
    """Count every uplink that was verified and is not counted yet, batch by batch."""
    while count()[1] == _BATCH:
        pass


def count() -> tuple[Counted, int]:
    """Count a batch of uplinks, in four statements, unless another process is counting; return the counts, and how
    many uplinks were added to them.
    """
    with transaction.atomic():
        row = Counted.objects.select_for_update(skip_locked=True).first()
        if row is not None:
            before = row.uplinks
            _add(row)
            row.save(update_fields=["uplinks", "octets", "frames", "latencies", "latency_s"])
            return row, row.uplinks - before
    return Counted.objects.get(), 0


def _add(row: Counted) -> None:
    buckets = ", ".join(f"count(*) FILTER (WHERE took_s <= {bound})" for bound in BOUNDS_S)
    (failures, uplinks, octets, accepted, duplicate, latency_s, *within), *_ = fetch_rows(
        f"""WITH taken AS (DELETE FROM metrics_uncounted
                           WHERE id IN (SELECT id FROM metrics_uncounted ORDER BY id LIMIT %s) RETURNING *),
                 kinds AS (SELECT kind, sum(number::bigint) AS number
                           FROM taken, jsonb_each_text(failures) AS kinds(kind, number) GROUP BY kind)
            SELECT (SELECT coalesce(jsonb_object_agg(kind, number), '{{}}') FROM kinds),
                   count(*), coalesce(sum(octets), 0)::bigint, coalesce(sum(accepted), 0)::bigint,
                   coalesce(sum(duplicate), 0)::bigint, coalesce(sum(took_s), 0)::float8, {buckets}
            FROM taken""",
        _BATCH,
    )
    row.uplinks += uplinks
    row.octets += octets
    row.latency_s += latency_s
    frames = Counter(row.frames)
    frames.update(accepted=accepted, duplicate=duplicate, **failures)
    row.frames = dict(frames)
    cumulative = [*within, uplinks]
    fresh = [here - before for here, before in zip(cumulative, [0, *cumulative], strict=False)]
    row.latencies = [a + b for a, b in zip(row.latencies or [0] * len(fresh), fresh, strict=True)]
