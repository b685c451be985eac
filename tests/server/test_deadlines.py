"""No client stays for ever: deadlines for a request, for silence and for taking an answer, each for the whole of it."""

import time
from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import psutil
import pytest
from pytest_django import DjangoDbBlocker

from tests.flows import site as sites
from tests.flows.stack import TRUSTED, Stack, running, wait_for
from tests.server.clients import answer_of, connected, drip_until_closed, head, sent
from tests.server.rude import ROWS, cookies_of, half_sign_in, many_readings, signed_in


@pytest.fixture(scope="module")
def hasty(
    django_db_setup: None, django_db_blocker: DjangoDbBlocker, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """A web server with short ones."""
    environ = {"WEB_HEAD_S": "1", "WEB_REQUEST_S": "2", "WEB_IDLE_S": "2", "WEB_ANSWER_S": "2"}
    with django_db_blocker.unblock(), running(tmp_path_factory.mktemp("hasty"), ("web",), environ) as stack:
        yield stack


@pytest.mark.parametrize("octets", [b"GET /health/live HTTP/1.1\r\nHos", half_sign_in()], ids=["head", "body"])
def test_dripping_wins_no_time(hasty: Stack, octets: bytes) -> None:
    with sent(hasty.port, octets) as client:
        said = drip_until_closed(client, b"x", every_s=0.1, within_s=15)
    assert said.split(b" ", 2)[1] == b"408", said
    assert b"application/problem+json" in said


def test_silence_ends(hasty: Stack) -> None:
    """Of a connection that never said anything, and of one that was answered."""
    for octets in (b"", head("GET", "/health/live")):
        with sent(hasty.port, octets) as client:
            said = answer_of(client)  # ends with the connection, long before the client's patience
        assert said.startswith(b"HTTP/1.1 200") == bool(octets)


def test_an_answer_that_is_not_taken_is_cut(hasty: Stack) -> None:
    site = sites.found(hasty, 1)
    address = many_readings(site)
    with (
        signed_in(hasty) as browser,
        sent(hasty.port, head("GET", address, Cookie=cookies_of(browser)), 4096) as client,
    ):
        wait_for("it is cut", lambda: "did not read its answer in time" in hasty.log("web").read_text())
        taken = answer_of(client)
    assert taken.startswith(b"HTTP/1.1 200")
    assert taken.count(b"\n") < ROWS


def not_taken(stack: Stack) -> int:
    return stack.log("web").read_text().count("could not be accepted")


def test_without_descriptors_it_waits_and_goes_on(hasty: Stack) -> None:
    """More connections than the process may open files for: they wait, the log does not fill, and then all is well."""
    process = min(hasty.children("web"), key=lambda one: one.pid)  # the other one watches
    before = not_taken(hasty)
    soft, hard = process.rlimit(psutil.RLIMIT_NOFILE)
    process.rlimit(psutil.RLIMIT_NOFILE, (process.num_fds() + 3, hard))
    try:
        with ExitStack() as open_:
            for _ in range(20):
                open_.enter_context(connected(hasty.port))
            wait_for("it is told", lambda: not_taken(hasty) > before)
            time.sleep(1.5)
    finally:
        process.rlimit(psutil.RLIMIT_NOFILE, (soft, hard))
    assert httpx.get(f"{hasty.base_url}/health/live", timeout=20, verify=TRUSTED).status_code == 200
    assert not_taken(hasty) - before < 30
