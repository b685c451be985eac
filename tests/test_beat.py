"""Beat sends what is due by the monotonic clock: nobody who sets the clock silences it, and no error ends it."""

import inspect
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import redis
from celery import Celery
from celery.schedules import schedule as interval
from kombu import Queue

from ami_headend import beat, schedule
from ami_headend.beat import SteadyScheduler
from ami_headend.celery import app
from ami_headend.core import tasklimits
from ami_headend.core.broker_url import celery_broker_url
from ami_headend.local import embedded
from ami_headend.queues import ALERTS, BACKGROUND, DELIVERIES, QUEUES, UPLINKS
from tests.flows.redis_faults import TROUBLES, mend, spoil


class Clocks:
    """A wall clock and a monotonic one, each set by the test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monotonic = 1000.0
        self.off = timedelta()
        monkeypatch.setattr("ami_headend.beat.time.monotonic", lambda: self.monotonic)
        real = interval.now
        monkeypatch.setattr(interval, "now", lambda entry: real(entry) + self.off)


class HeldLease:
    """The lease of the only beat, until the test takes it."""

    is_taken = False

    def start(self) -> None:
        """Nothing renews it."""

    def is_held(self) -> bool:
        return not HeldLease.is_taken

    def give_up(self) -> None:
        HeldLease.is_taken = True


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    return Clocks(monkeypatch)


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    sent: list[str] = []
    monkeypatch.setattr(beat, "Lease", HeldLease)
    monkeypatch.setattr(SteadyScheduler, "_waiting", lambda self, entry: 0)
    monkeypatch.setattr(SteadyScheduler, "apply_async", lambda self, entry, **_: sent.append(entry.name))
    return sent


def run(scheduler: SteadyScheduler, clocks: Clocks, seconds: float) -> None:
    """Lets beat run for so long: it ticks, and sleeps for as long as it says."""
    end = clocks.monotonic + seconds
    while clocks.monotonic <= end:
        clocks.monotonic += max(scheduler.tick(), 0.01)


@pytest.mark.parametrize("step", [timedelta(hours=2), timedelta(hours=-2), timedelta(days=-400)])
def test_the_clock_is_set_and_everything_goes_on(clocks: Clocks, sent: list[str], step: timedelta) -> None:
    scheduler = SteadyScheduler(app)
    run(scheduler, clocks, 75)
    clocks.off = step
    sent.clear()
    run(scheduler, clocks, 61)
    due = {name for name, entry in schedule.SCHEDULE.items() if entry["schedule"] <= 60}
    assert due <= set(sent)
    assert 11 <= Counter(sent)["sweep-uplinks"] <= 14


def test_a_start_sends_everything_that_comes_often_within_seconds(clocks: Clocks, sent: list[str]) -> None:
    run(SteadyScheduler(app), clocks, 4)
    often = [name for name, entry in schedule.SCHEDULE.items() if entry["schedule"] <= 60]
    assert list(dict.fromkeys(sent)) == often  # in this order: components last
    sent.clear()
    run(SteadyScheduler(app), clocks, 70)
    assert {"purge-sign-ins", "maintain-partitions"} <= set(sent)


def test_who_does_not_hold_the_lease_sends_nothing_and_begins_anew_with_it(
    clocks: Clocks, sent: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = SteadyScheduler(app)
    monkeypatch.setattr(HeldLease, "is_taken", True)
    run(scheduler, clocks, 1_000)
    assert not sent
    monkeypatch.setattr(HeldLease, "is_taken", False)
    run(scheduler, clocks, 5)
    often = [name for name, entry in schedule.SCHEDULE.items() if entry["schedule"] <= 60]
    assert list(dict.fromkeys(sent)) == often  # not the seldom ones, which were due long ago, all at once
    monkeypatch.setattr(HeldLease, "is_taken", True)
    sent.clear()
    run(scheduler, clocks, 100)
    assert not sent
    scheduler.close()


def test_every_task_is_known_takes_nothing_and_has_a_queue_and_limits() -> None:
    app.loader.import_default_modules()
    for entry in app.conf.beat_schedule.values():
        assert not inspect.signature(app.tasks[entry["task"]].run).parameters
        assert "options" not in entry  # none expires by a clock
    ours = [task for name, task in app.tasks.items() if not name.startswith("celery.")]
    assert len(ours) >= 20
    for task in ours:
        assert app.amqp.router.route({}, task.name)["queue"].name in QUEUES
        soft = task.soft_time_limit or app.conf.task_soft_time_limit
        hard = task.time_limit or app.conf.task_time_limit
        assert tasklimits.STATEMENT_TIMEOUT_S < soft < hard <= 1000
    routes = {name: app.amqp.router.route({}, name)["queue"].name for name in app.tasks}
    assert {name for name, queue in routes.items() if queue == UPLINKS} == {
        "concentrators.tasks.verify_backlog",
        "concentrators.tasks.sweep_uplinks",
    }
    assert routes["ami_headend.alerts.tasks.deliver"] == routes["ami_headend.tasks.look_at_components"] == ALERTS
    assert {name for name, queue in routes.items() if queue == DELIVERIES} == {
        "concentrators.tasks.deliver_feed",
        "concentrators.tasks.sweep_feed_deliveries",  # beat leaves it out where the queue that it fills is full
    }
    assert routes["concentrators.tasks.resend_gaps"] == routes["keyvault.tasks.rewrap_master_key"] == BACKGROUND


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[redis.Redis]:
    server = embedded.start_redis(tmp_path)
    with redis.Redis.from_url(embedded.redis_url(tmp_path)) as client:
        yield client
    server.stop()


@pytest.fixture
def scheduler(broker: redis.Redis, tmp_path: Path) -> SteadyScheduler:
    own = Celery("own", broker=celery_broker_url(embedded.redis_url(tmp_path)), set_as_current=False)
    own.conf.update(
        task_queues=[Queue("q")],
        task_default_queue="q",
        beat_schedule={"often": {"task": "t.often", "schedule": 1.0}},
        broker_transport_options=app.conf.broker_transport_options,
    )
    return SteadyScheduler(own)


def test_a_queue_that_nobody_empties_gets_no_more(
    scheduler: SteadyScheduler, broker: redis.Redis, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(beat, "QUEUE_MAX", 3)
    for _ in range(5):
        scheduler.apply_entry(scheduler.schedule["often"])
    assert broker.llen("q") == 3
    assert "its queue is full" in caplog.text


@pytest.mark.parametrize("trouble", [*TROUBLES, "away"])
def test_an_error_of_the_broker_costs_a_turn(
    scheduler: SteadyScheduler, broker: redis.Redis, trouble: str, caplog: pytest.LogCaptureFixture
) -> None:
    entry = scheduler.schedule["often"]
    scheduler.apply_entry(entry)
    spoil(broker, trouble)
    scheduler.apply_entry(entry)
    assert "often is not sent; its next run will be tried" in caplog.text
    assert "Traceback" not in caplog.text
    if trouble != "away":
        mend(broker)
        scheduler.apply_entry(entry)
        assert broker.llen("q") == 2
