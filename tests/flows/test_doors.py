"""The uplink's door over real HTTP: limits, floods, broken clients, and connections that are kept."""

import gzip
import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from http.client import HTTPConnection, RemoteDisconnected

import httpx
import pytest
import zstandard
from django.db.models import Count

from concentrators.models import Uplink
from keyvault.cose.structures import encode_sequence
from tests.flows import site as sites
from tests.flows.site import CBOR_SEQUENCE, Site, assert_readings, frames_of, readings_expected, wait_verified
from tests.flows.stack import TRUSTED, Stack, stack_of, wait_for

MAX_OCTETS = 65_536
MAX_FRAMES = 200
RATE = 12
QUEUE = 6
LIMITS = {
    "UPLINK_MAX_OCTETS": str(MAX_OCTETS),
    "UPLINK_MAX_FRAMES": str(MAX_FRAMES),
    "UPLINK_RATE": f"{RATE}/minute",
    "UPLINK_QUEUE_MAX": str(QUEUE),
    "UPLINK_QUEUE_SHARE": str(QUEUE),
}


stack = stack_of("web", "worker", environ=LIMITS)


@pytest.fixture
def site(stack: Stack) -> Site:
    return sites.found(stack, 2)


def uplinks_of(site: Site) -> int:
    return Uplink.objects.filter(concentrator=site.concentrator).count()


def assert_problem(answer: httpx.Response, status: int) -> dict[str, object]:
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    problem: dict[str, object] = answer.json()
    assert problem["status"] == status
    assert problem["detail"]
    return problem


def test_limits(site: Site) -> None:
    """What is too big, a bomb, or no CBOR sequence, is refused with a reason, and nothing of it is stored."""
    frame = frames_of(site.devices[:1], range(1))[0]
    bomb = bytes(50 * MAX_OCTETS)
    for body, headers, status in [
        (bytes(MAX_OCTETS + 1), {}, 413),
        (bytes(20 * MAX_OCTETS), {}, 413),
        (gzip.compress(bomb, mtime=0), {"Content-Encoding": "gzip"}, 413),
        (zstandard.compress(bomb), {"Content-Encoding": "zstd"}, 413),
        (encode_sequence([frame] * (MAX_FRAMES + 1)), {}, 413),
        (b"", {}, 400),
        (b"hello", {}, 400),
        (encode_sequence([frame])[:-1], {}, 400),
        (gzip.compress(encode_sequence([frame]), mtime=0)[:-3], {"Content-Encoding": "gzip"}, 400),
        (encode_sequence([frame]), {"Content-Encoding": "br"}, 415),
        (b"{}", {"Content-Type": "application/json"}, 415),
    ]:
        assert_problem(site.post_body(body, headers), status)
    assert uplinks_of(site) == 0


@pytest.mark.parametrize("authorization", ["", "Bearer", "Bearer dcu_wrong", "Basic eDp5", "Bearer a\tb"])
def test_strangers(site: Site, authorization: str) -> None:
    answer = site.post_body(b"\x41a", {"Authorization": authorization})
    assert_problem(answer, 401)
    assert "Bearer" in answer.headers["WWW-Authenticate"]


def test_encodings(site: Site) -> None:
    """The same frames plain, gzipped and zstd-compressed are the same uplink."""
    body = encode_sequence(frames_of(site.devices, range(3)))
    receipts = [
        site.post_body(body).json(),
        site.post_body(gzip.compress(body), {"Content-Encoding": "gzip"}).json(),
        site.post_body(zstandard.compress(body), {"Content-Encoding": "zstd"}).json(),
    ]
    assert receipts[0] == receipts[1] == receipts[2]
    assert uplinks_of(site) == 1


def test_flood_of_one_concentrator(site: Site, stack: Stack) -> None:
    other = sites.found(stack, 1)
    frames = frames_of(site.devices, range(RATE))
    answers = [site.post([frame]) for frame in frames[: RATE + 3]]
    assert [answer.status_code for answer in answers] == [202] * RATE + [429] * 3
    assert_problem(answers[-1], 429)
    assert 1 <= int(answers[-1].headers["Retry-After"]) <= 60
    assert uplinks_of(site) == RATE
    wait_verified([other.posted(frames_of(other.devices, range(1)))])  # costs nobody else


def is_taken(newcomer: Site) -> bool:
    """Whether an uplink of a concentrator is taken that has no posts behind it: each may make few a minute."""
    return newcomer.post(frames_of(newcomer.devices, [0])).status_code == 202


def test_deep_queue(stack: Stack) -> None:
    """With the worker away, uplinks are refused beyond the limit, and taken again once it is back."""
    stack.stop("worker")
    doors = [sites.found(stack, 1) for _ in range(4)]
    accepted: list[httpx.Response] = []
    refused: list[httpx.Response] = []
    for number in range(40):
        time.sleep(0.05)  # the web server looks at the backlog once a second
        door = doors[number % 4]
        answer = door.post(frames_of(door.devices, range(number, number + 1)))
        (accepted if answer.status_code == 202 else refused).append(answer)
        if refused:
            break
    assert len(accepted) > QUEUE
    assert_problem(refused[0], 503)
    assert int(refused[0].headers["Retry-After"]) > 0
    stack.start("worker")
    wait_verified([answer.json()["uplink"] for answer in accepted])
    wait_for("the door opens again", lambda: is_taken(sites.found(stack, 1)))


