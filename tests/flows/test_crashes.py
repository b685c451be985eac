"""Processes die at the worst moment: afterwards every frame has one verdict and every reading stands once."""

import random
import signal
import threading
import time
from collections.abc import Iterator

import httpx
import pytest
from django.db.models.functions import Now
from pytest_django import DjangoDbBlocker

from ami_headend import schedule_lease
from ami_headend.health import doctor
from ami_headend.local import embedded
from ami_headend.models import ScheduleLease
from ami_headend.processes import beat_command
from concentrators.models import Uplink
from tests.concentrators.fleet import Device
from tests.flows import site as sites
from tests.flows.site import (
    Site,
    assert_one_verdict_each,
    assert_readings,
    counter_held,
    frames_of,
    readings_expected,
    receptions_held,
    sweep_until_verified,
    tallied,
    waiting_backends,
)
from tests.flows.stack import Stack, running, wait_for

INTERVALS = range(40)


class Queue:
    """A Redis of this module's own, to be killed and started again."""

    def __init__(self, folder: "pytest.TempPathFactory") -> None:
        self.folder = folder.mktemp("queue")
        self.url = embedded.redis_url(self.folder)
        self.server = embedded.start_redis(self.folder)

    def freeze(self) -> None:
        self.server.process.send_signal(signal.SIGSTOP)

    def restart(self) -> None:
        """Kill -9, and start again with nothing in it."""
        self.server.process.kill()
        self.server.process.wait()
        self.server = embedded.start_redis(self.folder)


@pytest.fixture(scope="module")
def queue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Queue]:
    queue = Queue(tmp_path_factory)
    yield queue
    queue.server.stop()


