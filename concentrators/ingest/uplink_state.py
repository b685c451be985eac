"""The state of an uplink between its reception and the end of its octets: who writes it, writes it here.

Which uplinks are tried, when, how often, and by which way, is told by these columns of its row alone
(docs/architecture.md draws them):

- ``due_at``: when the sweep enqueues it again, and in which order uplinks are taken;
- ``claims``: how often the sweep did, since nothing came of its task;
- ``begun``: how often work on it began after that: noted before the work, so that it outlives the worker;
- ``attempts``, ``last_error``: how often it failed, and of what;
- ``progress``: how far it is in quarantine;
- ``verified_at``: it has its verdicts.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from django.conf import settings
from django.db import connection
from django.db.models import F
from django.utils import timezone
from psycopg.types.json import Jsonb

from ami_headend.core import clock
from ami_headend.core.sql import execute, fetch_rows, int_array
from concentrators.failures.kinds import FailureKind
from concentrators.ingest.decisions import Verdicts
from concentrators.ingest.facts import Delivery, Frames
from concentrators.models import Uplink
from concentrators.totals import totals
from keyvault import journal
from keyvault.cose.structures import split_sequence
from keyvault.journal import NotReplayedError

RETRY_S = 20  # after a failed attempt, doubled each time
RETRY_DOUBLINGS = 8
BEGUN_MAX = 32_000
_CLAIM = 5_000
_PUT_OFF_MAX = timedelta(minutes=10)

WaitingKinds = Mapping[str, Sequence[int]]  # indexes of waiting frames by kind, as the row has them


def add(
    concentrator_id: int, body: bytes, sha256: bytes, frames: int, received_at: datetime, due_at: datetime
) -> int | None:
    """A new uplink; its id, or None where the same body of the same concentrator stands already."""
    rows = fetch_rows(
        """INSERT INTO concentrators_uplink (concentrator_id, received_at, sha256, body, octets, frames, due_at,
                  accepted, duplicate, rejected, failures, waiting, attempts, last_error)
           VALUES (%s, %s, %s, %s, %s, %s, %s, 0, 0, 0, '{}', 0, 0, '')
           ON CONFLICT (concentrator_id, sha256) WHERE body IS NOT NULL DO NOTHING RETURNING id""",
        concentrator_id,
        received_at,
        sha256,
        body,
        len(body),
        frames,
        due_at,
    )
    return rows[0][0] if rows else None


def claim_overdue(now: datetime) -> list[int]:
    """Ids of unverified uplinks that are due again: their task was lost, or an attempt failed.

    Each is put off by its age, at least UPLINK_SWEEP_AFTER_S and at most ten minutes, so that a queue
    that is merely long does not fill up with repetitions. What was received in the future, or put off for longer than
    anything is, counts as due: the clock was ahead then.
    """
    after = timedelta(seconds=settings.UPLINK_SWEEP_AFTER_S)
    with connection.cursor() as cursor:
        cursor.execute(
            """UPDATE concentrators_uplink
               SET claims = least(claims + 1, 32767),
                   due_at = %(now)s + greatest(least(%(now)s - received_at, interval '10 minutes'),
                                               make_interval(secs => %(after)s))
               WHERE id IN (SELECT id FROM concentrators_uplink WHERE verified_at IS NULL AND (
                                due_at <= %(now)s OR received_at > %(ahead)s AND due_at > %(usual)s
                                OR due_at - make_interval(secs => %(retry)s * 2 ^ least(attempts, %(doublings)s))
                                   > %(latest)s)
                            ORDER BY due_at LIMIT %(claim)s FOR UPDATE SKIP LOCKED)
               RETURNING id""",
            {
                "now": now,
                "after": settings.UPLINK_SWEEP_AFTER_S,
                "claim": _CLAIM,
                "ahead": now + clock.DIFFERENCE_MAX,
                "usual": clock.latest_due(after, now),
                "latest": clock.latest_due(_PUT_OFF_MAX + after, now),
                "retry": RETRY_S,
                "doublings": RETRY_DOUBLINGS,
            },
        )
        return sorted(row[0] for row in cursor.fetchall())


def note_begun(uplink_ids: Sequence[int]) -> None:
    """Count that work begins on uplinks that the sweep has claimed: committed before it, so that it outlives it."""
    Uplink.objects.filter(pk__in=uplink_ids, verified_at=None, begun__lt=BEGUN_MAX).update(begun=F("begun") + 1)


def note_not_begun(uplink_ids: Sequence[int]) -> None:
    """Take that back: what stopped the work has nothing to do with the uplinks."""
    Uplink.objects.filter(pk__in=uplink_ids, verified_at=None, begun__gt=0).update(begun=F("begun") - 1)


class Posted(NamedTuple):
    """An unverified uplink, locked."""

    delivery: Delivery
    frames: Frames
    is_suspect: bool  # it failed, or work on it came to nothing, so often that it goes into quarantine, or is there


def take(uplink_ids: Sequence[int]) -> list[Posted]:
    """Take those uplinks that are not verified: lock them, oldest first, and assignments against change.

    Those that another worker has are left out. NotReplayedError after a restore.
    """
    rows = fetch_rows(
        f"""SELECT id, concentrator_id, received_at, attempts >= %s OR begun > %s OR progress IS NOT NULL,
                   body, {journal.OPEN}, corrected_at, pg_advisory_xact_lock_shared(%s)
            FROM (SELECT * FROM concentrators_uplink
                  WHERE id = ANY(%s::bigint[]) AND verified_at IS NULL ORDER BY id FOR UPDATE SKIP LOCKED) AS u""",
        settings.UPLINK_SPLIT_AFTER,
        settings.UPLINK_SPLIT_AFTER,
        totals.LOCK,
        int_array(uplink_ids),
    )
    if not all(row[5] for row in rows):
        raise NotReplayedError
    now = timezone.now()
    return [
        Posted(
            Delivery(uplink_id, concentrator_id, received_at, now, corrected_at),
            list(enumerate(split_sequence(body))),
            is_suspect,
        )
        for uplink_id, concentrator_id, received_at, is_suspect, body, _, corrected_at, _ in rows
    ]


def finish(verdicts: Mapping[int, Verdicts]) -> None:
    """Uplinks have their verdicts, by their ids; what quarantine noted of them goes."""
    each = verdicts.values()
    execute(
        """UPDATE concentrators_uplink u SET accepted = n.accepted, duplicate = n.duplicate, rejected = n.rejected,
                  waiting = n.waiting, failures = n.failures, waiting_frames = n.waiting_frames,
                  verified_at = clock_timestamp(), progress = NULL
           FROM unnest(%s::bigint[], %s::int[], %s::int[], %s::int[], %s::int[], %s::jsonb[], %s::jsonb[])
                AS n(id, accepted, duplicate, rejected, waiting, failures, waiting_frames)
           WHERE u.id = n.id""",
        int_array(verdicts),
        int_array(one.accepted for one in each),
        int_array(one.duplicate for one in each),
        int_array(one.rejected for one in each),
        int_array(one.waiting for one in each),
        [Jsonb(dict(one.failures)) for one in each],
        [Jsonb(one.waiting_frames) if one.waiting_frames else None for one in each],
    )


def note_failed(uplink_id: int, error: Exception) -> None:
    """Count a failed attempt at an uplink, and let the sweep try again: later each time."""
    waiting = Uplink.objects.filter(pk=uplink_id, verified_at=None)
    attempts = waiting.values_list("attempts", flat=True).first() or 0
    waiting.update(
        attempts=F("attempts") + 1,
        due_at=timezone.now() + timedelta(seconds=RETRY_S * 2 ** min(attempts, RETRY_DOUBLINGS)),
        last_error=type(error).__name__,
    )


def progress(uplink_id: int) -> dict[str, Any]:
    """What quarantine noted of an uplink last; empty where it has not begun. The caller holds the row."""
    return Uplink.objects.values_list("progress", flat=True).get(pk=uplink_id) or {}


def save_progress(uplink_id: int, noted: Mapping[str, Any]) -> None:
    """Note how far quarantine is with an uplink. The caller holds the row."""
    Uplink.objects.filter(pk=uplink_id).update(progress=dict(noted))


class Waiting(NamedTuple):
    """A verified uplink with waiting frames, locked."""

    concentrator_id: int
    received_at: datetime
    corrected_at: datetime | None
    body: bytes
    kinds: WaitingKinds


def take_waiting(uplink_id: int) -> Waiting | None:
    """Lock an uplink whose frames wait, and assignments against change; whoever has it now is waited for."""
    rows = fetch_rows(
        f"""SELECT {journal.OPEN}, concentrator_id, received_at, corrected_at, body, waiting_frames,
                   pg_advisory_xact_lock_shared(%s)
            FROM (SELECT * FROM concentrators_uplink
                  WHERE id = %s AND verified_at IS NOT NULL AND waiting > 0
                    AND body IS NOT NULL AND waiting_frames IS NOT NULL FOR UPDATE) AS u""",
        totals.LOCK,
        uplink_id,
    )
    if rows and not rows[0][0]:
        raise NotReplayedError
    return Waiting(*rows[0][1:-1]) if rows else None


def move(uplink_id: int, kinds: WaitingKinds, judged: Mapping[int, FailureKind], verdicts: Verdicts) -> None:
    """Bring the uplink's row up to date: what its frames said before, less those judged, plus their verdicts."""
    still: dict[str, list[int]] = {kind: [i for i in indexes if i not in judged] for kind, indexes in kinds.items()}
    for kind, indexes in verdicts.waiting_frames.items():
        still[kind] = sorted([*still.get(kind, []), *indexes])
    still = {kind: indexes for kind, indexes in still.items() if indexes}
    failures: dict[str, Any] = fetch_rows("SELECT failures FROM concentrators_uplink WHERE id = %s", uplink_id)[0][0]
    counted = Counter(failures)
    counted.subtract(Counter(judged.values()))
    counted.update(verdicts.failures)
    execute(
        """UPDATE concentrators_uplink
           SET accepted = accepted + %s, duplicate = duplicate + %s, rejected = rejected + %s,
               failures = %s, waiting = %s, waiting_frames = %s
           WHERE id = %s""",
        verdicts.accepted,
        verdicts.duplicate,
        verdicts.rejected - len(judged),
        Jsonb({kind: count for kind, count in counted.items() if count}),
        sum(map(len, still.values())),
        Jsonb(still) if still else None,
        uplink_id,
    )
