"""Verifying again: frames that waited for something of ours (a key, a meter, a register, a mended fault, a right
clock) are judged once more, from the kept octets, each exactly once.

An uplink's row says which of its frames wait, and it is locked while they are judged: a frame that has
another verdict is never among them (docs/adr/0007).
"""

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from django.db import transaction
from django.utils import timezone
from psycopg.types.json import Jsonb

from ami_headend.core.sql import execute, fetch_rows, int_array
from concentrators.failures import record
from concentrators.failures.kinds import NOT_BY_ITSELF, WAITING, FailureKind
from concentrators.ingest.assigned import AssignedMeter, assigned_meters
from concentrators.ingest.judging import Delivery, Verdicts, judge
from concentrators.ingest.verification import (
    TRIES,
    TransientError,
    came_between,
    is_transient,
    judge_by_halves,
)
from concentrators.models import Uplink
from concentrators.totals import totals
from keyvault import journal
from keyvault.cose.structures import split_sequence
from keyvault.journal import NotReplayedError
from keyvault.opening import known_kids
from keyvault.replay_window_store import Care
from keyvault.schemes.table import parse_frame

logger = logging.getLogger(__name__)

SCAN_UPLINKS = 20
BY_ITSELF = WAITING - NOT_BY_ITSELF

_Kinds = Mapping[str, Sequence[int]]  # indexes of waiting frames by kind, as the uplink's row has them


class _Frame(NamedTuple):
    """A waiting frame: what it waits as, and the kid that it claims."""

    kind: FailureKind
    kid: bytes


class Ready(NamedTuple):
    """An uplink with frames that can be judged again, and how many."""

    uplink_id: int
    frames: int


def waiting_uplinks(only: Collection[int] | None = None) -> list[int]:
    """Ids of the uplinks with frames that wait and octets that are kept; of ``only`` these, if given.

    Waits for the uplinks being verified now: what they found without a key that was committed before this call
    is among them. Called outside any transaction.
    """
    with transaction.atomic():
        totals.lock()  # every verification holds it shared before it looks up keys
    rows = Uplink.objects.filter(waiting__gt=0, body__isnull=False, waiting_frames__isnull=False)
    if only is not None:
        rows = rows.filter(pk__in=list(only))
    return list(rows.order_by("pk").values_list("pk", flat=True))


def ready(
    uplink_ids: Sequence[int],
    system_titles: Collection[bytes] | None = None,
    done: Callable[[int], None] = lambda count: None,
    kinds: Collection[FailureKind] = BY_ITSELF,
) -> Iterator[Ready]:
    """The uplinks among those given with frames to judge, of ``system_titles`` and ``kinds`` alone: their key and meter
    stand now, and the meter is in service where they waited for that.

    Nothing is locked; ``done`` hears how many more uplinks were looked at.
    """
    for start in range(0, len(uplink_ids), SCAN_UPLINKS):
        chunk = uplink_ids[start : start + SCAN_UPLINKS]
        rows = fetch_rows(
            """SELECT id, body, waiting_frames FROM concentrators_uplink
               WHERE id = ANY(%s::bigint[]) AND waiting > 0 AND body IS NOT NULL ORDER BY id""",
            int_array(chunk),
        )
        waiting = {row[0]: _waiting(row[1], row[2], system_titles, kinds) for row in rows}
        meters = _meters_of({frame.kid for frames in waiting.values() for frame in frames.values()})
        for uplink_id, frames in waiting.items():
            ripe = sum(_is_ripe(frame, meters) for frame in frames.values())
            if ripe:
                yield Ready(uplink_id, ripe)
        done(len(chunk))


def verify_again(
    uplink_id: int,
    system_titles: Collection[bytes] | None = None,
    kinds: Collection[FailureKind] = BY_ITSELF,
) -> Verdicts:
    """Judge an uplink's waiting frames that can be judged now (see ``ready``).

    Gives the verdicts of those frames; verdicts, evidence and tallies of the uplink move. The time of
    receipt stays the first one, or its correction. Evidence of a frame that waits on as before stays. A frame that
    cannot be processed is parked. Raises TransientError where database or master key do not answer: then nothing of
    this uplink has moved.
    """
    split = False
    for attempt in range(TRIES):
        try:
            with transaction.atomic():
                with_care = Care.LOCK if attempt else Care.LOOK
                return _verify_again(uplink_id, system_titles, kinds, with_care, split=split)
        except Exception as error:
            if came_between(error):
                continue
            if is_transient(error):
                raise TransientError(f"uplink {uplink_id}: {error}") from error
            if split:
                raise
            logger.exception("waiting frames of uplink %s failed to verify; the one at fault is parked", uplink_id)
            split = True
    raise TransientError(f"uplink {uplink_id}: others came between {TRIES} times")


