"""Verifying again, run as races: threads with connections of their own on one PostgreSQL."""

import secrets
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from django.db import IntegrityError, connection
from pytest_django import DjangoDbBlocker

from concentrators.ingest import verification
from concentrators.ingest.decisions import Verdicts
from concentrators.ingest.reverification import verify_again, verify_all_again, waiting_uplinks
from concentrators.ingest.worker import Worker
from concentrators.models import Assignment, Concentrator, IntegrityFailure, Uplink
from concentrators.totals import totals
from keyvault.audit import chain
from keyvault.audit.chain import Actor
from keyvault.device_keys import shipment_file as shipmentfile
from keyvault.device_keys import shipments
from keyvault.device_keys.provisioning import NewKey, ProvisioningError, provision_stored
from keyvault.device_keys.shipment_kek import TransportKey
from keyvault.models import DeviceKey
from tests.concentrators.fleet import NOW, WINDOW, Device, outcome, post, readings_of, tallies
from tests.concentrators.ingest.test_races import add_up, at_once, no_deadlocks, verify_all, verifying
from tests.concentrators.test_model import flipped
from tests.factories import MeterFactory
from tests.flows import databases
from tests.keyvault.shipping import TRANSPORT, line, shipment_file

__all__ = ["no_deadlocks"]

ROUNDS = 6


@pytest.fixture(scope="module", autouse=True)
def own_database(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[None]:
    """One database for all races of this module."""
    with django_db_blocker.unblock(), databases.copied():
        yield


@pytest.fixture
def db() -> None:
    """Not pytest-django's: these tests commit."""


def registered(count: int, concentrator: Concentrator) -> list[Device]:
    meters = MeterFactory.create_batch(count)
    Assignment.objects.bulk_create(
        [Assignment(meter=meter, concentrator=concentrator, valid_from=NOW - timedelta(days=4000)) for meter in meters]
    )
    return [Device(meter, secrets.token_bytes(32)) for meter in meters]


def give_keys(devices: list[Device]) -> None:
    provision_stored([NewKey(device.title, device.epoch, device.key, device.alg) for device in devices])


def waiting(concentrator: Concentrator, frames: list[bytes]) -> Uplink:
    uplink = post(concentrator, frames)
    verification.verify(uplink.pk)
    return uplink


def test_the_same_uplinks_verified_again_at_once(concentrator: Concentrator, other_concentrator: Concentrator) -> None:
    for number in range(ROUNDS):
        devices = registered(12, concentrator)
        frames = [device.frame(n, number) for device in devices for n in range(3)]
        uplinks = [waiting(concentrator, frames), waiting(other_concentrator, frames[::-1])]
        give_keys(devices)
        forged = [flipped(frame, 3) for frame in frames[:7]]  # what takes no counter: the uplink's lock alone holds it
        uplinks.append(waiting(concentrator, forged))
        ids = [uplink.pk for uplink in uplinks]
        at_once(*[partial(verify_all_again, ids), partial(verify_all_again, ids[::-1])] * 2)
        for uplink in uplinks:
            uplink.refresh_from_db()
            assert (uplink.waiting, uplink.waiting_frames) == (0, None)
        assert add_up(uplinks) == {"accepted": 36, "duplicate": 36, "tag_invalid": 7}
        assert all(readings_of(device) == dict.fromkeys(range(3), number) for device in devices[:3])
    assert IntegrityFailure.objects.filter(concentrator=concentrator).count() == 7 * ROUNDS
    assert tallies(concentrator) == {"tag_invalid": 7 * ROUNDS}
    assert tallies(other_concentrator) == {}
    assert totals.compare(*WINDOW) == []


def test_whoever_comes_second_waits_and_finds_nothing_left(
    concentrator: Concentrator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frames that take no counter: nothing but the lock of the uplink's row holds them."""
    (device,) = registered(1, concentrator)
    uplink = waiting(concentrator, [flipped(device.frame(n), 3) for n in range(7)])
    give_keys([device])
    entered, go_on = threading.Event(), threading.Event()

    judge = Worker.judge

    def pause_then_judge(*args: Any) -> list[Verdicts]:
        entered.set()
        assert go_on.wait(20)
        return judge(*args)

    def verify(number: int) -> Verdicts:
        try:
            if number:
                assert entered.wait(20)
                threading.Timer(0.3, go_on.set).start()  # the second one is at the uplink by then
            return verify_again(uplink.pk)
        finally:
            connection.close()

    monkeypatch.setattr(Worker, "judge", pause_then_judge)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(verify, range(2))
    assert (first.failures, second) == ({"tag_invalid": 7}, Verdicts())
    uplink.refresh_from_db()
    assert outcome(uplink) == {"tag_invalid": 7}
    assert IntegrityFailure.objects.filter(uplink=uplink).count() == 7


def test_keys_come_while_uplinks_are_verified_and_verified_again(
    concentrator: Concentrator, other_concentrator: Concentrator
) -> None:
    """Old uplinks again, new ones with the same frames for the first time, and the keys in two pieces: all at once."""
    for number in range(ROUNDS):
        devices = registered(10, concentrator)
        frames = [device.frame(n, number) for device in devices for n in range(3)]
        old = [waiting(concentrator, frames[:20]), waiting(other_concentrator, frames[10:])]
        new = [post(concentrator, frames[::-1]), post(other_concentrator, frames[5:25])]
        at_once(
            partial(give_keys, devices[:5]),
            *[partial(verify_again, uplink.pk) for uplink in old],
            *map(verifying, new),
            partial(give_keys, devices[5:]),
            partial(verify_all_again, [uplink.pk for uplink in old[::-1]]),
        )
        verify_all(new)
        at_once(*[partial(verify_all_again, waiting_uplinks())] * 2)
        uplinks = [*old, *new]
        for uplink in uplinks:
            uplink.refresh_from_db()
            assert sum(outcome(uplink).values()) == uplink.frames
            assert uplink.waiting == 0
        assert add_up(uplinks) == {"accepted": 30, "duplicate": 60}
        assert all(readings_of(device) == dict.fromkeys(range(3), number) for device in devices)
    for posting in (concentrator, other_concentrator):
        assert not IntegrityFailure.objects.filter(concentrator=posting).exists()
        assert tallies(posting) == {}
    assert totals.compare(*WINDOW) == []


def test_one_shipment_imported_twice_at_once(concentrator: Concentrator, tmp_path: Path) -> None:
    """One of them puts the keys in; the other finds them standing, or is told that they were made meanwhile."""
    actor = Actor("officer", "192.0.2.7")
    for _ in range(ROUNDS):
        devices = registered(20, concentrator)
        path = shipment_file(tmp_path, [line(device.title, key=device.key) for device in devices])

        def take(path: Path = path) -> int | None:
            try:
                return shipments.import_(shipmentfile.read(path), TransportKey(TRANSPORT), actor).active
            except (IntegrityError, ProvisioningError):
                return None

        assert sorted(at_once(take, take), key=str) in ([0, 20], [20, None])
        assert DeviceKey.objects.filter(system_title__in=[device.title for device in devices]).count() == 40
        uplink = waiting(concentrator, [device.frame(0) for device in devices])
        uplink.refresh_from_db()
        assert outcome(uplink) == {"accepted": 20}
    chain.verify()
