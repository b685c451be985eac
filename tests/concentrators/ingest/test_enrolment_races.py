"""Enrolment beside others: two workers with one frame, and other acts that come in between."""

from collections.abc import Callable, Iterator
from threading import Thread

import pytest
from django.db import connection
from pytest_django import DjangoDbBlocker

from concentrators.ingest import verification
from concentrators.ingest.store import store
from concentrators.ingest.worker import Worker
from keyvault.device_keys import agreement_cut_off, agreement_keys
from keyvault.enrolment import authorities
from keyvault.enrolment.certificates import revoke
from keyvault.models import AwaitedEnrolment, DeviceKey, Enrolment
from tests.concentrators.enrolling import AUTHORITY, KID, OFFICER, Newcomer, pin
from tests.concentrators.fleet import NOW, outcome, post
from tests.factories import ConcentratorFactory, MeterFactory
from tests.flows import databases

CTI = b"one cti!"


@pytest.fixture(autouse=True)
def own_database(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[None]:
    """These tests commit."""
    with django_db_blocker.unblock(), databases.copied():
        yield


@pytest.fixture
def db() -> None:
    """Not pytest-django's: these tests commit."""


@pytest.fixture
def newcomer(own_database: None) -> Newcomer:
    pin()
    newcomer = Newcomer(MeterFactory.create(), agreement_keys.init("hes-1", OFFICER))
    authorities.allow([newcomer.title], OFFICER, NOW)
    return newcomer


def elsewhere(act: Callable[[], object]) -> None:
    """Do something on a connection of its own, and wait for it."""

    def work() -> None:
        try:
            act()
        finally:
            connection.close()

    thread = Thread(target=work)
    thread.start()
    thread.join(30)
    assert not thread.is_alive()


def test_two_workers_with_one_enrolment_make_one_key(newcomer: Newcomer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second verifies the same frame, from another concentrator, before the first one stores what it decided."""
    frame = newcomer.frame(newcomer.certificate())
    one, other = (post(ConcentratorFactory.create(), [frame]) for _ in range(2))
    between_once(monkeypatch, lambda: verification.verify(other.pk, Worker()))
    verification.verify(one.pk)
    one.refresh_from_db()
    other.refresh_from_db()
    assert (outcome(one), outcome(other)) == ({"duplicate": 1}, {"accepted": 1})
    assert (Enrolment.objects.count(), DeviceKey.objects.count()) == (1, 2)


def test_a_version_that_is_cut_off_in_between(newcomer: Newcomer, monkeypatch: pytest.MonkeyPatch) -> None:
    uplink = post(ConcentratorFactory.create(), [newcomer.frame(newcomer.certificate())])
    between_once(monkeypatch, lambda: agreement_cut_off.cut_off("hes-1", 1, OFFICER, NOW))
    verification.verify(uplink.pk)
    uplink.refresh_from_db()
    assert outcome(uplink) == {"certificate_invalid": 1}
    assert not DeviceKey.objects.exists()
    assert AwaitedEnrolment.objects.exists()


def test_a_revocation_waits_and_finds_the_keys(newcomer: Newcomer, monkeypatch: pytest.MonkeyPatch) -> None:
    uplink = post(ConcentratorFactory.create(), [newcomer.frame(newcomer.certificate(cti=CTI))])
    found: list[int] = []

    def revoking() -> None:
        octets = revoke(AUTHORITY, KID, CTI, int(NOW.timestamp()))
        found.extend(authorities.revoke(octets, OFFICER, NOW).key_ids)
        connection.close()

    thread = Thread(target=revoking)
    between_once(monkeypatch, thread.start, alone=False)
    verification.verify(uplink.pk)
    thread.join(30)
    uplink.refresh_from_db()
    assert outcome(uplink) == {"accepted": 1}
    assert sorted(found) == sorted(DeviceKey.objects.values_list("pk", flat=True))


def between_once(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object], *, alone: bool = True) -> None:
    """Let an act come between a decision and its storing, the first time."""
    acts = [act]

    def storing(*args: object) -> None:
        if acts:
            first = acts.pop()
            elsewhere(first) if alone else first()
        store(*args)  # type: ignore[arg-type]

    monkeypatch.setattr("concentrators.ingest.worker.store", storing)
