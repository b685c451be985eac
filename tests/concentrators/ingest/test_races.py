"""Exactly once, run as races: threads with connections of their own on one PostgreSQL."""

import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from django.db import connection
from pytest_django import DjangoDbBlocker

from concentrators import tasks
from concentrators.failures.acknowledgement import AcknowledgementError, acknowledge
from concentrators.failures.queries import FailureSelection
from concentrators.fleet.assignments import assign
from concentrators.ingest import reception, store, verification
from concentrators.models import Concentrator, IntervalTotal, Uplink
from concentrators.totals import totals
from keyvault.audit.chain import Actor
from keyvault.cose.structures import encode_sequence
from keyvault.device_keys import key_rows
from keyvault.models import KeyState
from keyvault.opening import save_counters
from tests.concentrators.failures.test_groups import groups_counted, groups_kept
from tests.concentrators.fleet import NOW, START, WINDOW, commission, outcome, post, readings_of
from tests.factories import ConcentratorFactory
from tests.flows import databases

ROUNDS = 8


@pytest.fixture(scope="module", autouse=True)
def own_database(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[None]:
    """One database for all races of this module: what one race leaves behind is no hindrance to the next."""
    with django_db_blocker.unblock(), databases.copied():
        yield


@pytest.fixture
def db() -> None:
    """Not pytest-django's: these tests commit."""


def at_once(*calls: Callable[[], object]) -> list[object]:
    """Runs calls in threads that start together; gives what each gave, raises what one raised."""
    barrier = threading.Barrier(len(calls))

    def run(call: Callable[[], object]) -> object:
        barrier.wait()
        try:
            return call()
        finally:
            connection.close()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


def verifying(uplink: Uplink) -> Callable[[], object]:
    return partial(verification.verify, uplink.pk)


def verify_all(uplinks: list[Uplink]) -> None:
    """Verifies uplinks in one thread each. Raises what would make a task come again, too."""
    at_once(*map(verifying, uplinks))
    for uplink in uplinks:
        uplink.refresh_from_db()
        assert uplink.verified_at is not None, uplink.last_error
        assert uplink.attempts == 0


@pytest.fixture(autouse=True)
def no_deadlocks(own_database: None) -> Iterator[None]:
    """Deadlocks are tried again, but each costs a second: locks are taken in one order, so there are none."""
    before = _deadlocks()
    yield
    assert _deadlocks() == before


def _deadlocks() -> int:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_stat_clear_snapshot(), deadlocks FROM pg_stat_database WHERE datname = current_database()"
        )
        return int(cursor.fetchone()[1])


def add_up(uplinks: list[Uplink]) -> dict[str, int]:
    found: dict[str, int] = {}
    for uplink in uplinks:
        for name, count in outcome(uplink).items():
            found[name] = found.get(name, 0) + count
    return found


@pytest.mark.parametrize("gaps", [False, True], ids=["in order", "gaps"])
def test_the_same_frames_in_two_uplinks(
    concentrator: Concentrator, other_concentrator: Concentrator, gaps: bool
) -> None:
    for _ in range(ROUNDS):
        devices = commission(10, concentrator)
        step = 2 if gaps else 1
        frames = [device.frame(n, counter=n * step) for device in devices for n in range(5)]
        uplinks = [post(concentrator, frames), post(other_concentrator, frames[::-1] if gaps else frames)]
        verify_all(uplinks)
        assert add_up(uplinks) == {"accepted": 50, "duplicate": 50}
        assert all(readings_of(device) == dict.fromkeys(range(5), 100) for device in devices[:2])
    assert totals.compare(*WINDOW) == []


def test_overlapping_meters_in_opposite_order_do_not_deadlock(
    concentrator: Concentrator, other_concentrator: Concentrator
) -> None:
    """Half of the meters go ahead and half fill gaps, the other way round in the other uplink."""
    for number in range(ROUNDS):
        devices = commission(60, concentrator)
        uplinks = []
        for turn, posting in enumerate((concentrator, other_concentrator, ConcentratorFactory.create())):
            frames = [
                device.frame(turn, number, counter=turn if (turn + n) % 2 else 10 + turn)
                for n, device in enumerate(devices)
            ]
            random.Random(number + turn).shuffle(frames)
            uplinks.append(post(posting, frames))
        verify_all(uplinks)
        assert add_up(uplinks) == {"accepted": 180}
        assert all(readings_of(device) == dict.fromkeys(range(3), number) for device in devices[:3])
    assert totals.compare(*WINDOW) == []


def test_the_same_meter_under_two_epochs(concentrator: Concentrator) -> None:
    """The counters are two, so only the reading itself can tell that the frames say the same."""
    for number in range(ROUNDS):
        old = commission(20, concentrator)
        new = [device.next_epoch(2) for device in old]
        frames = [[device.frame(n, number) for device in devices for n in range(3)] for devices in (old, new)]
        uplinks = [post(concentrator, frames[0]), post(concentrator, frames[1][::-1])]
        verify_all(uplinks)
        assert add_up(uplinks) == {"accepted": 120}
        assert readings_of(old[0]) == dict.fromkeys(range(3), number)
    assert totals.compare(*WINDOW) == []


