"""Verifying an uplink piece by piece, where work on it as a whole never came to an end.

A frame may kill the worker, or the database's process, at every try: no exception tells then. So each piece is
noted before it is tried, in a transaction of its own, and the next try knows what the last one did not survive. A
piece that fails is taken apart into frames, and a frame that fails UPLINK_SPLIT_AFTER times is parked. What the pieces
did stands; the verdicts are added up on the way, and the uplink gets them at its end.
"""

import logging
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from django.conf import settings
from django.db import transaction

from concentrators.failures.kinds import FailureKind
from concentrators.ingest.judging import Verdicts, judge
from concentrators.ingest.verification import (
    TRIES,
    Posted,
    TransientError,
    came_between,
    finish,
    lock,
    park,
    says_nothing_of_frames,
)
from concentrators.models import Uplink
from keyvault.replay_window_store import Care

logger = logging.getLogger(__name__)

PIECE_FRAMES = 64


@dataclass
class Progress:
    """How far an uplink is: frames before ``done`` have their verdicts. ``tries`` of the piece at hand did not end.

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
        """How many frames the piece at hand has."""
        return 1 if self.done < self.apart else PIECE_FRAMES

    def add(self, verdicts: Verdicts, frames: int) -> None:
        """A piece has its verdicts."""
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


def is_due(uplink_id: int) -> bool:
    """Whether work on an uplink as a whole has begun, and come to nothing, so often that it is taken apart."""
    return Uplink.objects.filter(pk=uplink_id, begun__gt=settings.UPLINK_SPLIT_AFTER).exists()


def verify(uplink_id: int) -> None:
    """Go on with an uplink, to its end; nothing where another worker has it.

    Raises TransientError for what says nothing of the frames, and OperationalError where the database does not answer.
    """
    while _note_try(uplink_id):
        _try(uplink_id)


def _note_try(uplink_id: int) -> bool:
    """Note that the next piece is about to be tried; False where none is left: then the uplink has its verdicts."""
    with transaction.atomic():
        posted = _locked(uplink_id)
        if posted is None:
            return False
        progress = _progress(uplink_id)
        if progress.tries and progress.frames > 1:
            progress.apart, progress.tries = progress.done + progress.frames, 0
        elif progress.tries >= settings.UPLINK_SPLIT_AFTER:
            parked = park(posted.delivery, posted.frames[progress.done], progress.error)
            parked.waiting_frames.clear()  # whoever judges it again may not survive it
            progress.add(parked, 1)
        if progress.done >= len(posted.frames):
            finish({uplink_id: progress.verdicts()})
            Uplink.objects.filter(pk=uplink_id).update(progress=None)
            return False
        progress.tries += 1
        _save(uplink_id, progress)
    return True


def _try(uplink_id: int) -> None:
    """Judge the piece that was noted; what goes wrong with it is noted, too, where something is left to note it."""
    for _ in range(TRIES):
        try:
            with transaction.atomic():
                posted = _locked(uplink_id)
                if posted is None:
                    return
                progress = _progress(uplink_id)
                piece = posted.frames[progress.done : progress.done + progress.frames]
                progress.add(judge([(posted.delivery, piece)], Care.LOCK)[0], len(piece))
                _save(uplink_id, progress)
                return
        except Exception as error:
            if came_between(error):
                continue
            if says_nothing_of_frames(error):
                _take_back(uplink_id)
                raise TransientError(f"uplink {uplink_id}: {error}") from error
            logger.exception("a piece of uplink %s failed to verify", uplink_id)
            _note_error(uplink_id, type(error).__name__)
            return


def _locked(uplink_id: int) -> Posted | None:
    return next(iter(lock([uplink_id])), None)


def _progress(uplink_id: int) -> Progress:
    kept: dict[str, Any] | None = Uplink.objects.values_list("progress", flat=True).get(pk=uplink_id)
    return Progress(**kept or {})


def _save(uplink_id: int, progress: Progress) -> None:
    Uplink.objects.filter(pk=uplink_id).update(progress=asdict(progress))


def _take_back(uplink_id: int) -> None:
    with transaction.atomic():
        Uplink.objects.select_for_update().get(pk=uplink_id)
        progress = _progress(uplink_id)
        progress.tries = max(0, progress.tries - 1)
        _save(uplink_id, progress)


def _note_error(uplink_id: int, error: str) -> None:
    with transaction.atomic():
        Uplink.objects.select_for_update().get(pk=uplink_id)
        progress = _progress(uplink_id)
        progress.error = error
        _save(uplink_id, progress)