@dataclass(slots=True)
class Outcome:
    """What verifying again came to: uplinks with frames to judge, and the verdicts of those frames."""

    uplinks: int = 0
    verdicts: Verdicts = field(default_factory=Verdicts)

    def __str__(self) -> str:
        judged = self.verdicts.accepted + self.verdicts.duplicate + self.verdicts.rejected
        reasons = ", ".join(f"{kind} {count}" for kind, count in sorted(self.verdicts.failures.items()))
        return (
            f"{judged} waiting frames of {self.uplinks} uplinks judged: {self.verdicts.accepted} accepted, "
            f"{self.verdicts.duplicate} duplicate, {self.verdicts.rejected} rejected"
            + (f" ({reasons})" * bool(reasons))
        )


def verify_all_again(
    uplink_ids: Sequence[int],
    system_titles: Collection[bytes] | None = None,
    done: Callable[[int], None] = lambda count: None,
) -> Outcome:
    """``verify_again`` for each uplink that has frames to judge; what was judged stays, whatever fails later."""
    outcome = Outcome()
    for uplink_id, _ in ready(uplink_ids, system_titles, done):
        outcome.verdicts.add(verify_again(uplink_id, system_titles))
        outcome.uplinks += 1
    return outcome


class _Waiting(NamedTuple):
    """A verified uplink with waiting frames, locked."""

    concentrator_id: int
    received_at: datetime
    corrected_at: datetime | None
    body: bytes
    kinds: _Kinds


def _verify_again(
    uplink_id: int,
    system_titles: Collection[bytes] | None,
    kinds: Collection[FailureKind],
    care: Care,
    *,
    split: bool,
) -> Verdicts:
    uplink = _lock(uplink_id)
    if uplink is None:
        return Verdicts()
    waiting = _waiting(uplink.body, uplink.kinds, system_titles, kinds)
    meters = _meters_of({frame.kid for frame in waiting.values()})
    waited = {index: frame.kind for index, frame in sorted(waiting.items()) if _is_ripe(frame, meters)}
    if not waited:
        return Verdicts()
    octets = split_sequence(uplink.body)
    frames = [(index, octets[index]) for index in waited]
    delivery = Delivery(
        uplink_id, uplink.concentrator_id, uplink.received_at, timezone.now(), uplink.corrected_at, waited
    )
    evidence = record.waiting_evidence(uplink_id, waited)
    verdicts = judge_by_halves(delivery, frames) if split else judge([(delivery, frames)], care)[0]
    moved = waited.keys() - {
        index for kind, indexes in verdicts.waiting_frames.items() for index in indexes if waited[index] == kind
    }
    if moved:
        record.uncount(Counter(waited[index] for index in moved), uplink.concentrator_id, uplink.received_at)
        record.withdraw([failure_id for failure_id, index in evidence.items() if index in moved])
    _move(uplink_id, uplink.kinds, waited, verdicts)
    return verdicts


def _lock(uplink_id: int) -> _Waiting | None:
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
    return _Waiting(*rows[0][1:-1]) if rows else None


def _waiting(
    body: bytes, waiting: _Kinds | None, system_titles: Collection[bytes] | None, kinds: Collection[FailureKind]
) -> dict[int, _Frame]:
    """The waiting frames of an uplink, of those titles and kinds, by their indexes."""
    frames = split_sequence(body)
    found = {}
    for kind in kinds:
        for index in (waiting or {}).get(kind, ()):
            kid = parse_frame(frames[index]).kid  # it was well formed when it began to wait
            if system_titles is None or kid[:8] in system_titles:
                found[index] = _Frame(kind, kid)
    return found


def _meters_of(kids: Collection[bytes]) -> dict[bytes, AssignedMeter]:
    """The meters behind the kids that are unknown no longer: a key stands, and a meter."""
    if not kids:
        return {}
    known = known_kids(kids)
    meters = assigned_meters({kid[:8] for kid in known})
    return {kid: meters[kid[:8]] for kid in known if kid[:8] in meters}


def _is_ripe(frame: _Frame, meters: Mapping[bytes, AssignedMeter]) -> bool:
    """Whether a frame need not wait any longer, as far as can be told without opening it."""
    meter = meters.get(frame.kid)
    return meter is not None and (meter.in_service or frame.kind != FailureKind.DEVICE_SUSPENDED)


def _move(uplink_id: int, kinds: _Kinds, judged: Mapping[int, FailureKind], verdicts: Verdicts) -> None:
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