def test_one_uplink_is_verified_once(concentrator: Concentrator) -> None:
    for _ in range(ROUNDS):
        devices = commission(5, concentrator)
        uplink = post(concentrator, [device.frame(0) for device in devices])
        results = at_once(*[verifying(uplink)] * 4)
        assert [result is None for result in results].count(False) == 1
        uplink.refresh_from_db()
        assert outcome(uplink) == {"accepted": 5}
        assert verification.verify(uplink.pk) is None
    assert totals.compare(*WINDOW) == []


def test_ten_posts_of_one_body_get_one_receipt(concentrator: Concentrator, enqueued: list[int]) -> None:
    for number in range(ROUNDS):
        body = encode_sequence([b"frame", str(number).encode()])
        receipts: list[Any] = at_once(*[partial(reception.receive, concentrator.pk, body, NOW, tasks.enqueue)] * 10)
        assert len({receipt._replace(is_again=False) for receipt in receipts}) == 1
        assert [receipt.is_again for receipt in receipts].count(False) == 1
        assert Uplink.objects.filter(concentrator=concentrator).count() == number + 1
    assert len(enqueued) == ROUNDS


@pytest.mark.parametrize("counter", [1, 0], ids=["ahead", "into a gap"])
def test_a_key_that_moves_between_read_and_save_accepts_nothing(
    concentrator: Concentrator, monkeypatch: pytest.MonkeyPatch, counter: int
) -> None:
    """The change commits after the frames were opened and before their counters are saved."""
    device, bystander = commission(2, concentrator)
    first = post(concentrator, [device.frame(0, counter=1 - counter)])
    if counter == 0:
        verification.verify(first.pk)
    uplink = post(concentrator, [device.frame(1, counter=counter), bystander.frame(1)])
    key_id = device.row().pk
    moved = threading.Event()

    def retire_then_save(*args: object) -> None:
        if not moved.is_set():
            moved.set()
            at_once(partial(key_rows.set_key_state, [key_id], KeyState.COMPROMISED))
        save_counters(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(store, "save_counters", retire_then_save)
    verification.verify(uplink.pk)
    uplink.refresh_from_db()
    assert outcome(uplink) == {"key_retired": 1, "accepted": 1}
    assert readings_of(device) == ({0: 100} if counter == 0 else {})


def test_keys_moved_while_uplinks_are_verified(concentrator: Concentrator) -> None:
    """Whatever is accepted was accepted before the change committed: its reading's row is older than the key's."""
    for _ in range(ROUNDS):
        devices = commission(30, concentrator)
        key_ids = [device.row().pk for device in devices]
        uplink = post(concentrator, [device.frame(0) for device in devices])
        at_once(
            verifying(uplink),
            partial(key_rows.set_key_state, key_ids[::2], KeyState.RETIRED),
        )
        uplink.refresh_from_db()
        assert uplink.verified_at is not None
        # all of it before the change, or none of those keys
        assert outcome(uplink) in ({"accepted": 30}, {"accepted": 15, "key_retired": 15})
        late = post(concentrator, [device.frame(1) for device in devices])
        verification.verify(late.pk)
        late.refresh_from_db()
        assert outcome(late) == {"accepted": 15, "key_retired": 15}
    assert totals.compare(*WINDOW) == []


def test_assignments_changed_while_uplinks_are_verified(
    concentrator: Concentrator, other_concentrator: Concentrator
) -> None:
    for number in range(ROUNDS):
        devices = commission(20, concentrator)
        uplinks = [post(concentrator, [device.frame(turn, number) for device in devices]) for turn in range(3)]
        moved = [(device.meter.pk, other_concentrator.pk) for device in devices[::2]]
        at_once(
            *map(verifying, uplinks),
            partial(assign, moved, START + timedelta(minutes=30)),
        )
        assert totals.compare(*WINDOW) == []
    counted = dict(
        IntervalTotal.objects.filter(interval_start=START + timedelta(minutes=30)).values_list(
            "concentrator_id", "meters_counted"
        )
    )
    assert counted[concentrator.pk] == counted[other_concentrator.pk] == 10 * ROUNDS


def _acknowledge_what_is_open(actor: Actor, note: str) -> None:
    with suppress(AcknowledgementError):  # none is, before the others have brought the first
        acknowledge(FailureSelection(), actor, note, NOW)


def test_failures_of_the_same_meters_are_counted_by_all_that_bring_them() -> None:
    """Several concentrators bring forged frames of the same meters while somebody acknowledges: groups stay right."""
    choose = random.Random(11)
    concentrators = [ConcentratorFactory.create() for _ in range(4)]
    devices = commission(6, concentrators[0])
    who = Actor("alice", "test")
    for round_ in range(ROUNDS):
        uplinks = []
        for concentrator in concentrators:
            forged = [device.frame(round_)[:-1] + bytes((choose.randrange(256),)) for device in devices]
            forged += [b"noise", b"noise %d %d" % (round_, concentrator.pk)]  # the first is a copy after its first time
            choose.shuffle(forged)
            uplinks.append(post(concentrator, forged, NOW - timedelta(minutes=choose.randrange(60))))
        at_once(*map(verifying, uplinks), partial(_acknowledge_what_is_open, who, f"round {round_}"))
    assert groups_kept() == groups_counted()
    assert sum(failures for failures, *_ in groups_kept().values()) >= ROUNDS * 4 * 6
