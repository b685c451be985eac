"""What a mask authority may answer over HTTP: whatever it is, the sweep goes on with the others."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest

from concentrators.totals import mask_client
from concentrators.totals.mask_client import NoAnswerError
from tests.alerts.drips import dripping


@contextmanager
def answering(status: int, body: bytes, *headers: tuple[str, str]) -> Iterator[str]:
    """The address of an authority that answers every request so."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            for name, value in (("Content-Length", str(len(body))), *headers):
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def refused(url: str) -> tuple[str, str]:
    with pytest.raises(NoAnswerError) as caught:
        mask_client.post(url, b"request")
    return caught.value.code, str(caught.value)


def test_an_answer_comes_as_it_is() -> None:
    with answering(200, b"signed") as url:
        assert mask_client.post(url + "/", b"request") == b"signed"


@pytest.mark.parametrize("escape", ["\\u0000", "\\ud800", "\\n"])
def test_what_a_problem_says_can_be_stored_and_logged(escape: str) -> None:
    body = f'{{"code": "too{escape}few", "detail": "none{escape}"}}'.encode()
    with answering(409, body) as url:
        for text in refused(url):
            assert text.isprintable()
            text.encode()


@pytest.mark.parametrize(
    ("body", "detail"),
    [(b"[" * 60_000, "it answered 409"), (b"[]", "it answered 409"), (b'{"code": 1}', "it answered 409")],
    ids=["deep", "a list", "without a detail"],
)
def test_a_problem_that_says_nothing(body: bytes, detail: str) -> None:
    with answering(409, body) as url:
        assert refused(url) == ("", detail)


def test_its_own_trouble_is_no_refusal() -> None:
    body = json.dumps({"code": "other_set", "detail": "the state needs its operator"}).encode()
    with answering(503, body) as url:
        assert refused(url) == ("", "it answered 503: the state needs its operator")


def test_too_long_an_answer_is_not_read_to_its_end() -> None:
    with answering(200, bytes(70_000)) as url:
        assert refused(url)[0] == "malformed_answer"


@pytest.mark.timeout(60, func_only=True)
@pytest.mark.parametrize(
    ("text", "quick"),
    [(b"X-Filler: a\r\n", (b"HTTP/1.1 200 OK\r\n",)), (b"octets", (b"HTTP/1.1 200 OK\r\n\r\n",))],
    ids=["headers", "body"],
)
def test_one_that_drips_is_left_when_its_time_is_up(
    text: bytes, quick: tuple[bytes, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mask_client, "EXCHANGE_S", 0.5)
    with dripping(text, quick) as peer:
        code, detail = refused(f"http://127.0.0.1:{peer.port}")
    assert (code, "cannot be reached" in detail) == ("", True)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "http://[::1", "http://no-such-name.invalid", "http://a" * 40])
def test_one_that_is_not_there(url: str) -> None:
    assert refused(url)[0] == ""
