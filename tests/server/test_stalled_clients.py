"""Clients that stop half-way, drip, or do not read: nobody else waits for them."""

from contextlib import ExitStack, suppress

import httpx
import pytest

from tests.flows import site as sites
from tests.flows.site import Site, frames_of
from tests.flows.stack import TRUSTED, Stack, stack_of
from tests.server.clients import answer_of, asked, head, sent
from tests.server.rude import ROWS, cookies_of, half_sign_in, half_uplink, many_readings, signed_in

SOON_S = 30.0  # for an answer that waits for nobody, on a machine that is busy; the stalled have 60 s


stack = stack_of("web")  # with its usual deadlines


@pytest.fixture
def site(stack: Stack) -> Site:
    return sites.found(stack, 1)


def test_nobody_waits_for_them(stack: Stack, site: Site) -> None:
    """Twice as many of each as there are threads of any kind; all the while, everybody else gets an answer."""
    with ExitStack() as open_, signed_in(stack) as browser:
        export = head("GET", many_readings(site), Cookie=cookies_of(browser))
        stalled = [half_sign_in()] * 8 + [half_uplink(site)] * 8 + [b"GET /admin/ HTTP/1.1\r\nHos"] * 8
        for octets in stalled:
            open_.enter_context(sent(stack.port, octets))
        readers = [open_.enter_context(sent(stack.port, export, 4096)) for _ in range(8)]
        drippers = [open_.enter_context(sent(stack.port, octets)) for octets in (half_sign_in(), half_uplink(site)) * 4]
        for reader in readers:
            assert reader.recv(12) == b"HTTP/1.1 200"  # and no more is read
        for number in range(4):
            for dripper in drippers:
                dripper.send(b"\x00")
            for path in ("/health/live", "/health/ready", "/admin/login/"):
                assert httpx.get(stack.base_url + path, timeout=SOON_S, verify=TRUSTED).status_code == 200, path
            assert browser.get("/admin/", timeout=SOON_S).status_code == 200
            assert site.post(frames_of(site.devices, [number]), timeout_s=SOON_S).status_code == 202
        assert browser.get(f"{many_readings_of_nobody()}", timeout=SOON_S).status_code == 200
        # Whoever read nothing so far gets the whole of it when it does.
        whole = answer_of(readers[0])
        assert whole.count(b"\n") > ROWS
        assert whole.rstrip().endswith(b"0")  # of the last chunk


def many_readings_of_nobody() -> str:
    return "/api/v1/readings?format=csv&from=2026-10-01T00:00:00Z&to=2026-10-02T00:00:00Z"


def test_several_requests_at_once_have_an_answer_each(stack: Stack) -> None:
    answers = asked(stack.port, head("GET", "/health/live") * 20)
    assert answers.count(b"HTTP/1.1 200") == 20


def test_strangers_cannot_upload(stack: Stack) -> None:
    """A file for the sign-in form is refused by its length, and the refusal is read by whoever sends on."""
    octets = b"--x\r\nContent-Disposition: form-data; name=a; filename=a\r\n\r\n" + bytes(3_000_000)
    request = head(
        "POST",
        "/admin/login/",
        Cookie="csrftoken=" + "a" * 32,
        Content_Type="multipart/form-data; boundary=x",
        Content_Length=str(len(octets)),
    )
    with sent(stack.port, request) as client:
        with suppress(OSError):
            client.sendall(octets)
        assert answer_of(client).startswith(b"HTTP/1.1 413")


def test_a_host_that_is_not_allowed_is_one_line_in_the_log(stack: Stack) -> None:
    before = stack.log("web").read_text().count("Traceback")
    assert (
        httpx.get(
            f"{stack.base_url}/admin/", headers={"Host": "evil.example"}, timeout=SOON_S, verify=TRUSTED
        ).status_code
        == 400
    )
    text = stack.log("web").read_text()
    assert "evil.example" in text
    assert text.count("Traceback") == before
