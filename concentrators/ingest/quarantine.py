"""Quarantine: an uplink that failed often, or killed workers, is judged in pieces, and frames at fault are parked.

A frame may kill the worker, or the process of the database, at every try, without any exception. So each piece is noted
before it is tried, in its own transaction, and the next try knows which piece the last one did not survive. Such a
piece is divided into frames; a frame that kills UPLINK_SPLIT_AFTER tries is parked for good. If there is an exception,
the piece is halved down to the frame at fault, which is parked until the fault is repaired. Finished pieces stay done;
their verdicts are added up, and the uplink gets them at the end.

``uplink_state.take`` decides which uplinks come here. ``reverification`` judges parked frames again.
"""

import logging
from collections import Counter
from dataclasses import asdict, dataclass, field

from django.conf import settings
from django.db import DatabaseError, transaction

from concentrators.failures import record
from concentrators.failures.kinds import FailureKind
from concentrators.ingest import uplink_state
from concentrators.ingest.decisions import Failure, Verdicts
from concentrators.ingest.facts import Delivery, Frames
from concentrators.ingest.transaction_retry import TransientError, attempt, came_between, is_transient
from concentrators.ingest.uplink_state import Posted
from concentrators.ingest.worker import PROCESS, Worker
from keyvault.cose.structures import MalformedError
from keyvault.enrolment.frames import parse_enrolment
from keyvault.replay_window_store import Care
from keyvault.schemes.table import parse_frame

logger = logging.getLogger(__name__)

PIECE_FRAMES = 64


@dataclass
class Progress:
    """The progress of an uplink: frames before ``done`` have verdicts; ``tries`` of the present piece did not end.

    Frames before ``apart`` are tried one by one.
    """

    done: int = 0
    apart: int = 0
    tries: int = 0
    accepted: int = 0
    duplicate: int = 0
    failures: dict[str, int] = field(default_factory=dict)
    waiting_frames: dict[str, list[int]] = field(default_factory=dict)
    error: str = "the worker ended"

    @property
    def frames(self) -> int:
        """Return the number of frames in the present piece."""
        return 1 if self.done < self.apart else PIECE_FRAMES

    def add(self, verdicts: Verdicts, frames: int) -> None:
        """Add the verdicts of a piece."""
        total = self.verdicts()
        total.add(verdicts)
        self.accepted, self.duplicate = total.accepted, total.duplicate
        self.failures = {kind.value: number for kind, number in total.failures.items()}
        self.waiting_frames = {kind.value: indexes for kind, indexes in total.waiting_frames.items()}
        self.done, self.tries = self.done + frames, 0

    def verdicts(self) -> Verdicts:
        failures = Counter({FailureKind(kind): number for kind, number in self.failures.items()})
        waiting = {FailureKind(kind): list(indexes) for kind, indexes in self.waiting_frames.items()}
        return Verdicts(self.accepted, self.duplicate, failures, waiting)


def verify(uplink_id: int, worker: Worker = PROCESS) -> Verdicts | None:
    """Continue with an uplink, to its end; None if another worker has it, or it has its verdicts.

    TransientError if the database or the master key has a problem, or other transactions interfered with every try: the
    next call continues. The try counts only if its frames may be the cause.
    """
    while True:
        with transaction.atomic():
            posted = _taken(uplink_id)
            if posted is None:
                return None
            verdicts = _note_next_try(posted, worker)
        if verdicts is not None:
            return verdicts
        _try(uplink_id, worker)


def judge_apart(worker: Worker, delivery: Delivery, frames: Frames) -> Verdicts:
    """Judge frames, in halves and savepoints down to one frame if they fail, and park the frame at fault."""
    try:
        with transaction.atomic():
            return worker.judge([(delivery, frames)], Care.LOCK)[0]
    except Exception as error:
        if came_between(error) or is_transient(error):
            raise
        if len(frames) == 1:
            return _park(worker, delivery, frames[0], type(error).__name__)
        logger.exception("%d frames of uplink %s failed; they are halved", len(frames), delivery.uplink_id)
    middle = len(frames) // 2
    verdicts = judge_apart(worker, delivery, frames[:middle])
    verdicts.add(judge_apart(worker, delivery, frames[middle:]))
    return verdicts


