"""The retry loop of verification: one transaction, repeated at once if another one interfered.

All verification uses it. When an uplink whose verification failed is tried again is decided in ``uplink_state``.
"""

from collections.abc import Callable
from typing import TypeVar

from django.db import transaction
from psycopg.errors import DeadlockDetected, UniqueViolation

from ami_headend.core.database_errors import trouble_of, would_come_with_any_values
from keyvault.counted_keys import ContendedError
from keyvault.master_key import MasterKeyError
from keyvault.replay_window_store import Care

TRIES = 6  # the first ones are optimistic, the others take locks; each loses only to a transaction that committed
_LOOKS = 100  # lots; if each has something unforeseen, one in a hundred is judged twice
_T = TypeVar("_T")


class TransientError(Exception):
    """Verification cannot continue now, through no fault of the frames: try again later. Its cause says why."""

    @property
    def says_nothing_of_frames(self) -> bool:
        """Whether any frames would cause it now; otherwise these frames may be what ends the database, or takes too
        long.
        """
        return _would_come_with_any_frames(self.__cause__)


class ContentionError(TransientError):
    """Other transactions interfered with every try. No frame is ever parked for that."""

    @property
    def says_nothing_of_frames(self) -> bool:
        return True


class Foresight:
    """Whether a worker trusts the counters that frames foresee; after a failure it reads them first for some lots."""

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
    """Do ``work`` in its own transaction, with more care each time that another one interfered.

    ContentionError if that happened TRIES times; TransientError if the database or the master key has a problem. Any
    other exception of ``work`` is the fault of its frames, or of the head-end; then nothing is stored.
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
    """Return whether another transaction won: counters, a key or a value changed since this one read them."""
    return isinstance(error, ContendedError) or isinstance(error.__cause__, UniqueViolation | DeadlockDetected)


def is_transient(error: Exception) -> bool:
    """Return whether to try again later, as often as necessary: the database or the master key has a problem."""
    return trouble_of(error) is not None or _would_come_with_any_frames(error)


def _would_come_with_any_frames(error: BaseException | None) -> bool:
    return isinstance(error, MasterKeyError) or would_come_with_any_values(error)
