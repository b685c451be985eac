"""The state of an uplink, from its reception on: every change of it is made here.

These columns alone say which uplinks are tried, when, how often, and how (docs/architecture.md draws the states):

- ``due_at``: when the sweep enqueues it again, and in which order uplinks are taken;
- ``claims``: how often the sweep enqueued it again, because its task had no result;
- ``begun``: how often work on it began after that: committed before the work, so that it survives the worker;
- ``attempts``, ``last_error``: how often it failed, and the last error;
- ``progress``: its progress in quarantine;
- ``verified_at``: when it got its verdicts.
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
    """Add an uplink and return its id; None if the same body of the same concentrator is stored already."""
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
    """Claim unverified uplinks that are due again, because their task was lost or an attempt failed; return their ids.

    Each is due again after its age, at least UPLINK_SWEEP_AFTER_S and at most ten minutes, so that a long queue is not
    filled with repetitions. An uplink received in the future, or due later than that, counts as due: the clock was
    ahead then.
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
    """Count that work begins on uplinks that the sweep has claimed; committed before the work, to survive it."""
    Uplink.objects.filter(pk__in=uplink_ids, verified_at=None, begun__lt=BEGUN_MAX).update(begun=F("begun") + 1)


def note_not_begun(uplink_ids: Sequence[int]) -> None:
    """Undo that count: the uplinks did not cause the interruption."""
    Uplink.objects.filter(pk__in=uplink_ids, verified_at=None, begun__gt=0).update(begun=F("begun") - 1)


class Posted(NamedTuple):
    """An unverified uplink, locked."""

    delivery: Delivery
    frames: Frames
    is_suspect: bool  # it failed, or had no result, so often that it goes into quarantine, or is there already


def take(uplink_ids: Sequence[int]) -> list[Posted]:
    """Lock the uplinks that are not verified, oldest first, and protect assignments from changes.

    Uplinks that another worker has are left out. NotReplayedError after a restore.
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
    """Store the verdicts of uplinks, by id, and delete their progress in quarantine."""
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
    """Count a failed attempt at an uplink; the sweep tries it again, later each time."""
    waiting = Uplink.objects.filter(pk=uplink_id, verified_at=None)
    attempts = waiting.values_list("attempts", flat=True).first() or 0
    waiting.update(
        attempts=F("attempts") + 1,
        due_at=timezone.now() + timedelta(seconds=RETRY_S * 2 ** min(attempts, RETRY_DOUBLINGS)),
        last_error=type(error).__name__,
    )


def progress(uplink_id: int) -> dict[str, Any]:
    """Return the progress of an uplink in quarantine; empty if that has not begun. The caller has locked the row."""
    return Uplink.objects.values_list("progress", flat=True).get(pk=uplink_id) or {}


def save_progress(uplink_id: int, noted: Mapping[str, Any]) -> None:
    """Store the progress of an uplink in quarantine. The caller has locked the row."""
    Uplink.objects.filter(pk=uplink_id).update(progress=dict(noted))


class Waiting(NamedTuple):
    """A verified uplink with waiting frames, locked."""

    concentrator_id: int
    received_at: datetime
    corrected_at: datetime | None
    body: bytes
    kinds: WaitingKinds


def take_waiting(uplink_id: int) -> Waiting | None:
    """Lock an uplink with waiting frames, waiting for others, and protect assignments from changes."""
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
    """Update the verdicts of an uplink: subtract the frames that were judged, and add their new verdicts."""
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
