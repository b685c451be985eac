"""Database or broker hang, are locked or cannot be written: answers come in time, and all is well again by itself."""

import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import psycopg
import pytest
from django.db import connections

from tests.flows import site as sites
from tests.flows.services import Services, freeze, services_and_stack, thaw
from tests.flows.site import Site, frames_of
from tests.flows.stack import TRUSTED, Stack, wait_for

SOON_S = 20.0  # the deadlines below, several times over: this machine may be busy
DEADLINES = {"WEB_POST_S": "3", "WEB_PROBE_S": "3", "WEB_PAGE_S": "3", "METRICS_TOKEN": "scrape"}
CONCENTRATORS = 16


services, stack = services_and_stack("web", environ=DEADLINES)


@pytest.fixture
def site(stack: Stack) -> Site:
    return sites.found(stack, 1)


def get(stack: Stack, path: str) -> httpx.Response:
    return httpx.get(stack.base_url + path, timeout=SOON_S, verify=TRUSTED, headers={"Authorization": "Bearer scrape"})


def posts_at_once(site: Site) -> list[httpx.Response]:
    frames = frames_of(site.devices, range(CONCENTRATORS))
    with ThreadPoolExecutor(CONCENTRATORS) as clients:
        return list(clients.map(lambda frame: site.post([frame], timeout_s=SOON_S), frames))


def assert_come_again(answers: list[httpx.Response]) -> None:
    for answer in answers:
        assert answer.status_code == 503, answer.text
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert int(answer.headers["Retry-After"]) > 0


def assert_well_again(stack: Stack, site: Site) -> None:
    wait_for("posts are taken", lambda: site.post(frames_of(site.devices, [99])).status_code == 202)
    wait_for("it is ready", lambda: get(stack, "/health/ready").status_code == 200)
    assert get(stack, "/admin/login/").status_code == 200


def test_a_hung_database(stack: Stack, services: Services, site: Site) -> None:
    assert site.post(frames_of(site.devices, [50])).status_code == 202  # connections are open
    freeze(services.postgres.process)
    try:
        with ThreadPoolExecutor(1) as posting:
            answers = posting.submit(posts_at_once, site)
            for _ in range(3):
                assert get(stack, "/health/live").json() == {"live": True}
            unready = get(stack, "/health/ready")
            assert (unready.status_code, unready.json()["checks"]["database"]) == (503, "failed")
            metrics = get(stack, "/metrics")
            assert metrics.status_code == 200
            assert "ami_headend_database_up 0.0" in metrics.text
            assert "ami_headend_master_key_up 1.0" in metrics.text
            assert_come_again(answers.result(60))
    finally:
        thaw(services.postgres.process)
        connections.close_all()
    assert_well_again(stack, site)


def test_a_locked_table(stack: Stack, site: Site) -> None:
    with psycopg.connect(stack.env["DATABASE_URL"]) as other, ThreadPoolExecutor(1) as posting:
        other.execute("LOCK TABLE concentrators_uplink")
        answers = posting.submit(posts_at_once, site)
        while not answers.done():
            assert get(stack, "/health/live").status_code == 200
            assert get(stack, "/health/ready").status_code == 200
        assert_come_again(answers.result())
        other.rollback()
    assert_well_again(stack, site)


def test_a_database_that_cannot_be_written(stack: Stack, site: Site) -> None:
    """As a standby, or one set read-only; once it can be, new sessions find out by themselves."""
    with psycopg.connect(stack.owner_url, autocommit=True) as owner:

        def set_read_only(value: str) -> None:
            owner.execute(f"ALTER DATABASE postgres SET default_transaction_read_only = {value}")

        set_read_only("on")
        owner.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        try:
            wait_for("sessions are new", lambda: "cannot be written" in site.post(frames_of(site.devices, [1])).text)
            assert_come_again(posts_at_once(site)[:4])
            unready = get(stack, "/health/ready")
            assert (unready.status_code, unready.json()["checks"]["database"]) == (503, "failed")
            doctor = stack.manage("doctor")
            assert doctor.returncode == 1
            assert "cannot be written" in doctor.stdout
        finally:
            set_read_only("off")
            connections.close_all()
    assert_well_again(stack, site)


def test_a_column_that_changed_under_it(stack: Stack, site: Site) -> None:
    uplink_id = site.posted(frames_of(site.devices, [2]))
    url = f"{stack.base_url}/api/v1/uplinks/{uplink_id}"

    def statuses() -> list[int]:
        return [httpx.get(url, headers=site.headers, timeout=SOON_S, verify=TRUSTED).status_code for _ in range(48)]

    assert set(statuses()) == {200}  # prepared in every thread by now
    with psycopg.connect(stack.owner_url, autocommit=True) as owner:
        owner.execute("ALTER TABLE concentrators_uplink ALTER rejected TYPE bigint")
    try:
        found = statuses()
        assert set(found) <= {200, 503}
        assert found[-1] == 200
    finally:
        with psycopg.connect(stack.owner_url, autocommit=True) as owner:
            owner.execute("ALTER TABLE concentrators_uplink ALTER rejected TYPE integer")


@pytest.mark.parametrize("trouble", ["hung", "replica"])
def test_a_broker_that_takes_nothing(stack: Stack, services: Services, site: Site, trouble: str) -> None:
    """What is stored is answered, and few of many posts wait for Redis."""
    if trouble == "hung":
        freeze(services.redis.process)
    else:
        stack.redis().replicaof("127.0.0.1", "1")
    try:
        began_s = time.monotonic()
        answers = [site.post(frames_of(site.devices, [number])) for number in range(6)]
        took_s = time.monotonic() - began_s
    finally:
        thaw(services.redis.process)
        stack.redis().replicaof("NO", "ONE")
    assert [answer.status_code for answer in answers] == [202] * 6
    assert took_s < SOON_S
