"""Verifying again: frames that waited for a key, or for a fault of ours to be mended, are judged once more, from the
kept octets, each exactly once.

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

from concentrators import integrity, totals
from concentrators.assigned import assigned_meters
from concentrators.judging import Delivery, Verdicts, judge
from concentrators.models import Uplink
from concentrators.verdicts import FailureKind
from concentrators.verification import (
    TRIES,
    TransientError,
    came_between,
    is_transient,
    judge_by_halves,
)
from keyvault import journal
from keyvault.cose.structures import parse_frame, split_sequence
from keyvault.counterrows import Care
from keyvault.journal import NotReplayedError
from keyvault.opening import known_kids
from keyvault.sql import execute, fetch_rows, int_array

logger = logging.getLogger(__name__)

_SCAN_UPLINKS = 20

_Kinds = Mapping[str, Sequence[int]]  # indexes of waiting frames by kind, as the uplink's row has them


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
) -> Iterator[Ready]:
    """The uplinks among those given with frames whose key and meter stand now, of ``system_titles`` alone if given.

    Nothing is locked; ``done`` hears how many more uplinks were looked at.
    """
    for start in range(0, len(uplink_ids), _SCAN_UPLINKS):
        chunk = uplink_ids[start : start + _SCAN_UPLINKS]
        rows = fetch_rows(
            """SELECT id, body, waiting_frames FROM concentrators_uplink
               WHERE id = ANY(%s::bigint[]) AND waiting > 0 AND body IS NOT NULL ORDER BY id""",
            int_array(chunk),
        )
        kids = {row[0]: _waiting_kids(row[1], row[2], system_titles) for row in rows}
        open_now = _openable({kid for by_index in kids.values() for kid in by_index.values()})
        for uplink_id, by_index in kids.items():
            frames = sum(kid in open_now for kid in by_index.values())
            if frames:
                yield Ready(uplink_id, frames)
        done(len(chunk))


def verify_again(uplink_id: int, system_titles: Collection[bytes] | None = None) -> Verdicts:
    """Judge an uplink's waiting frames whose key and meter stand now (of ``system_titles`` alone, if given).

    Gives the verdicts of those frames; verdicts, evidence and tallies of the uplink move. The time of
    receipt stays the first one. A frame that cannot be processed is parked. Raises TransientError
    where database or master key do not answer: then nothing of this uplink has moved.
    """
    split = False
    for attempt in range(TRIES):
        try:
            with transaction.atomic():
                return _verify_again(uplink_id, system_titles, Care.LOCK if attempt else Care.LOOK, split=split)
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
    body: bytes
    kinds: _Kinds


def _verify_again(uplink_id: int, system_titles: Collection[bytes] | None, care: Care, *, split: bool) -> Verdicts:
    waiting = _lock(uplink_id)
    if waiting is None:
        return Verdicts()
    kids = _waiting_kids(waiting.body, waiting.kinds, system_titles)
    open_now = _openable(set(kids.values()))
    octets = split_sequence(waiting.body)
    frames = [(index, octets[index]) for index, kid in sorted(kids.items()) if kid in open_now]
    if not frames:
        return Verdicts()
    judged = {index for index, _ in frames}
    before = Counter({FailureKind(kind): len(judged.intersection(indexes)) for kind, indexes in waiting.kinds.items()})
    delivery = Delivery(uplink_id, waiting.concentrator_id, waiting.received_at, timezone.now())
    evidence = integrity.waiting_evidence(uplink_id, judged)
    verdicts = judge_by_halves(delivery, frames) if split else judge([(delivery, frames)], care)[0]
    integrity.uncount(+before, waiting.concentrator_id, waiting.received_at)
    integrity.withdraw(evidence)
    _move(uplink_id, waiting.kinds, judged, before, verdicts)
    return verdicts


def _lock(uplink_id: int) -> _Waiting | None:
    """Lock an uplink whose frames wait, and assignments against change; whoever has it now is waited for."""
    rows = fetch_rows(
        f"""SELECT concentrator_id, received_at, body, waiting_frames, {journal.OPEN}, pg_advisory_xact_lock_shared(%s)
            FROM (SELECT * FROM concentrators_uplink
                  WHERE id = %s AND verified_at IS NOT NULL AND waiting > 0
                    AND body IS NOT NULL AND waiting_frames IS NOT NULL FOR UPDATE) AS u""",
        totals.LOCK,
        uplink_id,
    )
    if rows and not rows[0][4]:
        raise NotReplayedError
    return _Waiting(*rows[0][:4]) if rows else None


def _waiting_kids(body: bytes, kinds: _Kinds | None, system_titles: Collection[bytes] | None) -> dict[int, bytes]:
    """The kids that the waiting frames of an uplink claim, by the frames' indexes."""
    frames = split_sequence(body)
    kids = {}
    for index in (index for indexes in (kinds or {}).values() for index in indexes):
        kid = parse_frame(frames[index]).kid  # it was well formed when it began to wait
        if system_titles is None or kid[:8] in system_titles:
            kids[index] = kid
    return kids


def _openable(kids: Collection[bytes]) -> set[bytes]:
    """The kids that are unknown no longer: a key stands, and a meter."""
    if not kids:
        return set()
    known = known_kids(kids)
    meters = assigned_meters({kid[:8] for kid in known})
    return {kid for kid in known if kid[:8] in meters}


def _move(uplink_id: int, kinds: _Kinds, judged: set[int], before: Counter[FailureKind], verdicts: Verdicts) -> None:
    """Bring the uplink's row up to date: what its frames said before, less those judged, plus their verdicts."""
    still: dict[str, list[int]] = {kind: [i for i in indexes if i not in judged] for kind, indexes in kinds.items()}
    for kind, indexes in verdicts.waiting_frames.items():
        still[kind] = sorted([*still.get(kind, []), *indexes])
    still = {kind: indexes for kind, indexes in still.items() if indexes}
    failures: dict[str, Any] = fetch_rows("SELECT failures FROM concentrators_uplink WHERE id = %s", uplink_id)[0][0]
    counted = Counter(failures)
    counted.subtract(before)
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
