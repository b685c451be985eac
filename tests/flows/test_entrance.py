"""The entrance leads each request to the cell that its token names, or that its concentrator moved to."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from ami_headend.core import bearer
from tests.flows.entrance import Entrance, entrance

RANDOM = "b_" + "A" * 41  # as long as what is random, and it looks as if it named cell b


class Cell(BaseHTTPRequestHandler):
    """Says which cell it is, and what it was told of the client."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        told = " ".join(f"{name}={self.headers.get(name)}" for name in ("X-Forwarded-For", "X-Forwarded-Host"))
        body = f"{self.server.cell} {told}".encode()  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing on stderr."""


class Server(ThreadingHTTPServer):
    def handle_error(self, *_: Any) -> None:
        """Nothing on stderr: HAProxy's checks reset their connection once they know the status."""


@contextmanager
def cell(name: str) -> Iterator[int]:
    server = Server(("127.0.0.1", 0), Cell)
    server.cell = name  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Entrance]:
    folder: Path = tmp_path_factory.mktemp("entrance")
    with cell("a") as a, cell("b") as b, entrance(folder, {"cell_a": a, "cell_b": b}) as running:
        yield running


def assert_problem(answer: Any, status: int) -> None:
    assert (answer.status_code, answer.headers["Content-Type"]) == (status, "application/problem+json")
    assert answer.json()["status"] == status


def test_a_token_is_led_to_the_cell_that_it_names(found: Entrance) -> None:
    for name in ("a", "b"):
        for token in (
            bearer.new(bearer.CONCENTRATOR, name),
            bearer.with_checksum(bearer.new(bearer.PROGRAM, name)),
        ):
            assert found.get(token).text.split()[0] == name


def test_a_token_without_a_name_is_of_the_first_cell_also_if_it_looks_otherwise(found: Entrance) -> None:
    for token in (f"dcu_{RANDOM}", bearer.with_checksum(f"ami_{RANDOM}"), "dcu_", "nonsense", f"dcu_b_{RANDOM}x"):
        assert found.get(token).text.split()[0] == "a", token


def test_an_unknown_cell_and_what_has_no_token_are_told_so(found: Entrance) -> None:
    assert_problem(found.get(bearer.new(bearer.CONCENTRATOR, "c")), 421)
    answer = found.get("")
    assert_problem(answer, 401)
    assert answer.headers["WWW-Authenticate"] == 'Bearer realm="ami-headend"'
    for path in ("/metrics", "/health/live", "/admin/", "/%61pi/v1/commands"):
        assert_problem(found.get(bearer.new(bearer.CONCENTRATOR, "a"), path), 404)


def test_a_cell_learns_who_asked(found: Entrance) -> None:
    headers = {
        "Authorization": f"Bearer {bearer.new(bearer.CONCENTRATOR, 'a')}",
        "X-Forwarded-For": "198.51.100.1",
        "X-Forwarded-Host": "elsewhere.example",
    }
    answer = httpx.get(found.base_url + "/api/v1/commands", headers=headers, verify=found.trusted, timeout=30)
    assert answer.text == "a X-Forwarded-For=127.0.0.1 X-Forwarded-Host=None"


def test_what_moved_is_held_and_then_led_elsewhere_by_its_digest(found: Entrance) -> None:
    moves, stays = bearer.new(bearer.CONCENTRATOR, "a"), bearer.new(bearer.CONCENTRATOR, "a")
    unnamed = bearer.new(bearer.CONCENTRATOR)
    lines = [f"{bearer.digest(token).hex()} {{}}\n" for token in (moves, unnamed)]
    found.lead("".join(lines).replace("{}", "hold"))
    for token in (moves, unnamed):
        answer = found.get(token)
        assert_problem(answer, 503)
        assert answer.headers["Retry-After"] == "60"
    assert found.get(stays).text.split()[0] == "a"
    found.lead("".join(lines).replace("{}", "cell_b"))
    assert [found.get(token).text.split()[0] for token in (moves, unnamed, stays)] == ["b", "b", "a"]
    found.lead("")
    assert found.get(moves).text.split()[0] == "a"
