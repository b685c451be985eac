"""A simulated concentrator against a real HTTP server that is busy, drops answers, or refuses."""

import gzip
import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cbor2
import pytest
import zstandard

from concentrators.simulator.concentrator import (
    COMMANDS_PATH,
    HOP_FAILURES_PATH,
    HOP_KEYS_PATH,
    Options,
    RefusedError,
    SimulatedConcentrator,
    retry_after_s,
)
from concentrators.simulator.link_store import LinkStore
from concentrators.simulator.spool import Outgoing, Spool
from keyvault.cose.structures import split_sequence
from tests.flows.stack import wait_for


class HeadEnd(ThreadingHTTPServer):
    """Keeps bodies; ``script`` holds what to do with the next posts instead: a status, or None to drop the answer."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.bodies: dict[str, int] = {}
        self.posts: list[tuple[float, bytes, str]] = []
        self.script: list[tuple[int, dict[str, str]] | None] = []
        self.unverified = 0
        self.failures: list[dict[str, object]] = []
        self.keys_busy = 0  # how often hop keys are refused
        self.asked: list[str] = []
        self.receipts: list[int] = []  # of commands: how many requests came before each

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def frames(self) -> list[bytes]:
        return [frame for body in self.stored for frame in split_sequence(body)]

    @property
    def stored(self) -> list[bytes]:
        seen: dict[bytes, None] = {}
        for _, body, _ in self.posts:
            seen.setdefault(body)
        return list(seen)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HeadEnd

    def do_POST(self) -> None:
        octets = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path.startswith(COMMANDS_PATH):
            self.server.receipts.append(len(self.server.asked))
            return self.say(204, b"")
        if self.path == HOP_FAILURES_PATH:
            self.server.failures += json.loads(octets)["failures"]
            self.send_response(204)
            return self.end_headers()
        encoding = self.headers.get("Content-Encoding", "")
        decoders: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.decompress, "zstd": zstandard.decompress}
        body = decoders.get(encoding, bytes)(octets)
        assert self.headers["Authorization"] == "Bearer token-1"
        assert self.headers["Content-Type"] == "application/cbor-seq"
        step = self.server.script.pop(0) if self.server.script else (202, {})
        if step is not None and step[0] != 202:
            return self.answer(step[0], {"detail": "scripted"}, step[1])
        self.server.posts.append((time.monotonic(), body, encoding))
        digest = hashlib.sha256(body).hexdigest()
        uplink = self.server.bodies.setdefault(digest, len(self.server.bodies) + 1)
        if step is None:
            self.close_connection = True
            return None
        return self.answer(202, {"uplink": uplink, "sha256": digest, "frames": len(split_sequence(body))})

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        if self.path == COMMANDS_PATH:
            return self.say(200, cbor2.dumps([7, bytes(8), b"a new key"]))
        if self.path == HOP_KEYS_PATH:
            self.server.keys_busy -= 1
            return self.answer(503 if self.server.keys_busy >= 0 else 200, {"keys": "of meters"})
        self.server.unverified -= 1
        return self.answer(200, {"verified": self.server.unverified < 0})

    def answer(self, status: int, content: dict[str, object], headers: dict[str, str] | None = None) -> None:
        self.say(status, json.dumps(content).encode(), headers)

    def say(self, status: int, octets: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(octets)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(octets)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Quiet."""


@pytest.fixture
def head_end() -> Iterator[HeadEnd]:
    with HeadEnd() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def run(spool: Spool, url: str, compression: str = "none", links: LinkStore | None = None) -> SimulatedConcentrator:
    draining = threading.Event()
    draining.set()
    options = Options(url, batch_frames=3, compression=compression)
    concentrator = SimulatedConcentrator(0, spool, "token-1", options, draining, threading.Event(), links=links)
    concentrator.start()
    concentrator.join(20)
    assert not concentrator.is_alive()
    return concentrator


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    spool = Spool(tmp_path)
    spool.hand_over([Outgoing(0, bytes([n]) * 30, "accepted") for n in range(8)], [])
    return spool


FRAMES = [bytes([n]) * 30 for n in range(8)]


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
def test_everything_arrives_in_order(head_end: HeadEnd, spool: Spool, compression: str) -> None:
    concentrator = run(spool, head_end.url, compression)
    assert concentrator.error is None
    assert head_end.frames() == FRAMES
    assert {encoding for *_, encoding in head_end.posts} == {"" if compression == "none" else compression}
    assert concentrator.posted_frames == 8


