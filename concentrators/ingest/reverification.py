"""Reverification: frames that waited for a key, meter, register, repaired fault or right clock are judged again.

They are judged from the stored octets, each exactly once. The row of an uplink says which of its frames wait, and it is
locked while they are judged: a frame with a final verdict is never among them (docs/adr/0007).
"""

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from django.db import transaction
from django.utils import timezone

from ami_headend.core.sql import fetch_rows, int_array
from ami_headend.core.text import counted
from concentrators.failures import record
from concentrators.failures.kinds import NOT_BY_ITSELF, WAITING, FailureKind
from concentrators.ingest import uplink_state
from concentrators.ingest.decisions import Verdicts
from concentrators.ingest.facts import AssignedMeter, Delivery
from concentrators.ingest.quarantine import judge_apart
from concentrators.ingest.transaction_retry import TransientError, attempt
from concentrators.ingest.uplink_state import WaitingKinds
from concentrators.ingest.worker import PROCESS, Worker
from concentrators.models import Concentrator, Uplink
from concentrators.totals import totals
from keyvault.cose.structures import split_sequence
from keyvault.coupons.store import with_identity
from keyvault.enrolment.frames import parse_enrolment
from keyvault.enrolment.lookups import awaited_titles
from keyvault.opening import known_kids
from keyvault.replay_window_store import Care
from keyvault.schemes.table import parse_frame

logger = logging.getLogger(__name__)

SCAN_UPLINKS = 20
BY_ITSELF = WAITING - NOT_BY_ITSELF


class _Frame(NamedTuple):
    """A waiting frame: its provisional verdict, the kid that it claims, and whether its meter enrols with it."""

    kind: FailureKind
    kid: bytes
    enrols: bool


class Ready(NamedTuple):
    """An uplink with frames that can be judged again, and how many."""

    uplink_id: int
    frames: int


def waiting_uplinks(only: Collection[int] | None = None) -> list[int]:
    """Return the ids of uplinks with waiting frames and stored octets; of ``only`` these, if given.

    Waits for uplinks that are being verified: their frames without a key that was committed before this call are
    included. Called outside any transaction.
    """
    with transaction.atomic():
        totals.lock()  # every verification holds a shared lock before it looks up keys
    rows = Uplink.objects.filter(waiting__gt=0, body__isnull=False, waiting_frames__isnull=False)
    if only is not None:
        rows = rows.filter(pk__in=list(only))
    return list(rows.order_by("pk").values_list("pk", flat=True))


def ready(
    uplink_ids: Sequence[int],
    system_titles: Collection[bytes] | None = None,
    done: Callable[[int], None] = lambda count: None,
    kinds: Collection[FailureKind] = BY_ITSELF,
    worker: Worker = PROCESS,
) -> Iterator[Ready]:
    """Find the given uplinks with frames to judge, of ``system_titles`` and ``kinds``, if given.

    The key and the meter of such a frame exist now, and the meter is in service if the frame waited for that.

    Nothing is locked; ``done`` gets the number of uplinks that were read since its last call.
    """
    for start in range(0, len(uplink_ids), SCAN_UPLINKS):
        chunk = uplink_ids[start : start + SCAN_UPLINKS]
        rows = fetch_rows(
            """SELECT id, body, waiting_frames FROM concentrators_uplink
               WHERE id = ANY(%s::bigint[]) AND waiting > 0 AND body IS NOT NULL ORDER BY id""",
            int_array(chunk),
        )
        waiting = {row[0]: _waiting(row[1], row[2], system_titles, kinds) for row in rows}
        known = _known([frame for frames in waiting.values() for frame in frames.values()], worker)
        for uplink_id, frames in waiting.items():
            ripe = sum(_is_ripe(frame, known) for frame in frames.values())
            if ripe:
                yield Ready(uplink_id, ripe)
        done(len(chunk))


def verify_again(
    uplink_id: int,
    system_titles: Collection[bytes] | None = None,
    kinds: Collection[FailureKind] = BY_ITSELF,
    worker: Worker = PROCESS,
) -> Verdicts:
    """Judge the waiting frames of an uplink that can be judged now (see ``ready``), and return their verdicts.

    Verdicts, evidence and tallies of the uplink change. Its time of receipt stays, or is the corrected one. The
    evidence of a frame that continues to wait for the same reason stays. A frame that cannot be processed is parked.
    TransientError if database or master key do not answer: then nothing of this uplink has changed.
    """
    what = f"uplink {uplink_id}"
    again = partial(_verify_again, uplink_id, system_titles, kinds, worker)
    try:
        return attempt(what, again, Care.LOOK)
    except TransientError:
        raise
    except Exception:
        logger.exception("waiting frames of uplink %s failed to verify; the one at fault is parked", uplink_id)
    return attempt(what, partial(again, split=True), Care.LOCK)


