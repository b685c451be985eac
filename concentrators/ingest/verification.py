"""Verifying uplinks: one transaction, tried again where another came between, split where it keeps failing."""

import logging
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import NamedTuple

from django.conf import settings
from django.db import transaction
from django.db.models import F
from django.utils import timezone
from psycopg.errors import DeadlockDetected, UniqueViolation
from psycopg.types.json import Jsonb

from ami_headend.core.database_errors import trouble_of, would_come_with_any_values
from ami_headend.core.sql import execute, fetch_rows, int_array
from concentrators.failures import record
from concentrators.failures.kinds import FailureKind
from concentrators.failures.record import Failure
from concentrators.ingest import uplink_state
from concentrators.ingest.assigned import assigned_meters
from concentrators.ingest.judging import Delivery, Verdicts, judge
from concentrators.models import Uplink
from concentrators.totals import totals
from keyvault import journal
from keyvault.cose.structures import MalformedError, split_sequence
from keyvault.journal import NotReplayedError
from keyvault.master_key import MasterKeyError
from keyvault.opening import Frames
from keyvault.replay_window_store import Care, ContendedError
from keyvault.schemes.table import parse_frame

logger = logging.getLogger(__name__)

TRIES = 6  # the first ones optimistic, the others under lock; each loses only to a transaction that won
_LOOKS = 100  # lots; where each has something unforeseen in it, one in a hundred is judged twice


class TransientError(Exception):
    """Verification cannot go on now, through no fault of the uplink: try again later."""


def verify(uplink_id: int) -> Verdicts | None:
    """Verify one uplink; None where another worker has it, or had it, and where it failed. See ``verify_together``."""
    return verify_together([uplink_id]).get(uplink_id)


def verify_together(uplink_ids: Sequence[int]) -> dict[int, Verdicts]:
    """Verify uplinks in one transaction; those that another worker has, or had, are left out.

    Raises TransientError where database or master key are not as they ought to be. Where it fails otherwise, each is
    verified alone, and the failure counted on the uplink that still fails; after UPLINK_SPLIT_AFTER of
    them it is split, and the frame at fault parked.
    """
    care = _foresight.care()
    for _ in range(TRIES):
        try:
            with transaction.atomic():
                return _verify(uplink_ids, care)
        except Exception as error:
            reason = error
            if came_between(error):
                wrongly_trusted = care is Care.TRUST and isinstance(error, ContendedError)
                care = _foresight.failed() if wrongly_trusted else Care.LOCK
                continue
            if is_transient(error):
                logger.warning("uplinks %s are tried again later: %s", uplink_ids, str(error).partition("\n")[0])
                raise TransientError(f"uplinks {uplink_ids}: {error}") from error
            logger.exception("uplinks %s failed to verify", uplink_ids)
            break
    if len(uplink_ids) > 1:
        return {uplink_id: verdicts for one in uplink_ids for uplink_id, verdicts in verify_together([one]).items()}
    _note_failure(uplink_ids[0], reason)
    return {}


class _Foresight:
    """Whether this process takes what frames foresee for true. Where that failed, it looks first for some lots."""

    def __init__(self) -> None:
        self._looks = 0

    def care(self) -> Care:
        if not self._looks:
            return Care.TRUST
        self._looks -= 1
        return Care.LOOK

    def failed(self) -> Care:
        self._looks = _LOOKS
        return Care.LOOK


_foresight = _Foresight()


class Posted(NamedTuple):
    """An unverified uplink, locked."""

    delivery: Delivery
    frames: Frames
    attempts: int


def _verify(uplink_ids: Sequence[int], care: Care) -> dict[int, Verdicts]:
    posted = lock(uplink_ids)
    if not posted:
        return {}
    if len(posted) == 1 and posted[0].attempts >= settings.UPLINK_SPLIT_AFTER:
        verdicts = [judge_by_halves(posted[0].delivery, posted[0].frames)]
    else:
        verdicts = judge([(one.delivery, one.frames) for one in posted], care)
    by_uplink = dict(zip([one.delivery.uplink_id for one in posted], verdicts, strict=True))
    finish(by_uplink)
    return by_uplink


