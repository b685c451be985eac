"""One worker at a time for a concentrator: who has the turn goes on, who meets it leaves, and nothing is left over."""

import threading
from collections import Counter
from collections.abc import Iterator

import pytest
from django.db import connection
from pytest_django import DjangoDbBlocker

from ami_headend.core.sql import fetch_rows
from concentrators.ingest import dispatch, verification
from concentrators.ingest.decisions import Verdicts
from concentrators.ingest.worker import Worker
from concentrators.models import Concentrator, Uplink
from tests.concentrators.fleet import Device, commission, outcome, post
from tests.factories import ConcentratorFactory
from tests.flows import databases


@pytest.fixture(autouse=True)
def own_database(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[None]:
    """These tests commit."""
    with django_db_blocker.unblock(), databases.copied():
        yield


@pytest.fixture
def db() -> None:
    """Not pytest-django's."""


@pytest.fixture
def concentrator() -> Concentrator:
    return ConcentratorFactory.create()


@pytest.fixture
def device(concentrator: Concentrator) -> Device:
    return commission(1, concentrator)[0]


@pytest.fixture
def turn_elsewhere(concentrator: Concentrator) -> Iterator[None]:
    """Another session holds the concentrator's turn."""
    ready, over = threading.Event(), threading.Event()

    def hold() -> None:
        fetch_rows("SELECT pg_advisory_lock(%s, %s)", dispatch._LOCK, concentrator.pk)
        ready.set()
        over.wait(30)
        connection.close()

    thread = threading.Thread(target=hold)
    thread.start()
    assert ready.wait(10)
    yield
    over.set()
    thread.join(10)


def unverified() -> int:
    return Uplink.objects.filter(verified_at=None).count()


def outcomes() -> Counter[str]:
    return sum((Counter(outcome(uplink)) for uplink in Uplink.objects.all()), Counter())


def test_one_task_verifies_all_that_waits(concentrator: Concentrator, device: Device) -> None:
    uplinks = [post(concentrator, [device.frame(n)]) for n in range(120)]
    assert dispatch.verify_backlog(uplinks[60].pk) is None
    assert unverified() == 0


def test_uplinks_of_other_concentrators_go_along(concentrator: Concentrator, device: Device) -> None:
    uplinks = [post(ConcentratorFactory.create(), [device.frame(n)]) for n in range(250)]
    assert dispatch.verify_backlog(uplinks[200].pk) is None
    assert unverified() == 0


def test_lots_are_bounded(concentrator: Concentrator, device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    lots: list[list[int]] = []
    verify = verification.verify_together
    monkeypatch.setattr(dispatch, "_FRAMES_TOGETHER", 4)

    def note_and_verify(lot: list[int], worker: Worker) -> dict[int, Verdicts]:
        lots.append(lot)
        return verify(lot, worker)

    monkeypatch.setattr(verification, "verify_together", note_and_verify)
    sizes = [3, 1, 1, 5, 2, 2, 1]
    uplinks = [post(concentrator, [device.frame(10 * n + m) for m in range(size)]) for n, size in enumerate(sizes)]
    assert dispatch.verify_backlog(uplinks[0].pk) is None
    assert [[[one.pk for one in uplinks].index(pk) for pk in lot] for lot in lots] == [[0, 1], [2], [3], [4, 5], [6]]


def test_what_another_worker_is_at_is_passed_over(
    concentrator: Concentrator, device: Device, turn_elsewhere: None
) -> None:
    theirs = post(concentrator, [device.frame(1)])
    assert dispatch.verify_backlog(theirs.pk) is None
    assert unverified() == 1
    post(ConcentratorFactory.create(), [device.frame(2)])
    assert dispatch.verify_backlog(theirs.pk) is None
    assert list(Uplink.objects.filter(verified_at=None)) == [theirs]


def test_the_turn_is_given_back(concentrator: Concentrator, device: Device) -> None:
    for n in range(3):
        assert dispatch.verify_backlog(post(concentrator, [device.frame(n)]).pk) is None
    held = fetch_rows(
        """SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database
           WHERE d.datname = current_database() AND l.locktype = 'advisory' AND l.classid = %s""",
        dispatch._LOCK,
    )
    assert held == [(0,)]


def test_a_long_turn_ends_and_names_what_is_next(
    concentrator: Concentrator, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    uplinks = [post(concentrator, [device.frame(n)]) for n in range(4)]
    monkeypatch.setattr(dispatch, "_WORK_S", 0.0)
    monkeypatch.setattr(dispatch, "_FRAMES_TOGETHER", 1)
    following: int | None = uplinks[0].pk
    for left in (3, 2, 1, 0):
        assert following is not None
        following = dispatch.verify_backlog(following)
        assert unverified() == left
    assert following is None


def test_an_uplink_that_failed_before_does_not_hold_up_the_others(concentrator: Concentrator, device: Device) -> None:
    stuck, fresh = post(concentrator, [device.frame(1)]), post(concentrator, [device.frame(2)])
    Uplink.objects.filter(pk=stuck.pk).update(attempts=1)
    assert dispatch.verify_backlog(fresh.pk) is None
    assert list(Uplink.objects.filter(verified_at=None)) == [stuck]
    assert dispatch.verify_backlog(stuck.pk) is None
    assert unverified() == 0


def test_a_verified_or_unknown_uplink_is_no_work(concentrator: Concentrator, device: Device) -> None:
    uplink = post(concentrator, [device.frame(1)])
    assert dispatch.verify_backlog(uplink.pk) is None
    assert dispatch.verify_backlog(uplink.pk) is None
    assert dispatch.verify_backlog(2**40) is None


def test_many_workers_at_once_leave_nothing(concentrator: Concentrator) -> None:
    devices = commission(20, concentrator)
    posted: list[int] = []

    def work(first: int) -> None:
        try:
            for n in range(first, first + 10):
                uplink = post(concentrator, [device.frame(n) for device in devices])
                posted.append(uplink.pk)
                dispatch.verify_backlog(uplink.pk)
        finally:
            connection.close()

    threads = [threading.Thread(target=work, args=(first,)) for first in (0, 10, 20, 30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(posted) == 40
    assert unverified() == 0
    assert outcomes() == {"accepted": 40 * len(devices)}
