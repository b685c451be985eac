"""PostgreSQL or Redis goes away under a running head-end: nothing is lost, and it recovers by itself."""

import secrets
import signal
import socket
import time

import httpx
import psycopg
import pytest
from django.db import connections

from ami_headend.core.broker_errors import REST_S
from ami_headend.local import embedded
from ami_headend.processes import manage_command
from concentrators.listener.figures import recent
from concentrators.models import Uplink
from tests.concentrators.dlms_devices import dlms_meter
from tests.concentrators.listener.test_cutters import wrapped
from tests.flows import site as sites
from tests.flows.services import Services, services_and_stack
from tests.flows.site import Site, assert_one_verdict_each, assert_readings, frames_of, readings_expected, wait_verified
from tests.flows.stack import TRUSTED, Stack, free_port, wait_for

SECONDS = 8  # "within a few seconds": Redis is asked twice, with a timeout each time


services, stack = services_and_stack("web", "worker", environ={"METRICS_TOKEN": "scrape"})


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


def test_what_meters_push_while_postgres_is_away_is_committed_once(site: Site, services: Services) -> None:
    """They push over TCP before, meanwhile and after. The listener keeps what came whole, and loses nothing."""
    stack, port = site.stack, free_port()
    device = dlms_meter(secrets.token_bytes(8), secrets.token_bytes(32), site.concentrator)
    pushes = [wrapped(device.frame(bytes(11), counter)) for counter in range(30)]
    listen = [*manage_command("dlms_listen"), "--concentrator", site.concentrator.name, "--port", str(port)]
    stack.start("dlms", listen)
    log = stack.log("dlms")
    wait_for("it listens", lambda: f"port {port}" in log.read_text())

    def counts() -> tuple[int, int]:
        rows = Uplink.objects.filter(concentrator=site.concentrator).values_list("frames", "rejected")
        frames, rejected = zip(*rows, strict=True) if rows else ((), ())
        return sum(frames), sum(rejected)

    with socket.create_connection(("127.0.0.1", port)) as meter:
        meter.sendall(b"".join(pushes[:10]))
        wait_for("the first ones are verified", lambda: counts() == (10, 10))
        services.stop_postgres()
        try:
            meter.sendall(b"".join(pushes[10:20]))
            wait_for("it tried in vain", lambda: "kept and tried again" in log.read_text())
        finally:
            services.start_postgres()
            connections.close_all()
        meter.sendall(b"".join(pushes[20:25]))
        with socket.create_connection(("127.0.0.1", port)) as other:  # whose it is takes the database, too
            other.sendall(b"".join(pushes[25:]))
        wait_for("all are verified", lambda: counts() == (30, 30))
    stack.stop("dlms")  # it tells what it counted
    name = f"{socket.gethostname()} 127.0.0.1:{port} wrapper"
    (told,) = [one.counts for one in recent() if one.name == name]
    assert told == {
        "accepted": 2, "refused": 0, "cut_off": 0, "notifications": 30, "committed": 30, "dropped": 0,
    }  # fmt: skip
    shown = httpx.get(f"{stack.base_url}/metrics", headers={"authorization": "Bearer scrape"}, verify=TRUSTED).text
    assert f'listener_notifications_total{{listener="{name}",result="committed"}} 30.0' in shown


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
