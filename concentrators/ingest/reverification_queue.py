"""The queue of reverification: when something was added that frames may wait for, they are judged again automatically.

Triggers write a request (models.Reverification) in the transaction that adds the register, meter or key, or changes an
interval length, so that none can be forgotten. The position of the work is stored, so that it may stop at any point. An
uplink whose frames kill the worker is skipped after UPLINK_SPLIT_AFTER tries; the daily request for everything tries it
again.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from django.conf import settings
from django.db import transaction
from django.db.models import F

from ami_headend.core import locks
from ami_headend.core.sql import fetch_rows
from concentrators.failures.kinds import FailureKind
from concentrators.ingest import reverification
from concentrators.ingest.reverification import BY_ITSELF, SCAN_UPLINKS
from concentrators.ingest.transaction_retry import TransientError
from concentrators.ingest.worker import PROCESS, Worker
from concentrators.models import Reverification
from concentrators.totals import totals

logger = logging.getLogger(__name__)

EVERYTHING, CLOCK = "all", "clock"
# The verdicts that wait for each cause, in the order of the work: a flood of unknown meters delays no known ones.
_KINDS = {
    "register": frozenset({FailureKind.UNKNOWN_REGISTER, FailureKind.REGISTRY_MISMATCH, FailureKind.IMPLAUSIBLE}),
    "profile": frozenset({FailureKind.UNKNOWN_PROFILE}),
    # If a meter was registered with too long intervals, some intervals seemed not to have ended.
    "length": frozenset({FailureKind.REGISTRY_MISMATCH, FailureKind.CLOCK_SKEW}),
    CLOCK: frozenset({FailureKind.CLOCK_SKEW}),
    "meter": frozenset({FailureKind.UNKNOWN_DEVICE, FailureKind.DEVICE_SUSPENDED}),
    "key": frozenset({FailureKind.UNKNOWN_DEVICE, FailureKind.UNKNOWN_EPOCH}),
    "coupon": frozenset({FailureKind.COUPON_UNKNOWN}),
    EVERYTHING: BY_ITSELF,
}
CAUSES = tuple(_KINDS)
_LOCK = locks.REVERIFICATION  # held by the session: one worker at a time
_WORK_S = 5.0  # then another task continues


def request_everything() -> None:
    """Request reverification of all waiting frames, except those that wait for a clock correction."""
    Reverification.objects.get_or_create(cause=EVERYTHING, position=0)


def work(worker: Worker = PROCESS) -> bool:
    """Judge frames again that need not wait any longer, for some seconds; return whether more is to be done.

    Returns at once if another worker does it. If the database or the master key do not answer, nothing is lost: the
    next call continues. Called outside any transaction.
    """
    until = time.monotonic() + _WORK_S
    with _alone() as ours:
        if not ours:
            return False
        while request := _next_request():
            try:
                if not _go_on(request, until, worker):
                    return True
            except TransientError as error:
                logger.warning("frames that wait are judged again later: %s", error)
                return False
    return False


def _next_request() -> Reverification | None:
    """Return the oldest request of the first cause."""
    oldest = {request.cause: request for request in Reverification.objects.order_by("-pk")}
    return next((oldest[cause] for cause in CAUSES if cause in oldest), None)


def _go_on(request: Reverification, until: float, worker: Worker) -> bool:
    """Work on a request; if it is finished in time, delete it and return True."""
    kinds = _KINDS[request.cause]
    if not request.position and not request.tries:
        with transaction.atomic():
            # Every verification holds it shared before it looks at the registry: what they found without the thing that
            # has come is committed after this. Requests for the same that came by now are answered by this one, too.
            totals.lock()
            Reverification.objects.filter(cause=request.cause, position=0, pk__gt=request.pk).delete()
    while uplink_ids := _next(request, kinds):
        for uplink_id in uplink_ids:
            if time.monotonic() >= until:
                return False
            _judge(request, uplink_id, kinds, worker)
    request.delete()
    return True


def _next(request: Reverification, kinds: frozenset[FailureKind]) -> list[int]:
    """Return the next uplinks with frames that wait with one of the verdicts."""
    rows = fetch_rows(
        """SELECT id FROM concentrators_uplink
           WHERE id > %s AND waiting > 0 AND body IS NOT NULL AND waiting_frames ?| %s::text[]
                 AND (corrected_at IS NOT NULL OR NOT %s)
           ORDER BY id LIMIT %s""",
        request.position,
        "{" + ",".join(kinds) + "}",
        request.cause == CLOCK,
        SCAN_UPLINKS,
    )
    return [row[0] for row in rows]


def _judge(request: Reverification, uplink_id: int, kinds: frozenset[FailureKind], worker: Worker) -> None:
    """Judge the frames of an uplink again, and note it before and after."""
    mine = Reverification.objects.filter(pk=request.pk)
    if request.tries < settings.UPLINK_SPLIT_AFTER:
        mine.update(tries=F("tries") + 1)
        try:
            reverification.verify_again(uplink_id, kinds=kinds, worker=worker)
        except TransientError:
            mine.update(tries=request.tries)
            raise
        except Exception:
            logger.exception("frames of uplink %s that wait could not be judged again", uplink_id)
    else:
        logger.error("uplink %s is passed over: judging its waiting frames again came to no end", uplink_id)
    request.position, request.tries = uplink_id, 0
    mine.update(position=uplink_id, tries=0)


@contextmanager
def _alone() -> Iterator[bool]:
    """Take the turn, and return whether no other worker has it; a connection that breaks releases it."""
    ours = bool(fetch_rows("SELECT pg_try_advisory_lock(%s)", _LOCK)[0][0])
    try:
        yield ours
    finally:
        if ours:
            fetch_rows("SELECT pg_advisory_unlock(%s)", _LOCK)