def test_one_connection_for_many_requests(site: Site) -> None:
    """After every kind of answer the next one is the answer to the next request.

    Where the server has not read the body, it may close the connection; the client then opens another.
    """
    good = encode_sequence(frames_of(site.devices, range(2)))
    path = "/api/v1/uplinks"
    reopened = 0
    with closing(HTTPConnection("127.0.0.1", site.stack.port, timeout=20)) as connection:
        for method, where, body, headers, status in [
            ("POST", path, good, site.headers, 202),
            ("POST", path, b"hello", site.headers, 400),
            ("GET", "/api/v1/uplinks/999999", None, site.headers, 404),
            ("HEAD", "/api/schema/", None, {}, 200),
            ("GET", "/api/v1/meters", None, {}, 401),
            ("GET", "/admin/login/", None, {}, 200),
            ("POST", path, good, {**site.headers, "Content-Encoding": "br"}, 415),
            ("POST", path, good, site.headers, 202),
            ("POST", path, good, {"Content-Type": CBOR_SEQUENCE}, 401),
            ("PUT", path, good, site.headers, 405),
            ("POST", "/api/v1/nothing", good, site.headers, 404),
            ("POST", path, good, site.headers, 202),
        ]:
            try:
                connection.request(method, where, body, headers)
                response = connection.getresponse()
            except (ConnectionError, RemoteDisconnected):
                connection.close()
                reopened += 1
                connection.request(method, where, body, headers)
                response = connection.getresponse()
            content = response.read()
            assert response.status == status, (method, where, content)
            assert response.headers["Content-Length"] is not None
            if where == path:
                assert json.loads(content)
    assert reopened <= 3  # after 401, 405 and 404 of a POST at most
    assert uplinks_of(site) == 1


def test_chunked_body(site: Site) -> None:
    """A body in chunks is the same uplink as one of a told length; cut short it is none (below)."""
    good = encode_sequence(frames_of(site.devices, range(4)))
    url = f"{site.stack.base_url}/api/v1/uplinks"

    def post(*chunks: bytes) -> httpx.Response:
        return httpx.post(url, content=iter(chunks), headers=site.headers, timeout=30, verify=TRUSTED)

    answers = [post(good[:50], good[50:]) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [202, 202]
    assert answers[0].json() == answers[1].json() == site.post_body(good).json()
    assert_problem(post(bytes(MAX_OCTETS), bytes(9)), 413)
    assert uplinks_of(site) == 1


def test_clients_that_hang_up(site: Site) -> None:
    """Half bodies and silence store nothing, and hold up nobody."""
    frames = frames_of(site.devices, range(20))
    body = encode_sequence(frames)
    first = encode_sequence(frames[:10])  # cut here, what came is an uplink by itself
    head = f"POST /api/v1/uplinks HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {site.token}\r\n"
    head += f"Content-Type: {CBOR_SEQUENCE}\r\n"
    chunk = b"%x\r\n" % len(body) + body
    halves = [
        f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body[: len(first) + 5],
        f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + first,
        f"{head}Transfer-Encoding: chunked\r\n\r\n".encode() + chunk[: len(chunk) // 2],
        f"{head}Transfer-Encoding: chunked\r\n\r\n".encode() + chunk + b"\r\n",  # whole, but for its end
    ]
    idle = [head.encode()] * 20  # these have not asked yet
    with ExitStack() as open_connections:
        for half in halves * 2 + idle:
            client = open_connections.enter_context(socket.create_connection(("127.0.0.1", site.stack.port)))
            client.sendall(half)
        assert httpx.get(f"{site.stack.base_url}/admin/login/", timeout=10, verify=TRUSTED).status_code == 200
    for half in halves * 10:
        with socket.create_connection(("127.0.0.1", site.stack.port)) as client:
            client.sendall(half)
    other = sites.found(site.stack, 1)
    with ThreadPoolExecutor(4) as pool:  # every thread of the web server is free again
        ids = list(pool.map(other.posted, [frames_of(other.devices, [n]) for n in range(8)]))
    wait_verified(ids)
    assert (uplinks_of(other), uplinks_of(site)) == (len(ids), 0)


@pytest.mark.parametrize(
    "request_octets",
    [
        b"\x00\x01\x02\r\n\r\n",
        b"POST /api/v1/uplinks HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
        b"POST /api/v1/uplinks HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"POST /api/v1/uplinks HTTP/1.1\r\nHost: evil.example\r\nContent-Length: 0\r\n\r\n",
        b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /api/v1/meters/%00%ff HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ],
    ids=["no HTTP", "negative length", "two lengths", "foreign host", "long path", "odd octets in the path"],
)
def test_requests_that_are_none(stack: Stack, request_octets: bytes) -> None:
    with socket.create_connection(("127.0.0.1", stack.port), timeout=10) as client:
        client.sendall(request_octets)
        try:
            first = client.recv(64)
        except ConnectionResetError:
            first = b""
    assert first == b"" or first.startswith((b"HTTP/1.1 4", b"HTTP/1.0 4")), first
    assert httpx.get(f"{stack.base_url}/admin/login/", timeout=30, verify=TRUSTED).status_code == 200


def test_no_concentrator_sees_the_uplinks_of_another(site: Site, stack: Stack) -> None:
    uplink_id = site.posted(frames_of(site.devices, range(1)))
    other = sites.found(stack, 1)
    url = f"{stack.base_url}/api/v1/uplinks/{uplink_id}"
    assert_problem(httpx.get(url, headers=other.headers, timeout=30, verify=TRUSTED), 404)
    assert site.status(uplink_id)["uplink"] == uplink_id
    # The same body is each one's own uplink.
    other_id = other.posted(frames_of(site.devices, range(1)))
    assert other_id != uplink_id
    wait_verified([uplink_id, other_id])
    assert_readings(site.devices, readings_expected(site.devices, range(1)))
    accepted = Uplink.objects.filter(pk__in=[uplink_id, other_id]).aggregate(n=Count("pk"))
    assert accepted == {"n": 2}
