"""PostgreSQL or Redis goes away under a running head-end: nothing is lost, and it recovers by itself."""

import signal
import time

import httpx
import psycopg
import pytest
from django.db import connections

from ami_headend.core.broker_errors import REST_S
from ami_headend.local import embedded
from tests.flows import site as sites
from tests.flows.services import Services, services_and_stack
from tests.flows.site import Site, assert_one_verdict_each, assert_readings, frames_of, readings_expected, wait_verified
from tests.flows.stack import TRUSTED, Stack, wait_for

SECONDS = 8  # "within a few seconds": Redis is asked twice, with a timeout each time


services, stack = services_and_stack("web", "worker")


@pytest.fixture
def site(stack: Stack) -> Site:
    return sites.found(stack, 4)


def queued(stack: Stack) -> int:
    with stack.redis() as client:
        return int(client.llen("uplinks"))


def assert_unavailable(answer: httpx.Response) -> None:
    assert answer.status_code == 503, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert int(answer.headers["Retry-After"]) > 0
    assert "database" in answer.json()["detail"]


def test_postgres_stops_and_comes_back(site: Site, services: Services) -> None:
    stack = site.stack
    before = site.posted(frames_of(site.devices, range(5)))
    wait_verified([before])
    services.stop_postgres()
    frames = frames_of(site.devices, range(5, 10))
    try:
        for _ in range(3):
            assert_unavailable(site.post(frames))
        assert_unavailable(
            httpx.get(f"{stack.base_url}/api/v1/uplinks/{before}", headers=site.headers, timeout=30, verify=TRUSTED)
        )
        stack.enqueue("verify_backlog", before)  # the worker, too, finds out
        wait_for("the worker has the task", lambda: queued(stack) == 0)
    finally:
        services.start_postgres()
        connections.close_all()
    after = site.posted(frames)
    wait_verified([after])
    assert assert_one_verdict_each([before, after]) == {"accepted": 40}
    assert_readings(site.devices, readings_expected(site.devices, range(10)))


def test_postgres_stops_while_uplinks_are_queued(site: Site, services: Services) -> None:
    """Tasks that find no database are tried again; what was committed is verified when it is back, without a sweep."""
    stack = site.stack
    stack.stop("worker")
    ids = [site.posted(frames_of([device], range(5))) for device in site.devices]
    services.stop_postgres()

    try:
        stack.start("worker")
        wait_for("the worker has the tasks", lambda: queued(stack) == 0)
        time.sleep(1)  # and tries them in vain
    finally:
        services.start_postgres()
        connections.close_all()
    wait_verified(ids)
    assert assert_one_verdict_each(ids) == {"accepted": 20}
    assert_readings(site.devices, readings_expected(site.devices, range(5)))


def test_connections_cut_inside_an_uplink(site: Site) -> None:
    """The database ends every connection, one of them inside a verification: tried again, and counted once."""
    stack = site.stack
    with sites.counter_held(stack, site.devices[1]):
        uplink_id = site.posted(frames_of(site.devices, range(20)))
        wait_for("the worker is inside the uplink", lambda: bool(sites.waiting_backends()))
        with psycopg.connect(stack.env["DATABASE_URL"], autocommit=True) as other:
            other.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
                " AND pid <> pg_backend_pid() AND (wait_event_type = 'Lock' OR state = 'idle')"
            )
    connections.close_all()
    wait_verified([uplink_id])
    assert assert_one_verdict_each([uplink_id]) == {"accepted": 80}
    assert_readings(site.devices, readings_expected(site.devices, range(20)))


@pytest.mark.parametrize("frozen", [False, True], ids=["killed", "frozen"])
def test_redis_goes_away(site: Site, services: Services, frozen: bool) -> None:
    """An uplink is taken all the same, soon; the sweep brings it once Redis is back. After a rest it is asked again."""
    stack = site.stack
    if frozen:
        services.redis.process.send_signal(signal.SIGSTOP)
    else:
        services.redis.process.kill()
        services.redis.process.wait()
    try:
        ids = []
        for device in site.devices[:2]:
            started = time.monotonic()
            ids.append(site.posted(frames_of([device], range(5))))
            asked = time.monotonic()
            assert asked - started < SECONDS
        assert site.status(ids[0])["verified"] is False
    finally:
        if frozen:
            services.redis.process.send_signal(signal.SIGCONT)
        else:
            services.redis = embedded.start_redis(services.folder)
    sites.sweep_until_verified(stack, ids)
    time.sleep(max(0, asked + REST_S - time.monotonic()))
    ids.append(site.posted(frames_of(site.devices[2:], range(5))))
    wait_verified(ids)  # without a sweep
    assert assert_one_verdict_each(ids) == {"accepted": 20}
    assert_readings(site.devices, readings_expected(site.devices, range(5)))


def test_redis_killed_while_workers_hold_tasks(site: Site, services: Services) -> None:
    """The worker outlives it, though it holds tasks that it can neither finish nor give back."""
    stack = site.stack
    with sites.counter_held(stack, site.devices[0]):
        ids = [site.posted(frames_of(site.devices, [number])) for number in range(12)]
        wait_for("the worker is inside an uplink", lambda: bool(sites.waiting_backends()))
        stack.enqueue("verify_backlog", ids[0], countdown_s=60)  # as a retry: the worker takes it and waits
        time.sleep(0.5)
        services.redis.process.kill()
        services.redis.process.wait()
        time.sleep(0.3)
        services.redis = embedded.start_redis(services.folder)
    sites.sweep_until_verified(stack, ids)
    wait_verified([site.posted(frames_of(site.devices, range(12, 13)))])
    assert "Unrecoverable error" not in stack.log("worker").read_text()
    assert assert_one_verdict_each(ids) == {"accepted": 48}
    assert_readings(site.devices, readings_expected(site.devices, range(13)))