@pytest.fixture(scope="module")
def stack(
    queue: Queue, django_db_setup: None, django_db_blocker: DjangoDbBlocker, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    environ = {"REDIS_URL": queue.url, "UPLINK_SWEEP_AFTER_S": "1"}
    with django_db_blocker.unblock(), running(tmp_path_factory.mktemp("stack"), environ=environ) as stack:
        yield stack


@pytest.fixture
def site(stack: Stack) -> Site:
    for name in ("web", "worker"):
        if name not in stack.processes:
            stack.start(name)
    return sites.found(stack, 25)


def mixed(devices: list[Device]) -> list[bytes]:
    """A big uplink: all good frames, one of them twice, and a forged one in the middle."""
    frames = frames_of(devices, INTERVALS)
    forged = bytearray(frames[7])
    forged[-1] ^= 1
    return [*frames[:500], bytes(forged), *frames[500:], frames[3]]


def assert_mixed_came_right(site: Site, uplink_id: int) -> None:
    good = len(site.devices) * len(INTERVALS)
    assert assert_one_verdict_each([uplink_id]) == {"accepted": good, "duplicate": 1, "tag_invalid": 1}
    assert tallied(site.concentrator) == {"tag_invalid": 1}
    assert_readings(site.devices, readings_expected(site.devices, INTERVALS))


def kill_children(stack: Stack) -> None:
    for child in stack.children("worker"):
        child.kill()


@pytest.mark.parametrize("whole_worker", [False, True], ids=["child", "whole worker"])
def test_worker_killed_inside_an_uplink(site: Site, whole_worker: bool) -> None:
    stack = site.stack
    with counter_held(stack, site.devices[11]):
        uplink_id = site.posted(mixed(site.devices))
        wait_for("the worker is inside the uplink", lambda: bool(waiting_backends()))
        if whole_worker:
            stack.kill("worker")
        else:
            kill_children(stack)
    assert not Uplink.objects.filter(pk=uplink_id, verified_at__isnull=False).exists()
    assert_readings(site.devices, {})

    if whole_worker:
        stack.start("worker")
    sweep_until_verified(stack, [uplink_id])
    assert_mixed_came_right(site, uplink_id)


def test_task_delivered_again_while_a_worker_has_the_uplink(site: Site) -> None:
    stack = site.stack
    with counter_held(stack, site.devices[0]):
        uplink_id = site.posted(mixed(site.devices))
        wait_for("the worker is inside the uplink", lambda: bool(waiting_backends()))
        stack.enqueue("verify_backlog", uplink_id)
        stack.enqueue("sweep_uplinks")
        other = sites.found(stack, 1)
        sites.wait_verified([other.posted(frames_of(other.devices, range(1)))])  # after those, by the other process
        assert len(waiting_backends()) == 1
    sites.wait_verified([uplink_id])
    assert_mixed_came_right(site, uplink_id)


def test_workers_killed_over_and_over(site: Site) -> None:
    chance = random.Random(17)
    frames = frames_of(site.devices, INTERVALS)
    uplinks = [chance.sample(frames, 700) for _ in range(14)]
    ids = []
    for number, uplink in enumerate(uplinks):
        ids.append(site.posted(uplink))
        time.sleep(chance.random() * 0.15)
        if number % 2:
            kill_children(site.stack)
        site.stack.enqueue("sweep_uplinks")
    sweep_until_verified(site.stack, ids)

    covered = set().union(*uplinks)
    assert len(covered) == len(frames)
    posted = sum(map(len, uplinks))
    assert assert_one_verdict_each(ids) == {"accepted": len(frames), "duplicate": posted - len(frames)}
    assert_readings(site.devices, readings_expected(site.devices, INTERVALS))


def test_redis_loses_every_task(site: Site) -> None:
    stack = site.stack
    stack.stop("worker")
    with stack.redis() as client:
        client.flushall()  # what the worker gave back
        ids = [site.posted(frames_of([device], range(3))) for device in site.devices[:5]]
        assert client.llen("uplinks") == 5
        client.flushall()
    stack.start("worker")
    time.sleep(0.5)
    assert Uplink.objects.filter(pk__in=ids, verified_at=None).count() == 5

    sweep_until_verified(stack, ids)
    assert assert_one_verdict_each(ids) == {"accepted": 15}
    assert_readings(site.devices, readings_expected(site.devices[:5], range(3)))


def test_beat_sweeps_by_itself(site: Site, queue: Queue) -> None:
    stack = site.stack
    stack.stop("worker")
    stack.start("beat", env={"AMI_VAR_DIR": str(queue.folder)})
    uplink_id = site.posted(frames_of(site.devices, range(2)))
    queue.restart()  # under a running web server and beat
    stack.start("worker")  # the task is gone, and no other task comes that would take the uplink along
    assert not sites.all_verified([uplink_id])
    sites.wait_verified([uplink_id])
    stack.stop("beat")
    assert_readings(site.devices, readings_expected(site.devices, range(2)))


def test_another_beat_takes_over_from_one_that_was_killed(site: Site, queue: Queue) -> None:
    """Two processes as on two hosts: one is at work, the other within seconds after kill -9, and nothing is lost."""
    stack = site.stack
    stack.start("beat", env={"AMI_VAR_DIR": str(queue.folder)})
    wait_for("the first is at work", lambda: at_work(stack.processes["beat"].pid))
    stack.start("standby", beat_command(), env={"AMI_VAR_DIR": str(queue.folder)})
    wait_for("the other runs", lambda: "beat: Starting" in stack.log("standby").read_text())
    with stack.redis() as client:
        uplink_id = site.posted(frames_of(site.devices, range(2)))
        client.flushall()  # its task is lost: the schedule brings it again
        stack.kill("beat")
        killed = time.monotonic()
        wait_for("the other is at work", lambda: at_work(stack.processes["standby"].pid))
        assert time.monotonic() - killed < schedule_lease.LEASE_S + schedule_lease.ASK_S + 5
        wait_for("it says so", lambda: "at work now" in stack.log("standby").read_text())
        sites.wait_verified([uplink_id])
    assert next(one for one in doctor.examine() if one.name == "schedule").found.startswith("at work on ")
    stack.start("beat", env={"AMI_VAR_DIR": str(queue.folder)})
    stack.stop("standby")  # it gives the lease up: the other need not wait for its end
    ended = time.monotonic()
    wait_for("the first is at work again", lambda: at_work(stack.processes["beat"].pid))
    assert time.monotonic() - ended < schedule_lease.LEASE_S / 2
    stack.stop("beat")


def at_work(pid: int) -> bool:
    return ScheduleLease.objects.filter(holder__contains=f":{pid}:", until__gt=Now()).exists()


def test_web_killed_between_commit_and_enqueue(site: Site, queue: Queue) -> None:
    stack = site.stack
    frames = mixed(site.devices)
    answers: list[httpx.Response | Exception] = []

    def post() -> None:
        try:
            answers.append(site.post(frames))
        except httpx.TransportError as error:
            answers.append(error)

    posting = threading.Thread(target=post)
    mine = Uplink.objects.filter(concentrator=site.concentrator)
    with receptions_held(stack):
        posting.start()
        wait_for("the post is about to be stored", lambda: bool(waiting_backends()))
        queue.freeze()  # had it been frozen before, the web server would ask it nothing after the commit
    wait_for("the uplink is committed", mine.exists)
    stack.kill("web")
    posting.join()
    queue.restart()  # what the dead web server had sent so far is gone, too
    assert [type(answer) for answer in answers] == [httpx.RemoteProtocolError]

    stack.start("web")
    uplink_id = site.posted(frames)  # the concentrator got no answer and posts again
    assert list(mine.values_list("pk", flat=True)) == [uplink_id]
    sweep_until_verified(stack, [uplink_id])
    assert_mixed_came_right(site, uplink_id)
    assert site.posted(frames) == uplink_id
    assert mine.count() == 1


def test_nothing_is_left_running(stack: Stack) -> None:
    before = stack.living()
    assert len(before) >= 5  # the web server and its child, the worker and its two
    stack.stop_all()
    assert stack.living() == []
