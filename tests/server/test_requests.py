"""What is read as a request, what is refused before its body is taken in, and which threads answer."""

import itertools

import pytest

from ami_headend.server.request_classes import (
    ANONYMOUS_MAX_OCTETS,
    FILE_MAX_OCTETS,
    PEOPLE_MAX_OCTETS,
    SIGN_IN_MAX_OCTETS,
    Pool,
    classify,
)
from ami_headend.server.requests import CheckedRequest, Limits

UPLINK_MAX = 100_000
LINE = b"POST /api/v1/uplinks HTTP/1.1\r\nHost: localhost\r\n"
CHUNK = b"5\r\nhello\r\n"


def read(octets: bytes, url_prefix: str = "", step: int = 1 << 30) -> tuple[CheckedRequest, bytes]:
    """The first request in octets that come in steps, and what is left of them."""
    limits = Limits(max_request_header_size=32 * 1024, max_request_body_size=1 << 60, url_prefix=url_prefix)
    limits.uplink_max_octets = UPLINK_MAX
    request = CheckedRequest(limits)
    while octets and not request.completed:
        consumed = request.received(octets[:step])
        octets = octets[consumed:] if consumed else octets
        if not consumed:
            break
    return request, octets


def refused_with(request: CheckedRequest) -> int | None:
    return None if request.error is None else int(request.error.code)


@pytest.mark.parametrize("step", [1, 7, 1 << 30])
@pytest.mark.parametrize(
    "framing",
    [
        b"Content-Length: 5\r\n\r\nhello",
        b"Transfer-Encoding: chunked\r\n\r\n" + CHUNK + b"0\r\n\r\n",
        b"transfer-encoding: Chunked\r\n\r\n2;name=value\r\nhe\r\n3\r\nllo\r\n0\r\nTrailer: x\r\n\r\n",
    ],
)
def test_a_body_is_read_whole_in_either_form(framing: bytes, step: int) -> None:
    request, left = read(LINE + framing + b"GET /next", step=step)
    assert (request.completed, refused_with(request)) == (True, None)
    assert request.get_body_stream().read() == b"hello"
    assert request.headers["CONTENT_LENGTH"] == "5"
    assert b"GET /next".endswith(left) or left == b"GET /next"


@pytest.mark.parametrize("cut", range(1, len(CHUNK) + 5))
def test_a_chunked_body_that_is_cut_short_is_not_whole(cut: int) -> None:
    whole = LINE + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNK + b"0\r\n\r\n"
    assert not read(whole[:-cut])[0].completed