@dataclass(slots=True)
class ReverificationSummary:
    """Result of a reverification: the number of uplinks with waiting frames, and the verdicts of those frames."""

    uplinks: int = 0
    verdicts: Verdicts = field(default_factory=Verdicts)

    def __str__(self) -> str:
        judged = self.verdicts.accepted + self.verdicts.duplicate + self.verdicts.rejected
        reasons = ", ".join(f"{kind} {count}" for kind, count in sorted(self.verdicts.failures.items()))
        return (
            f"{counted(judged, 'waiting frame')} of {counted(self.uplinks, 'uplink')} judged: "
            f"{self.verdicts.accepted} accepted, {self.verdicts.duplicate} duplicate, {self.verdicts.rejected} rejected"
            + (f" ({reasons})" * bool(reasons))
        )


def verify_all_again(
    uplink_ids: Sequence[int],
    system_titles: Collection[bytes] | None = None,
    done: Callable[[int], None] = lambda count: None,
    worker: Worker = PROCESS,
) -> ReverificationSummary:
    """Do ``verify_again`` for each uplink with frames to judge; finished uplinks stay done, whatever fails later."""
    outcome = ReverificationSummary()
    for uplink_id, _ in ready(uplink_ids, system_titles, done, worker=worker):
        outcome.verdicts.add(verify_again(uplink_id, system_titles, worker=worker))
        outcome.uplinks += 1
    return outcome


def _verify_again(
    uplink_id: int,
    system_titles: Collection[bytes] | None,
    kinds: Collection[FailureKind],
    worker: Worker,
    care: Care,
    *,
    split: bool = False,
) -> Verdicts:
    uplink = uplink_state.take_waiting(uplink_id)
    if uplink is None:
        return Verdicts()
    waiting = _waiting(uplink.body, uplink.kinds, system_titles, kinds)
    known = _known(waiting.values(), worker)
    waited = {index: frame.kind for index, frame in sorted(waiting.items()) if _is_ripe(frame, known)}
    if not waited:
        return Verdicts()
    octets = split_sequence(uplink.body)
    frames = [(index, octets[index]) for index in waited]
    delivery = Delivery(
        uplink_id, uplink.concentrator_id, uplink.received_at, timezone.now(), uplink.corrected_at, waited
    )
    evidence = record.waiting_evidence(uplink_id, waited)
    if split:
        verdicts = judge_apart(worker, delivery, frames)
    else:
        (verdicts,) = worker.judge([(delivery, frames)], care)
    moved = waited.keys() - {
        index for kind, indexes in verdicts.waiting_frames.items() for index in indexes if waited[index] == kind
    }
    if moved:
        record.uncount(Counter(waited[index] for index in moved), uplink.concentrator_id, uplink.received_at)
        record.withdraw([failure_id for failure_id, index in evidence.items() if index in moved])
    uplink_state.move(uplink_id, uplink.kinds, waited, verdicts)
    return verdicts


def _waiting(
    body: bytes, waiting: WaitingKinds | None, system_titles: Collection[bytes] | None, kinds: Collection[FailureKind]
) -> dict[int, _Frame]:
    """Return the waiting frames of an uplink, of those titles and kinds, by index."""
    frames = split_sequence(body)
    found = {}
    for kind in kinds:
        for index in (waiting or {}).get(kind, ()):
            enrolment = parse_enrolment(frames[index])
            kid = (parse_frame(frames[index]) if enrolment is None else enrolment.frame).kid  # it was well-formed then
            if system_titles is None or kid[:8] in system_titles:
                found[index] = _Frame(kind, kid, enrols=enrolment is not None)
    return found


class _Known(NamedTuple):
    """What exists for the kids by now: a key, or a meter that may enrol; and a meter, or a concentrator that reports.

    ``identified`` are the titles whose meters have an identity to announce coupons with.
    """

    meters: Mapping[bytes, AssignedMeter]
    reporting: Collection[bytes]
    identified: Collection[bytes] = frozenset()


def _known(frames: Collection[_Frame], worker: Worker) -> _Known:
    if not frames:
        return _Known({}, ())
    known = known_kids({frame.kid for frame in frames})
    if wanting := {frame.kid for frame in frames if frame.enrols and frame.kid not in known}:
        awaited = awaited_titles({kid[:8] for kid in wanting})
        known |= {kid for kid in wanting if kid[:8] in awaited}
    meters = worker.meters.read({kid[:8] for kid in known})
    others = {kid[:8] for kid in known if kid[:8] not in meters}
    rows = Concentrator.objects.filter(system_title__in=others).values_list("system_title", flat=True) if others else ()
    concentrators = {bytes(title or b"") for title in rows}
    signing = {frame.kid[:8] for frame in frames if frame.kind == FailureKind.COUPON_UNKNOWN}
    return _Known(
        {kid: meters[kid[:8]] for kid in known if kid[:8] in meters},
        {kid for kid in known if kid[:8] in concentrators},
        with_identity(signing) if signing else (),
    )


def _is_ripe(frame: _Frame, known: _Known) -> bool:
    """Return whether a frame need not wait any longer, as far as that is known without opening it.

    The meter of a report is known only after that.
    """
    meter = known.meters.get(frame.kid)
    if meter is None:
        return frame.kid in known.reporting
    if frame.kind == FailureKind.COUPON_UNKNOWN and frame.kid[:8] not in known.identified:
        return False
    return meter.in_service or frame.kind != FailureKind.DEVICE_SUSPENDED
