"""Verifying an uplink: one transaction, tried again where another came between, split where it keeps failing."""

import gc
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import NamedTuple

from django.conf import settings
from django.db import InterfaceError, OperationalError, transaction
from django.db.models import F
from django.utils import timezone
from psycopg.errors import DeadlockDetected, UniqueViolation
from psycopg.types.json import Jsonb

from concentrators import integrity, totals
from concentrators.assigned import assigned_meters
from concentrators.integrity import Failure
from concentrators.judging import Delivery, Frames, Verdicts, judge
from concentrators.models import Uplink
from concentrators.verdicts import FailureKind
from keyvault import journal
from keyvault.cose.structures import MalformedError, parse_frame, split_sequence
from keyvault.journal import NotReplayedError
from keyvault.masterkey import MasterKeyError
from keyvault.opening import ContendedError
from keyvault.sql import execute, fetch_rows

logger = logging.getLogger(__name__)

TRIES = 6  # the first optimistic, the others under lock; each loses only to a transaction that won
TRANSIENT = (OperationalError, InterfaceError, MasterKeyError)
_RETRY_S = 20  # after a failed attempt, doubled each time


class TransientError(Exception):
    """Verification cannot go on now, through no fault of the uplink: try again later."""


def verify(uplink_id: int) -> Verdicts | None:
    """Verify one uplink; None where another worker has it, or had it.

    Raises TransientError where database or master key do not answer. Any other failure is counted
    on the uplink; after UPLINK_SPLIT_AFTER of them it is split, and the frame at fault parked.
    """
    for attempt in range(TRIES):
        try:
            with no_collection(), transaction.atomic():
                return _verify(uplink_id, careful=attempt > 0)
        except Exception as error:
            reason = error
            if came_between(error):
                continue
            if isinstance(error, TRANSIENT):
                logger.warning("uplink %s is tried again later: %s", uplink_id, str(error).partition("\n")[0])
                raise TransientError(f"uplink {uplink_id}: {error}") from error
            logger.exception("uplink %s failed to verify", uplink_id)
            break
    _note_failure(uplink_id, reason)
    return None


@contextmanager
def no_collection() -> Iterator[None]:
    """Hold back the cycle collector: a batch makes many objects, none in cycles, and it would look through them all."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


class _Posted(NamedTuple):
    """An unverified uplink, locked."""

    delivery: Delivery
    body: bytes
    attempts: int


def _verify(uplink_id: int, *, careful: bool) -> Verdicts | None:
    posted = _lock(uplink_id)
    if posted is None:
        return None
    frames = list(enumerate(split_sequence(posted.body)))
    if posted.attempts < settings.UPLINK_SPLIT_AFTER:
        verdicts = judge(posted.delivery, frames, careful=careful)
    else:
        verdicts = judge_by_halves(posted.delivery, frames)
    _finish(posted.delivery, verdicts)
    return verdicts


def judge_by_halves(delivery: Delivery, frames: Frames) -> Verdicts:
    """Judge what can be judged, and park the frame that makes it fail: halves, in savepoints, down to one frame."""
    try:
        with transaction.atomic():
            return judge(delivery, frames, careful=True)
    except Exception as error:
        if came_between(error) or isinstance(error, TRANSIENT):
            raise
        if len(frames) == 1:
            return _park(delivery, frames[0], error)
        middle = len(frames) // 2
    verdicts = judge_by_halves(delivery, frames[:middle])
    verdicts.add(judge_by_halves(delivery, frames[middle:]))
    return verdicts


def came_between(error: Exception) -> bool:
    """Whether another transaction won: counters, a key or a value moved since this one looked."""
    return isinstance(error, ContendedError) or isinstance(error.__cause__, UniqueViolation | DeadlockDetected)


def _park(delivery: Delivery, frame: tuple[int, bytes], error: Exception) -> Verdicts:
    logger.error("uplink %s: frame %s is parked: %s", delivery.uplink_id, frame[0], type(error).__name__)
    detail = f"could not be processed: {type(error).__name__}"
    kid, counter = _claims(frame[1])
    meter = assigned_meters({kid[:8]}).get(kid[:8]) if kid else None
    failure = Failure(frame[0], frame[1], FailureKind.PARKED, detail, kid, counter, meter.id if meter else None)
    integrity.record([failure], delivery.uplink_id, delivery.concentrator_id, delivery.received_at)
    verdicts = Verdicts()
    verdicts.failures[FailureKind.PARKED] += 1
    return verdicts


def _claims(octets: bytes) -> tuple[bytes, int] | tuple[None, None]:
    """The kid and counter that a frame claims, where it is one."""
    try:
        frame = parse_frame(octets)
    except MalformedError:
        return None, None
    return frame.kid, frame.counter


def _lock(uplink_id: int) -> _Posted | None:
    """Lock an uplink that is to be verified, and assignments against change. NotReplayedError after a restore."""
    rows = fetch_rows(
        f"""SELECT concentrator_id, received_at, attempts, body, {journal.OPEN}, pg_advisory_xact_lock_shared(%s)
            FROM (SELECT * FROM concentrators_uplink
                  WHERE id = %s AND verified_at IS NULL FOR UPDATE SKIP LOCKED) AS u""",
        totals.LOCK,
        uplink_id,
    )
    if not rows:
        return None
    concentrator_id, received_at, attempts, body, is_open, _ = rows[0]
    if not is_open:
        raise NotReplayedError
    return _Posted(Delivery(uplink_id, concentrator_id, received_at, timezone.now()), body, attempts)


def _finish(delivery: Delivery, verdicts: Verdicts) -> None:
    execute(
        """UPDATE concentrators_uplink SET accepted = %s, duplicate = %s, rejected = %s, waiting = %s,
                  failures = %s, waiting_frames = %s, verified_at = clock_timestamp() WHERE id = %s""",
        verdicts.accepted,
        verdicts.duplicate,
        verdicts.rejected,
        verdicts.waiting,
        Jsonb(dict(verdicts.failures)),
        Jsonb(verdicts.waiting_frames) if verdicts.waiting_frames else None,
        delivery.uplink_id,
    )


def _note_failure(uplink_id: int, error: Exception) -> None:
    """Count a failed attempt, and let the sweep try again: later each time."""
    attempts = Uplink.objects.filter(pk=uplink_id).values_list("attempts", flat=True).first() or 0
    Uplink.objects.filter(pk=uplink_id, verified_at=None).update(
        attempts=F("attempts") + 1,
        due_at=timezone.now() + timedelta(seconds=_RETRY_S * 2 ** min(attempts, 8)),
        last_error=type(error).__name__,
    )
