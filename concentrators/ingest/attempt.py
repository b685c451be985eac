"""One transaction, tried again where another came between: the one loop of all that judges frames."""

from collections.abc import Callable
from typing import TypeVar

from django.db import transaction
from psycopg.errors import DeadlockDetected, UniqueViolation

from ami_headend.core.database_errors import trouble_of, would_come_with_any_values
from keyvault.counted_keys import ContendedError
from keyvault.master_key import MasterKeyError
from keyvault.replay_window_store import Care

TRIES = 6  # the first ones optimistic, the others under lock; each loses only to a transaction that won
_LOOKS = 100  # lots; where each has something unforeseen in it, one in a hundred is judged twice
_T = TypeVar("_T")


class TransientError(Exception):
    """Judging cannot go on now, through no fault of the frames: try again later. Its cause says why."""

    @property
    def says_nothing_of_frames(self) -> bool:
        """Whether it would come with any frames, as things stand; otherwise the frames may be what the database dies
        of, or takes too long over.
        """
        return _would_come_with_any_frames(self.__cause__)


class ContentionError(TransientError):
    """Other transactions came between at every try. No frame is ever parked for it."""

    @property
    def says_nothing_of_frames(self) -> bool:
        return True


class Foresight:
    """Whether a worker takes what frames foresee for true. Where that failed, it looks first for some lots."""

    def __init__(self) -> None:
        self._looks = 0

    def care(self) -> Care:
        if not self._looks:
            return Care.TRUST
        self._looks -= 1
        return Care.LOOK

    def failed(self) -> None:
        self._looks = _LOOKS


def attempt(what: str, work: Callable[[Care], _T], first: Care, foresight: Foresight | None = None) -> _T:
    """Do ``work`` in a transaction of its own, with more care each time that another came between.

    Raises ContentionError where others did TRIES times, TransientError where the database or the master key are not
    as they ought to be. Whatever else ``work`` raises is the fault of its frames, or of ours; nothing is stored then.
    """
    care = first
    cause: Exception | None = None
    for _ in range(TRIES):
        try:
            with transaction.atomic():
                return work(care)
        except Exception as error:
            if came_between(error):
                cause, care = error, _more_careful(care, error, foresight)
            elif is_transient(error):
                raise TransientError(f"{what}: {error}") from error
            else:
                raise
    raise ContentionError(f"{what}: others came between {TRIES} times") from cause


def _more_careful(care: Care, error: Exception, foresight: Foresight | None) -> Care:
    if care is Care.TRUST and isinstance(error, ContendedError):
        if foresight is not None:
            foresight.failed()
        return Care.LOOK
    return Care.LOCK


def came_between(error: Exception) -> bool:
    """Whether another transaction won: counters, a key or a value moved since this one looked."""
    return isinstance(error, ContendedError) or isinstance(error.__cause__, UniqueViolation | DeadlockDetected)


def is_transient(error: Exception) -> bool:
    """Whether to try again later, as often as it takes: the database, or the master key, is not as it ought to be."""
    return trouble_of(error) is not None or _would_come_with_any_frames(error)


def _would_come_with_any_frames(error: BaseException | None) -> bool:
    return isinstance(error, MasterKeyError) or would_come_with_any_values(error)