def test_lost_answer_is_posted_again_octet_for_octet(head_end: HeadEnd, spool: Spool) -> None:
    head_end.script = [None, (202, {}), None, None]
    concentrator = run(spool, head_end.url)
    assert concentrator.error is None
    assert (len(head_end.posts), len(head_end.stored)) == (6, 3)
    assert head_end.frames() == FRAMES
    assert [uplink for _, uplink, _ in spool.posted()] == [1, 2, 3]
    assert concentrator.repeats == 3


def test_busy_head_end_is_left_alone_as_long_as_it_asked(head_end: HeadEnd, spool: Spool) -> None:
    head_end.script = [(202, {}), (429, {"Retry-After": "1"}), (503, {}), (500, {})]
    concentrator = run(spool, head_end.url)
    assert concentrator.error is None
    assert head_end.frames() == FRAMES
    assert head_end.posts[1][0] - head_end.posts[0][0] >= 1


def test_refusal_ends_it_and_keeps_the_frames(head_end: HeadEnd, spool: Spool) -> None:
    head_end.script = [(413, {})]
    concentrator = run(spool, head_end.url)
    assert isinstance(concentrator.error, RefusedError)
    assert "413" in str(concentrator.error)
    assert run(spool, head_end.url).error is None
    assert head_end.frames() == FRAMES


def test_follower_waits_for_the_verdicts(head_end: HeadEnd, tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    first = Outgoing(0, b"first", "accepted")
    spool.hand_over([first, Outgoing(0, b"follower", "counter_reused", behind=first)], [])
    head_end.unverified = 3
    assert run(spool, head_end.url).error is None
    assert head_end.stored == [b"\x45first", b"\x48follower"]
    assert head_end.unverified < 0


def test_one_that_holds_keys_fetches_them_and_says_what_it_dropped(head_end: HeadEnd, spool: Spool) -> None:
    links = LinkStore(spool)
    with spool.transaction() as db:
        failures = [{"system_title": "00" * 8, "frames": number} for number in range(1_100)]
        links.write(db, {0: (b"state", failures)}, {}, [])
    assert run(spool, head_end.url, links=links).error is None
    assert json.loads(links.keys(0)) == {"keys": "of meters"}
    assert head_end.failures == failures  # in parts, of which the head-end takes no more at once
    assert head_end.frames() == FRAMES


def test_no_command_is_passed_on_before_the_keys_that_it_may_bring(head_end: HeadEnd, tmp_path: Path) -> None:
    spool, giving_up = Spool(tmp_path), threading.Event()
    links, head_end.keys_busy = LinkStore(spool), 3
    options = Options(head_end.url, commands_every_s=0)
    concentrator = SimulatedConcentrator(0, spool, "token-1", options, threading.Event(), giving_up, links=links)
    concentrator.start()
    wait_for("the command is passed on", lambda: bool(spool.mail(time.time())), 10)
    giving_up.set()
    concentrator.join(10)
    before = [path for path in head_end.asked[: head_end.receipts[0]] if path in (HOP_KEYS_PATH, COMMANDS_PATH)]
    assert before == [HOP_KEYS_PATH, COMMANDS_PATH] * 3 + [HOP_KEYS_PATH]


def test_giving_up_ends_it_though_nobody_answers(spool: Spool) -> None:
    giving_up = threading.Event()
    concentrator = SimulatedConcentrator(
        0, spool, "token-1", Options("http://127.0.0.1:9"), threading.Event(), giving_up
    )
    concentrator.start()
    time.sleep(0.3)
    assert concentrator.is_alive()
    giving_up.set()
    concentrator.join(10)
    assert not concentrator.is_alive()
    assert concentrator.error is None
    assert list(spool.posted()) == []


def test_retry_after_forms() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert retry_after_s("7", now) == 7
    assert retry_after_s("Thu, 01 Jan 2026 00:00:30 GMT", now) == 30
    assert retry_after_s("Wed, 31 Dec 2025 00:00:30 GMT", now) == 0
    assert retry_after_s("", now) == retry_after_s("soon", now) == 0