def judge_by_halves(delivery: Delivery, frames: Frames) -> Verdicts:
    """Judge what can be judged, and park the frame that makes it fail: halves, in savepoints, down to one frame."""
    try:
        with transaction.atomic():
            return judge([(delivery, frames)], Care.LOCK)[0]
    except Exception as error:
        if came_between(error) or is_transient(error):
            raise
        if len(frames) == 1:
            return park(delivery, frames[0], type(error).__name__)
        middle = len(frames) // 2
    verdicts = judge_by_halves(delivery, frames[:middle])
    verdicts.add(judge_by_halves(delivery, frames[middle:]))
    return verdicts


def came_between(error: Exception) -> bool:
    """Whether another transaction won: counters, a key or a value moved since this one looked."""
    return isinstance(error, ContendedError) or isinstance(error.__cause__, UniqueViolation | DeadlockDetected)


def is_transient(error: Exception) -> bool:
    """Whether to try again later, as often as it takes: the database, or the master key, is not as it ought to be."""
    return trouble_of(error) is not None or says_nothing_of_frames(error)


def says_nothing_of_frames(error: BaseException | None) -> bool:
    """Whether an error would come with any frames, as things stand: none is parked for it, however often it comes."""
    if isinstance(error, MasterKeyError):
        return True
    return would_come_with_any_values(error)


def park(delivery: Delivery, frame: tuple[int, bytes], error: str) -> Verdicts:
    """Give up a frame that cannot be processed: refused as ``parked``, with its evidence and the name of the error.

    It waits until the fault is mended, unless it is no frame at all.
    """
    logger.error("uplink %s: frame %s is parked: %s", delivery.uplink_id, frame[0], error)
    detail = f"could not be processed: {error}"
    kid, counter = _claims(frame[1])
    meter = assigned_meters({kid[:8]}).get(kid[:8]) if kid else None
    if delivery.waited.get(frame[0]) != FailureKind.PARKED:
        failure = Failure(frame[0], frame[1], FailureKind.PARKED, detail, kid, counter, meter.id if meter else None)
        record.record([failure], delivery.uplink_id, delivery.concentrator_id, delivery.received_at)
    verdicts = Verdicts()
    verdicts.failures[FailureKind.PARKED] += 1
    if kid is not None:
        verdicts.waiting_frames[FailureKind.PARKED] = [frame[0]]
    return verdicts


def _claims(octets: bytes) -> tuple[bytes, int] | tuple[None, None]:
    """The kid and counter that a frame claims, where it is one."""
    try:
        frame = parse_frame(octets)
    except MalformedError:
        return None, None
    return frame.kid, frame.counter


def lock(uplink_ids: Sequence[int]) -> list[Posted]:
    """Lock those uplinks that are to be verified, oldest first, and assignments against change.

    NotReplayedError after a restore.
    """
    rows = fetch_rows(
        f"""SELECT id, concentrator_id, received_at, attempts, body, {journal.OPEN}, corrected_at,
                   pg_advisory_xact_lock_shared(%s)
            FROM (SELECT * FROM concentrators_uplink
                  WHERE id = ANY(%s::bigint[]) AND verified_at IS NULL ORDER BY id FOR UPDATE SKIP LOCKED) AS u""",
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
            attempts,
        )
        for uplink_id, concentrator_id, received_at, attempts, body, _, corrected_at, _ in rows
    ]


def finish(verdicts: Mapping[int, Verdicts]) -> None:
    """Write the verdicts of uplinks, by their ids, to their rows."""
    each = verdicts.values()
    execute(
        """UPDATE concentrators_uplink u SET accepted = n.accepted, duplicate = n.duplicate, rejected = n.rejected,
                  waiting = n.waiting, failures = n.failures, waiting_frames = n.waiting_frames,
                  verified_at = clock_timestamp()
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


def _note_failure(uplink_id: int, error: Exception) -> None:
    """Count a failed attempt, and let the sweep try again: later each time."""
    attempts = Uplink.objects.filter(pk=uplink_id).values_list("attempts", flat=True).first() or 0
    Uplink.objects.filter(pk=uplink_id, verified_at=None).update(
        attempts=F("attempts") + 1,
        due_at=timezone.now()
        + timedelta(seconds=uplink_state.RETRY_S * 2 ** min(attempts, uplink_state.RETRY_DOUBLINGS)),
        last_error=type(error).__name__,
    )