@pytest.mark.parametrize(
    ("framing", "status"),
    [
        (b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\nhello", 400),
        (b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!", 400),
        (b"Content-Length: 5, 5\r\n\r\nhello", 400),
        (b"Content-Length: +5\r\n\r\nhello", 400),
        (b"Content-Length: -5\r\n\r\n", 400),
        (b"Content-Length: 0x5\r\n\r\nhello", 400),
        (b"Content-Length : 5\r\n\r\nhello", 400),
        (b"Transfer-Encoding: gzip, chunked\r\n\r\n" + CHUNK, 501),
        (b"Transfer-Encoding: identity\r\n\r\nhello", 501),
        (b"Transfer-Encoding: \x0bchunked\r\n\r\n" + CHUNK, 400),
        (b"Transfer-Encoding: xchunked\r\n\r\n" + CHUNK, 501),
        (b"Transfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n", 400),
        (b"Transfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n", 400),
        (b"Transfer-Encoding: chunked\r\n\r\n5\r\nhelloworld\r\n", 400),
        (b"Transfer-Encoding: chunked\r\n\r\n5;" + b"x" * 5000, 400),
        (b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"X: y\r\n" * 4000, 400),
        (b"A: b\rContent-Length: 5\r\n\r\nhello", 400),
        (b"A: b\nContent-Length: 5\r\n\r\nhello", 400),
        (b" folded: yes\r\n\r\n", 400),
        (b"X: " + b"y" * 40_000, 431),
    ],
)
def test_what_has_two_readings_is_refused(framing: bytes, status: int) -> None:
    # The line alone: what stands first in the headers may be what is wrong.
    request, _ = read(LINE.partition(b"Host")[0] + framing)
    assert refused_with(request) == status
    assert request.completed


@pytest.mark.parametrize(
    "line",
    [
        b"GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET http://[ HTTP/1.1\r\n\r\n",
        b"get / HTTP/1.1\r\n\r\n",
        b"GET /a b HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\r\n\r\n",
    ],
)
def test_lines_that_are_none(line: bytes) -> None:
    assert refused_with(read(line)[0]) == 400


def test_names_with_underscores_do_not_override_the_proxy() -> None:
    for names in itertools.permutations((b"X-Forwarded-For: 203.0.113.5\r\n", b"X_Forwarded_For: 198.51.100.1\r\n")):
        request, _ = read(LINE + b"".join(names) + b"X_Forwarded-Proto: https\r\n\r\n")
        assert request.headers["X_FORWARDED_FOR"] == "203.0.113.5"
        assert "X_FORWARDED_PROTO" not in request.headers


@pytest.mark.parametrize(
    ("head", "most"),
    [
        (b"POST /api/v1/uplinks HTTP/1.1\r\n", UPLINK_MAX + 1),
        (b"POST /api/v1/commands/1/receipt HTTP/1.1\r\n", ANONYMOUS_MAX_OCTETS),
        (b"POST /admin/login/ HTTP/1.1\r\nCookie: sessionid=x\r\n", SIGN_IN_MAX_OCTETS),
        (b"POST /sign-in/second-factor/ HTTP/1.1\r\nCookie: sessionid=x\r\n", SIGN_IN_MAX_OCTETS),
        (b"POST /admin/meters/ HTTP/1.1\r\n", ANONYMOUS_MAX_OCTETS),
        (b"POST /admin/meters/ HTTP/1.1\r\nCookie: sessionid=x\r\n", PEOPLE_MAX_OCTETS),
        (b"POST /admin/meters/import/ HTTP/1.1\r\n", ANONYMOUS_MAX_OCTETS),
        (b"POST /admin/meters/import/ HTTP/1.1\r\nCookie: sessionid=x\r\n", FILE_MAX_OCTETS),
        (b"POST /health/live HTTP/1.1\r\n", 0),
    ],
)
def test_too_large_a_body_is_refused_before_it_is_read(head: bytes, most: int) -> None:
    allowed, _ = read(head + b"Content-Length: %d\r\n\r\n" % most)
    assert refused_with(allowed) is None
    for expecting in (b"", b"Expect: 100-continue\r\n"):
        refused, _ = read(head + expecting + b"Content-Length: %d\r\n\r\n" % (most + 1))
        assert (refused_with(refused), refused.completed, refused.expect_continue) == (413, True, False)
    chunked = head + b"Transfer-Encoding: chunked\r\n\r\n" + b"%x\r\n" % (most + 1) + bytes(most + 1)
    large, _ = read(chunked)
    assert refused_with(large) == 413
    large.close()


def test_nothing_is_waited_for_without_a_body() -> None:
    request, _ = read(b"GET / HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n\r\n")
    assert (request.completed, request.expect_continue) == (True, False)


@pytest.mark.parametrize(
    ("method", "path", "query", "headers", "pool"),
    [
        ("GET", "/health/live", "", {}, Pool.LIVE),
        ("GET", "/health/ready", "", {}, Pool.WATCH),
        ("GET", "/metrics", "", {}, Pool.WATCH),
        ("POST", "/api/v1/uplinks", "", {}, Pool.INGEST),
        ("GET", "/api/v1/uplinks/7", "", {}, Pool.INGEST),
        ("POST", "/api/v1/commands/7/receipt", "", {}, Pool.INGEST),
        ("POST", "/admin/login/", "", {}, Pool.SIGN_IN),
        ("GET", "/admin/login/", "", {}, Pool.PEOPLE),
        ("GET", "/api/v1/readings", "format=csv", {"AUTHORIZATION": "Basic eDp5"}, Pool.EXPORT),
        ("GET", "/api/v1/readings", "", {"ACCEPT": "application/vnd.apache.parquet"}, Pool.EXPORT),
        ("GET", "/api/v1/totals", "", {"ACCEPT": "text/csv, */*"}, Pool.EXPORT),
        ("GET", "/admin/failures/export/", "", {}, Pool.EXPORT),
        ("GET", "/admin/meters/", "status=retired&export=csv", {"COOKIE": "x"}, Pool.EXPORT),
        ("GET", "/admin/alerts/", "export=parquet", {"COOKIE": "x"}, Pool.EXPORT),
        ("GET", "/api/v1/places/7/green-button", "from=2026-01-01", {}, Pool.EXPORT),
        ("GET", "/api/v1/places/7/market-document", "", {}, Pool.EXPORT),
        ("GET", "/api/v1/readings", "", {"AUTHORIZATION": "basic eDp5"}, Pool.PROGRAM),
        ("GET", "/api/v1/readings", "format=json", {"AUTHORIZATION": "Bearer ami_x"}, Pool.PROGRAM),
        ("GET", "/api/v1/hop-keys", "", {"AUTHORIZATION": "Bearer dcu_x"}, Pool.PROGRAM),
        ("GET", "/admin/", "", {"ACCEPT": "text/html"}, Pool.PEOPLE),
    ],
)
def test_each_kind_has_threads_of_its_own(
    method: str, path: str, query: str, headers: dict[str, str], pool: Pool
) -> None:
    assert classify(method, path, query, headers, UPLINK_MAX).pool is pool


def test_below_a_prefix_the_classes_are_the_same() -> None:
    request, _ = read(b"GET /ami/health/live HTTP/1.1\r\n\r\n", url_prefix="/ami")
    assert request.request_class.pool is Pool.LIVE
    assert read(b"GET /amihealth/live HTTP/1.1\r\n\r\n", url_prefix="/ami")[0].request_class.pool is Pool.PEOPLE