def _note_next_try(posted: Posted, worker: Worker) -> Verdicts | None:
    """Note that the next piece is about to be tried; if none is left, the uplink gets its verdicts."""
    uplink_id = posted.delivery.uplink_id
    progress = _progress(uplink_id)
    if progress.tries and progress.frames > 1:
        progress.apart, progress.tries = progress.done + progress.frames, 0
    elif progress.tries and progress.tries >= settings.UPLINK_SPLIT_AFTER:
        parked = _park(worker, posted.delivery, posted.frames[progress.done], progress.error)
        parked.waiting_frames.clear()  # another try may not survive it
        progress.add(parked, 1)
    if progress.done >= len(posted.frames):
        uplink_state.finish({uplink_id: progress.verdicts()})
        return progress.verdicts()
    progress.tries += 1
    uplink_state.save_progress(uplink_id, asdict(progress))
    return None


def _try(uplink_id: int, worker: Worker) -> None:
    """Judge the piece that was noted."""

    def work(care: Care) -> None:
        posted = _taken(uplink_id)
        if posted is None:
            return
        progress = _progress(uplink_id)
        piece = posted.frames[progress.done : progress.done + progress.frames]
        progress.add(judge_apart(worker, posted.delivery, piece), len(piece))
        uplink_state.save_progress(uplink_id, asdict(progress))

    try:
        attempt(f"uplink {uplink_id}", work, Care.LOCK)
    except TransientError as error:
        _note_trouble(uplink_id, error)
        raise


def _note_trouble(uplink_id: int, error: TransientError) -> None:
    """Undo the count of the try if its frames did not cause the trouble; else note the trouble."""
    try:
        with transaction.atomic():
            if _taken(uplink_id) is None:
                return
            progress = _progress(uplink_id)
            if error.says_nothing_of_frames:
                progress.tries = max(0, progress.tries - 1)
            else:
                progress.error = type(error.__cause__).__name__
            uplink_state.save_progress(uplink_id, asdict(progress))
    except DatabaseError as unnoted:
        logger.warning("uplink %s: a try that came to nothing counts, as it was not noted: %s", uplink_id, unnoted)


def _taken(uplink_id: int) -> Posted | None:
    return next(iter(uplink_state.take([uplink_id])), None)


def _progress(uplink_id: int) -> Progress:
    return Progress(**uplink_state.progress(uplink_id))


def _park(worker: Worker, delivery: Delivery, frame: tuple[int, bytes], error: str) -> Verdicts:
    """Park a frame that cannot be processed: it is rejected with its evidence and the name of the error.

    It waits until the fault is repaired, unless it is no frame at all.
    """
    index, octets = frame
    logger.error("uplink %s: frame %s is parked: %s", delivery.uplink_id, index, error)
    kid, counter = _claims(octets)
    meter = worker.meters.read({kid[:8]}).get(kid[:8]) if kid else None
    if delivery.waited.get(index) != FailureKind.PARKED:
        detail = f"could not be processed: {error}"
        failure = Failure(index, octets, FailureKind.PARKED, detail, kid, counter, meter.id if meter else None)
        record.record([failure], delivery.uplink_id, delivery.concentrator_id, delivery.received_at)
    verdicts = Verdicts()
    verdicts.failures[FailureKind.PARKED] += 1
    if kid is not None:
        verdicts.waiting_frames[FailureKind.PARKED] = [index]
    return verdicts


def _claims(octets: bytes) -> tuple[bytes, int] | tuple[None, None]:
    """Return the kid and counter that a frame claims, if it is one."""
    try:
        enrolment = parse_enrolment(octets)
        frame = parse_frame(octets) if enrolment is None else enrolment.frame
    except MalformedError:
        return None, None
    return frame.kid, frame.counter
