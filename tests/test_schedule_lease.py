"""The lease of the schedule, as processes see it that share a database."""

import threading
import time
from collections.abc import Iterator
from datetime import timedelta

import psycopg
import pytest
from django.utils import timezone
from pytest_django import DjangoDbBlocker

from ami_headend import schedule_lease
from ami_headend.models import ScheduleLease
from ami_headend.schedule_lease import Lease
from tests.flows import databases
from tests.flows.stack import wait_for

LONG_S = 30.0  # a thread of a busy machine may wait for its turn longer than a quick lease lasts


@pytest.fixture(scope="module", autouse=True)
def own_database(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[None]:
    with django_db_blocker.unblock(), databases.copied():
        yield


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in {"LEASE_S": 0.8, "RENEW_S": 0.1, "ASK_S": 0.05, "_MARGIN_S": 0.2}.items():
        monkeypatch.setattr(schedule_lease, name, seconds)


def started(count: int) -> list[Lease]:
    leases = [Lease() for _ in range(count)]
    for lease in leases:
        lease.start()
    return leases


def held(leases: list[Lease]) -> list[Lease]:
    return [lease for lease in leases if lease.is_held()]


def test_one_holds_it_and_the_next_when_it_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule_lease, "LEASE_S", LONG_S)
    assert schedule_lease.holder() is None
    leases = started(3)
    for _ in range(3):
        wait_for("one holds it", lambda: len(held(leases)) == 1)
        (first,) = held(leases)
        until = time.monotonic() + 0.3
        while time.monotonic() < until:
            assert held(leases) == [first]
        first.give_up()
        assert not first.is_held()
        leases.remove(first)
    at_work = schedule_lease.holder()
    assert at_work is not None
    assert at_work.left_s <= 0


def test_who_cannot_renew_stops_before_another_can_begin() -> None:
    """Somebody holds the row's lock: no statement goes through, as when the database hangs."""
    leases = started(2)
    wait_for("one holds it", lambda: len(held(leases)) == 1)
    (first,) = held(leases)
    params = {**first._params, "context": None}
    with psycopg.connect(**params) as session:
        session.execute("SELECT 1 FROM ami_headend_schedulelease FOR UPDATE")
        wait_for("none holds it", lambda: not held(leases), 5)
        assert ScheduleLease.objects.get().holder == first._row["holder"]
    wait_for("one holds it again", lambda: len(held(leases)) == 1)
    for lease in leases:
        lease.give_up()
    assert not [thread for thread in threading.enumerate() if isinstance(thread, Lease)]


def test_who_is_refused_stops_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own clock would let it go on for ten minutes, but another has the lease, as after a restore."""
    monkeypatch.setattr(schedule_lease, "LEASE_S", 600.0)
    (lease,) = started(1)
    wait_for("it holds it", lease.is_held)
    ScheduleLease.objects.update(holder="another", until=timezone.now() + timedelta(minutes=10))
    wait_for("it stops", lambda: not lease.is_held())
    assert ScheduleLease.objects.get().holder == "another"
    lease.give_up()


def test_a_clock_that_is_set_back_does_not_stretch_a_lease_that_nobody_renews() -> None:
    ScheduleLease.objects.update(holder="dead", host="lost", until=timezone.now() + timedelta(hours=1))
    (lease,) = started(1)
    wait_for("it holds it", lease.is_held)
    assert lease._others is not None
    assert time.monotonic() - lease._others_since > schedule_lease.LEASE_S  # not before the holder had stopped
    lease.give_up()


def test_a_lease_far_ahead_that_is_renewed_is_left_to_its_holder(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock was set back by an hour: the holder's next renewal writes the new time."""
    monkeypatch.setattr(schedule_lease, "LEASE_S", LONG_S)
    (first,) = started(1)
    wait_for("it holds it", first.is_held)
    ScheduleLease.objects.update(until=timezone.now() + timedelta(hours=1))
    wait_for("it is renewed", lambda: ScheduleLease.objects.get().until < timezone.now() + timedelta(minutes=1))
    assert first.is_held()
    first.give_up()
