"""Uplinks at which workers die: begun so often, then verified piece by piece, and the frame at fault parked."""

from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta

import pytest
from django.db import InternalError, OperationalError, ProgrammingError
from psycopg.errors import DiskFull, LockNotAvailable, ReadOnlySqlTransaction, UndefinedColumn
from pytest_django import Settings

from concentrators import tasks
from concentrators.ingest import dispatch, quarantine, uplink_state
from concentrators.ingest.transaction_retry import TransientError
from concentrators.ingest.worker import Worker
from concentrators.models import Concentrator, IntegrityFailure, Uplink
from keyvault.master_key import MasterKeyError
from meters.contents.plain import PlainReader
from tests.concentrators.fleet import Device, commission, evidence, outcome, post, readings_of, usual

pytestmark = pytest.mark.django_db
POISON = usual(47, 4711)
Deadly = Callable[[BaseException], None]


@pytest.fixture
def deadly(monkeypatch: pytest.MonkeyPatch) -> Deadly:
    """Lets whoever reads POISON end with an error; SystemExit is a worker that dies."""
    read = PlainReader.read

    def arm(error: BaseException) -> None:
        def die(reader: PlainReader, payload: bytes, *args: object) -> object:
            if payload == POISON:
                raise error
            return read(reader, payload, *args)  # type: ignore[arg-type]

        monkeypatch.setattr(PlainReader, "read", die)

    return arm


def poisoned(concentrator: Concentrator, frames: int = 150) -> tuple[Device, Uplink]:
    (device,) = commission(1, concentrator)
    octets = [device.frame(n % 40, counter=n, wh=n) if n < 40 else b"garbage %d" % n for n in range(frames)]
    octets[100] = device.seal(POISON, counter=100)
    return device, post(concentrator, octets)


def as_django_raises(wrapper: type[Exception], error: Exception) -> Exception:
    wrapped = wrapper(str(error))
    wrapped.__cause__ = error
    return wrapped


def work(uplink: Uplink) -> None:
    """The sweep claims it, and a worker begins: it may die."""
    uplink.refresh_from_db()
    if uplink.claims:
        assert uplink_state.claim_overdue(uplink.due_at) == [uplink.pk]
    with suppress(SystemExit, TransientError):
        dispatch.verify_backlog(uplink.pk)
    uplink.refresh_from_db()


@pytest.mark.parametrize("error", [SystemExit("killed"), OperationalError("terminated")], ids=["worker", "database"])
def test_the_frame_at_which_all_die_is_parked_and_all_others_are_judged(
    concentrator: Concentrator, deadly: Deadly, settings: Settings, error: BaseException
) -> None:
    device, uplink = poisoned(concentrator)
    deadly(error)
    work(uplink)
    assert (uplink.claims, uplink.begun, uplink.verified_at) == (0, 0, None)  # the usual way notes nothing
    assert uplink_state.claim_overdue(uplink.due_at) == [uplink.pk]
    for tries in range(20):
        work(uplink)
        if uplink.verified_at is not None:
            break
        assert uplink.begun == tries + 1
    assert outcome(uplink) == {"accepted": 40, "malformed": 109, "parked": 1}
    assert (uplink.progress, uplink.waiting) == (None, 0)  # nobody judges it again
    (parked,) = [row for row in evidence(uplink) if row.kind == "parked"]
    assert (parked.frame_index, parked.meter) == (100, device.meter)
    assert ("the worker ended" in parked.detail) is isinstance(error, SystemExit)
    assert readings_of(device) == {n: n for n in range(40)}
    assert IntegrityFailure.objects.count() == 110


def test_what_was_in_the_same_lot_is_verified_all_the_same(concentrator: Concentrator, deadly: Deadly) -> None:
    _, uplink = poisoned(concentrator)
    innocent = post(concentrator, [b"garbage"])
    deadly(SystemExit("killed"))
    work(uplink)
    assert set(uplink_state.claim_overdue(uplink.due_at + timedelta(seconds=1))) == {uplink.pk, innocent.pk}
    for _ in range(2):
        with suppress(SystemExit):
            dispatch.verify_backlog(innocent.pk)
    innocent.refresh_from_db()
    assert innocent.verified_at is not None


def test_an_honest_uplink_is_the_same_piece_by_piece(concentrator: Concentrator) -> None:
    (device,) = commission(1, concentrator)
    frames = [device.frame(n % 48, counter=n) for n in range(48)] + [b"garbage"] * 30
    uplink = post(concentrator, [*frames, frames[0]])
    quarantine.verify(uplink.pk)
    uplink.refresh_from_db()
    assert outcome(uplink) == {"accepted": 48, "duplicate": 1, "malformed": 30}
    assert len(readings_of(device)) == 48
    quarantine.verify(uplink.pk)  # it has its verdicts


@pytest.mark.parametrize(
    "error",
    [
        MasterKeyError("the token is gone"),
        as_django_raises(OperationalError, DiskFull("no space left on device")),
        as_django_raises(OperationalError, LockNotAvailable("canceling statement due to lock timeout")),
        as_django_raises(InternalError, ReadOnlySqlTransaction("cannot execute COPY FROM in a read-only transaction")),
        as_django_raises(ProgrammingError, UndefinedColumn("a release before or after the migration")),
    ],
    ids=lambda error: type(error.__cause__ or error).__name__,
)
def test_what_says_nothing_of_the_frames_counts_for_nothing(
    concentrator: Concentrator, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    _, uplink = poisoned(concentrator)
    uplink_state.claim_overdue(uplink.due_at)

    def gone(*args: object, **kwargs: object) -> None:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(Worker, "judge", gone)
        for _ in range(6):
            work(uplink)
        assert (uplink.begun, uplink.attempts) == (0, 0)
        with pytest.raises(TransientError):
            quarantine.verify(uplink.pk)
        uplink.refresh_from_db()
        assert uplink.progress is not None
        assert uplink.progress["tries"] == 0
    quarantine.verify(uplink.pk)
    uplink.refresh_from_db()
    assert outcome(uplink) == {"accepted": 41, "malformed": 109}


def test_the_usual_way_counts_nothing(concentrator: Concentrator) -> None:
    uplink = post(concentrator, [b"garbage"])
    tasks.verify_backlog(uplink.pk)
    uplink.refresh_from_db()
    assert (uplink.begun, uplink.claims) == (0, 0)
    assert uplink.verified_at is not None
