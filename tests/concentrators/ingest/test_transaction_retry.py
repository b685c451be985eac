"""The one loop: how it answers those that come between, a database that is away, and everything else."""

from collections.abc import Callable

import pytest
from django.db import DatabaseError, IntegrityError, OperationalError, connection
from psycopg.errors import DeadlockDetected, DiskFull, QueryCanceled, UniqueViolation
from pytest_django import Settings

from concentrators.ingest import quarantine, uplink_state, verification
from concentrators.ingest.transaction_retry import TRIES, ContentionError, Foresight, TransientError, attempt
from concentrators.ingest.worker import PROCESS, Worker
from concentrators.models import Concentrator, IntegrityFailure, Uplink
from keyvault.counted_keys import ContendedError
from keyvault.master_key import MasterKeyError
from keyvault.replay_window_store import Care
from tests.concentrators.fleet import commission, outcome, post

pytestmark = pytest.mark.django_db


def django_error(kind: type[DatabaseError], cause: Exception) -> DatabaseError:
    error = kind(str(cause))
    error.__cause__ = cause
    return error


def failing(errors: list[Exception], cares: list[Care]) -> Callable[[Care], str]:
    """Work that fails with each of the errors in turn, and then is done."""
    left = iter(errors)

    def work(care: Care) -> str:
        cares.append(care)
        assert connection.in_atomic_block
        for error in left:
            raise error
        return "done"

    return work


COLLISIONS = [
    ContendedError("moved"),
    django_error(IntegrityError, UniqueViolation()),
    django_error(OperationalError, DeadlockDetected()),
]


@pytest.mark.parametrize("error", COLLISIONS, ids=lambda error: type(error.__cause__ or error).__name__)
def test_who_lost_tries_again_under_locks(error: Exception) -> None:
    cares: list[Care] = []
    assert attempt("it", failing([error] * 2, cares), Care.LOOK) == "done"
    assert cares == [Care.LOOK, Care.LOCK, Care.LOCK]


def test_what_was_trusted_in_vain_is_looked_at_first_and_for_some_time() -> None:
    cares: list[Care] = []
    foresight = Foresight()
    work = failing([ContendedError("not foreseen")] * 2, cares)
    assert attempt("it", work, foresight.care(), foresight) == "done"
    assert cares == [Care.TRUST, Care.LOOK, Care.LOCK]
    assert foresight.care() is Care.LOOK


def test_a_value_that_stands_is_no_reason_to_doubt_what_frames_foresee() -> None:
    cares: list[Care] = []
    foresight = Foresight()
    attempt("it", failing([COLLISIONS[1]], cares), foresight.care(), foresight)
    assert cares == [Care.TRUST, Care.LOCK]
    assert foresight.care() is Care.TRUST


@pytest.mark.parametrize("error", COLLISIONS, ids=lambda error: type(error.__cause__ or error).__name__)
def test_who_loses_every_time_goes_away_and_it_says_nothing_of_the_frames(error: Exception) -> None:
    cares: list[Care] = []
    with pytest.raises(ContentionError, match="came between") as raised:
        attempt("it", failing([error] * TRIES, cares), Care.LOOK)
    assert len(cares) == TRIES
    assert raised.value.says_nothing_of_frames


@pytest.mark.parametrize(
    ("error", "says_nothing"),
    [
        (MasterKeyError("the token is gone"), True),
        (django_error(OperationalError, DiskFull()), True),
        (django_error(OperationalError, QueryCanceled()), False),  # the values may be why it took so long
        (OperationalError("the connection is closed"), False),  # they may be what the database died of
    ],
    ids=["master key", "disk full", "statement timeout", "connection lost"],
)
def test_what_passes_by_itself_is_told_from_what_the_frames_may_have_done(error: Exception, says_nothing: bool) -> None:
    cares: list[Care] = []
    with pytest.raises(TransientError) as raised:
        attempt("it", failing([error], cares), Care.LOOK)
    assert len(cares) == 1
    assert raised.value.says_nothing_of_frames is says_nothing
    assert raised.value.__cause__ is error


def test_anything_else_is_raised_as_it_is() -> None:
    with pytest.raises(ZeroDivisionError):
        attempt("it", lambda _: 1 // 0, Care.LOOK)


class TestContentionParksNothing:
    """Whoever loses every race has a good frame all the same."""

    @pytest.fixture
    def uplink(self, concentrator: Concentrator) -> Uplink:
        return post(concentrator, [device.frame(0) for device in commission(2, concentrator)])

    @pytest.fixture
    def crowded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def lose(*_: object) -> None:
            raise ContendedError("moved")

        monkeypatch.setattr(Worker, "judge", lose)

    def test_in_verification_it_is_put_off_and_quarantine_parks_nothing(
        self, uplink: Uplink, crowded: None, monkeypatch: pytest.MonkeyPatch, settings: Settings
    ) -> None:
        for attempts in range(1, settings.UPLINK_SPLIT_AFTER + 1):
            assert verification.verify(uplink.pk) is None
            uplink.refresh_from_db()
            assert (uplink.attempts, uplink.last_error) == (attempts, "ContentionError")
        for _ in range(8):
            with pytest.raises(ContentionError):
                verification.verify(uplink.pk)
        assert not IntegrityFailure.objects.exists()
        monkeypatch.undo()
        verification.verify(uplink.pk)
        uplink.refresh_from_db()
        assert outcome(uplink) == {"accepted": 2}

    def test_in_quarantine_the_try_does_not_count(self, uplink: Uplink, crowded: None) -> None:
        for _ in range(8):
            with pytest.raises(ContentionError):
                quarantine.verify(uplink.pk)
        assert uplink_state.progress(uplink.pk)["tries"] == 0
        assert not IntegrityFailure.objects.exists()


def test_another_worker_knows_nothing_of_what_this_one_keeps(concentrator: Concentrator) -> None:
    (device,) = commission(1, concentrator)
    assert verification.verify(post(concentrator, [device.frame(0)]).pk) is not None
    assert device.title in PROCESS.meters
    other = Worker()
    assert device.title not in other.meters
    assert verification.verify(post(concentrator, [device.frame(1)]).pk, other) is not None
    assert device.title in other.meters
