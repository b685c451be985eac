"""Workers that are killed, told to end, or whose Redis answers with errors: what they had in hand is verified soon."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import redis
from pytest_django import DjangoDbBlocker

from ami_headend.health import heartbeats
from ami_headend.local import embedded
from ami_headend.processes import worker_command
from ami_headend.queues import ALERTS, UPLINKS
from concentrators.models import Uplink
from tests.flows import site as sites
from tests.flows.redis_faults import TROUBLES, mend, spoil
from tests.flows.site import Site, counter_held, frames_of, wait_verified, waiting_backends
from tests.flows.stack import Stack, running, wait_for

SWEPT_AFTER_S = 600
SOON_S = 60.0  # on a busy machine, too; far less than until an uplink is overdue


class Broker:
    """A Redis of this module's own, to be spoilt."""

    def __init__(self, folder: Path) -> None:
        self.url = embedded.redis_url(folder)
        self.server = embedded.start_redis(folder)
        self.client = redis.Redis.from_url(self.url)


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    broker = Broker(tmp_path_factory.mktemp("broker"))
    yield broker
    broker.server.stop()


@pytest.fixture(scope="module")
def stack(
    broker: Broker, django_db_setup: None, django_db_blocker: DjangoDbBlocker, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("stack")
    environ = {"REDIS_URL": broker.url, "UPLINK_SWEEP_AFTER_S": str(SWEPT_AFTER_S)}
    with (
        django_db_blocker.unblock(),
        running(folder, ("web", "worker", "beat"), environ) as stack,
    ):
        yield stack


@pytest.fixture
def site(stack: Stack) -> Site:
    if "worker" not in stack.processes:
        stack.start("worker")
    return sites.found(stack, 3)


def inside(site: Site) -> int:
    """An uplink that the worker has in hand, and cannot finish while the counter is held."""
    uplink_id = site.posted(frames_of(site.devices, range(5)))
    wait_for("the worker is inside the uplink", lambda: bool(waiting_backends()))
    return uplink_id


def test_a_child_killed_in_silence(site: Site) -> None:
    with counter_held(site.stack, site.devices[1]):
        uplink_id = inside(site)
        for child in site.stack.children("worker"):
            child.kill()
        wait_for("its sessions end, though they wait for a lock", lambda: not waiting_backends(), 20)
    wait_verified([uplink_id], SOON_S)
    assert Uplink.objects.get(pk=uplink_id).accepted == 15


def test_a_whole_worker_killed(site: Site) -> None:
    with counter_held(site.stack, site.devices[1]):
        uplink_id = inside(site)
        site.stack.kill("worker")
    site.stack.start("worker")
    wait_verified([uplink_id], SOON_S)


def test_told_to_end_it_finishes_what_it_has_in_hand(site: Site) -> None:
    """SIGTERM to the process that leads the worker alone, as the unit's KillMode=mixed does, and `make up`."""
    ended = threading.Thread(target=site.stack.stop, args=["worker"])
    with counter_held(site.stack, site.devices[1]):
        uplink_id = inside(site)
        ended.start()
        time.sleep(1)
    ended.join()
    assert Uplink.objects.get(pk=uplink_id).accepted == 15
    assert not any(one.kind == heartbeats.WORKER for one in heartbeats.living())  # it has said goodbye


def test_what_a_worker_that_ends_had_fetched_ahead_waits_for_no_sweep(site: Site) -> None:
    with counter_held(site.stack, site.devices[1]):
        ids = [inside(site), *(site.posted(frames_of(site.devices, [n])) for n in range(5, 17))]
        os.killpg(site.stack.processes["worker"].pid, signal.SIGTERM)  # children, too
        site.stack.stop("worker")
    site.stack.start("worker")
    wait_verified(ids, SOON_S)


@pytest.mark.parametrize(
    "trouble",
    [pytest.param(one, marks=() if one in ("READONLY", "NOAUTH") else pytest.mark.soak) for one in TROUBLES],
)
def test_redis_answers_with_an_error(site: Site, broker: Broker, trouble: str) -> None:
    """Uplinks are taken; worker and beat live on, and verify as soon as Redis is well."""
    stack = site.stack
    spoil(broker.client, trouble)
    try:
        uplink_id = site.posted(frames_of(site.devices, range(3)))
        time.sleep(3)  # the worker of old was gone after two
        assert stack.processes["worker"].poll() is None, stack.log("worker").read_text()[-2000:]
        assert stack.processes["beat"].poll() is None, stack.log("beat").read_text()[-2000:]
    finally:
        mend(broker.client)
    wait_verified([uplink_id], SOON_S)
    assert stack.processes["worker"].poll() is None


def test_alerts_that_hang_do_not_stop_verification(site: Site) -> None:
    """Rules that wait for a lock occupy the workers of their own queue, all of them; uplinks are verified."""
    stack = site.stack
    stack.stop("worker")
    stack.start("worker", worker_command(1, [UPLINKS]))
    stack.start("alerts", worker_command(1, [ALERTS]))
    with psycopg.connect(stack.owner_url) as other:
        other.execute("LOCK TABLE alerts_rule")
        stack.send("ami_headend.alerts.tasks.evaluate_alerts")
        wait_for("alerts wait", lambda: bool(waiting_backends()))
        wait_verified([site.posted(frames_of(site.devices, range(3)))])
        assert waiting_backends()
    stack.stop("alerts")
    stack.stop("worker")


def test_nothing_can_be_asked_or_told_through_redis(site: Site) -> None:
    """No remote control: nobody answers, nothing is stopped, and no setting is told."""
    from ami_headend.celery import app  # noqa: PLC0415 - after Django is set up

    with app.connection_for_write(site.stack.env["REDIS_URL"].replace("unix://", "redis+socket://")) as connection:
        assert app.control.ping(timeout=1, connection=connection) == []
        assert app.control.broadcast("conf", reply=True, timeout=1, connection=connection) == []
        app.control.cancel_consumer(UPLINKS, connection=connection)
        app.control.shutdown(connection=connection)
    time.sleep(1)
    wait_verified([site.posted(frames_of(site.devices, range(3)))])


@pytest.mark.parametrize("rubbish", ["not JSON", "{}", "1", '["a"]', '{"properties": 1, "body": 2}', "\udc80\udcff"])
def test_what_is_no_message_ends_no_worker(site: Site, broker: Broker, rubbish: str) -> None:
    """Whoever may write to Redis puts octets into a queue: the worker throws them away, and goes on."""
    before = site.stack.processes["worker"].pid
    broker.client.lpush(UPLINKS, rubbish.encode(errors="surrogateescape"))
    wait_for("it is read", lambda: not broker.client.llen(UPLINKS))
    wait_verified([site.posted(frames_of(site.devices, range(3)))])
    process = site.stack.processes["worker"]
    assert (process.pid, process.poll()) == (before, None), site.stack.log("worker").read_text()[-2000:]


def test_they_are_told_from_the_database(site: Site) -> None:
    all_kinds = {heartbeats.WORKER, heartbeats.SCHEDULE, heartbeats.WEB}
    wait_for("worker, schedule and web tell", lambda: {one.kind for one in heartbeats.living()} == all_kinds)
    living = {one.name.partition("@")[0]: one for one in heartbeats.living()}
    assert living["uplinks+alerts+deliveries+background"].queues == ["alerts", "background", "deliveries", "uplinks"]
    assert living["uplinks+alerts+deliveries+background"].processes == 2
    assert abs(living["beat"].clock_off_s) < 2
    site.stack.kill("worker")
    assert "uplinks+alerts+deliveries+background" in {one.name.partition("@")[0] for one in heartbeats.living()}
