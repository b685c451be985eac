"""What comes while frames that need it are being judged, run as races: none is left waiting, and none counts twice."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone
from pytest_django import DjangoDbBlocker

from concentrators.commands.capture_period import IntervalError
from concentrators.ingest import clock_corrections, length_corrections, reverification_queue, verification
from concentrators.ingest.clock_corrections import ClockRequest
from concentrators.ingest.decisions import Verdicts
from concentrators.ingest.reverification import verify_all_again, waiting_uplinks
from concentrators.ingest.worker import Worker
from concentrators.models import Concentrator, IntegrityFailure, Reverification, Uplink
from concentrators.totals import totals
from keyvault.audit.chain import Actor
from meters.models import Meter, Reading, Register
from meters.registry import lifecycle
from tests.builders import senml_payload
from tests.concentrators.fleet import (
    HALF_HOUR_S,
    INTERVAL,
    NOW,
    START_S,
    WINDOW,
    Device,
    commission,
    outcome,
    post,
    readings_of,
    tallies,
)
from tests.concentrators.ingest.test_races import add_up, at_once, no_deadlocks, verify_all, verifying
from tests.flows import databases

__all__ = ["no_deadlocks"]

ROUNDS = 4


@pytest.fixture(scope="module", autouse=True)
def own_database(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[None]:
    """One database for all races of this module."""
    with django_db_blocker.unblock(), databases.copied():
        yield


@pytest.fixture
def db() -> None:
    """Not pytest-django's: these tests commit."""


def add(code: str) -> None:
    Register.objects.create(obis_code=code, kind="cumulative", unit="Wh", name="new")


def frame(device: Device, code: str, interval: int) -> bytes:
    return device.seal(senml_payload({INTERVAL: 7, code: 1}, START_S + interval * HALF_HOUR_S))


def work() -> None:
    """The schedule's task, as often as it takes."""
    for _ in range(100):
        if not reverification_queue.work() and not Reverification.objects.exists():
            return


def test_a_register_that_comes_while_a_frame_is_judged_is_not_missed(
    concentrator: Concentrator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Judged without it, and committed after it: the look that it asked for waits for that."""
    (device,) = commission(1, concentrator)
    uplink = post(concentrator, [frame(device, "1-0:71.8.0", 0), device.frame(1)])
    judged, go_on = threading.Event(), threading.Event()

    judge = Worker.judge

    def judge_then_pause(*args: Any) -> list[Verdicts]:
        verdicts = judge(*args)
        judged.set()
        assert go_on.wait(20)
        return verdicts

    def verify() -> None:
        try:
            verification.verify(uplink.pk)
        finally:
            connection.close()

    monkeypatch.setattr(Worker, "judge", judge_then_pause)
    with ThreadPoolExecutor(1) as pool:
        verifying_it = pool.submit(verify)
        assert judged.wait(20)
        add("1-0:71.8.0")
        threading.Timer(0.5, go_on.set).start()  # the look waits by then
        work()
        verifying_it.result()
    uplink.refresh_from_db()
    assert outcome(uplink) == {"accepted": 2}
    assert readings_of(device) == {0: 7, 1: 100}
    assert not Reverification.objects.exists()


def test_registers_and_resumed_meters_come_while_their_frames_are_judged_and_judged_again(
    concentrator: Concentrator, other_concentrator: Concentrator
) -> None:
    for number in range(ROUNDS):
        code = f"1-0:{80 + number}.8.0"
        devices = commission(8, concentrator)
        suspended = [device.meter for device in devices[:4]]
        for meter in suspended:
            lifecycle.suspend(meter)
        frames = [frame(device, code, n) for device in devices for n in range(2)]
        uplinks = [post(concentrator, frames), post(other_concentrator, frames[::-1]), post(concentrator, frames[4:])]
        verification.verify(uplinks[0].pk)
        at_once(
            *map(verifying, uplinks[1:]),
            partial(add, code),
            work,
            *[partial(lifecycle.resume, meter) for meter in suspended],
            work,
            partial(verify_all_again, [uplink.pk for uplink in uplinks]),
        )
        verify_all(uplinks)
        at_once(work, partial(verify_all_again, waiting_uplinks()), work)
        work()
        for uplink in uplinks:
            uplink.refresh_from_db()
            assert (uplink.waiting, uplink.waiting_frames) == (0, None)
        assert add_up(uplinks) == {"accepted": 16, "duplicate": 28}
        assert all(readings_of(device) == {0: 7, 1: 7} for device in devices)
    assert tallies(concentrator) == tallies(other_concentrator) == {}
    assert not IntegrityFailure.objects.exists()
    assert totals.compare(*WINDOW) == []


def test_a_clock_that_is_corrected_twice_at_once(concentrator: Concentrator) -> None:
    (device,) = commission(1, concentrator)
    at = NOW - timedelta(hours=1)
    uplinks = [post(concentrator, [device.frame(n)], at) for n in (45, 46, 47)]
    verify_all(uplinks)
    assert add_up([Uplink.objects.get(pk=uplink.pk) for uplink in uplinks]) == {"accepted": 1, "clock_skew": 2}
    wish = ClockRequest(at, at + timedelta(seconds=1), 3600, "NTP was off")
    actor = Actor("someone", "tests")
    correct = partial(clock_corrections.correct, wish, actor, timezone.now())
    at_once(correct, work, correct, work)
    work()
    assert add_up([Uplink.objects.get(pk=uplink.pk) for uplink in uplinks]) == {"accepted": 3}
    assert readings_of(device) == {45: 100, 46: 100, 47: 100}


def test_a_length_that_is_corrected_twice_at_once_while_frames_come(
    concentrator: Concentrator, other_concentrator: Concentrator
) -> None:
    wish = length_corrections.LengthRequest(15, None, None, "registered wrongly")

    def correct(meter: Meter) -> None:
        with suppress(IntervalError):  # the other one was first
            length_corrections.correct(meter, wish, Actor("someone", "tests"), NOW)

    for _ in range(ROUNDS):
        (device,) = commission(1, concentrator)
        Meter.objects.filter(pk=device.meter.pk).update(interval_minutes=60)
        frames = [device.seal(senml_payload({INTERVAL: n}, START_S + n * 900)) for n in range(8)]
        uplinks = [post(where, frames[n::4]) for where in (concentrator, other_concentrator) for n in range(4)]
        verify_all(uplinks[:3])
        ids = [uplink.pk for uplink in uplinks]
        act = partial(correct, device.meter)
        at_once(partial(verify_all, uplinks[3:]), act, work, act, partial(verify_all_again, ids), work)
        work()
        fresh = [Uplink.objects.get(pk=uplink.pk) for uplink in uplinks]
        assert add_up(fresh) == {"accepted": 8, "duplicate": 8}
        assert all((uplink.waiting, uplink.waiting_frames) == (0, None) for uplink in fresh)
        rows = Reading.objects.filter(meter=device.meter).order_by("captured_at")
        assert list(rows.values_list("value", "interval_minutes")) == [(n, 15) for n in range(8)]
    assert tallies(concentrator) == tallies(other_concentrator) == {}
    assert totals.compare(*WINDOW) == []
