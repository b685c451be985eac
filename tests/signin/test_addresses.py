"""Where a request came from."""

import pytest
from django.http import HttpRequest, HttpResponse
from django.test import Client, RequestFactory
from pytest_django.fixtures import Settings

from ami_headend.core.client_ip import ForwardedAddress, client_address
from ami_headend.health.neighbours import client_addresses
from tests.signin.people import LOGIN, PASSWORD, member


def seen(forwarded: str | None, remote: str = "10.0.0.1") -> str:
    found: list[str] = []

    def view(request: HttpRequest) -> HttpResponse:
        found.append(request.META["REMOTE_ADDR"])
        return HttpResponse()

    headers = {} if forwarded is None else {"X-Forwarded-For": forwarded}
    ForwardedAddress(view)(RequestFactory().get("/", REMOTE_ADDR=remote, headers=headers))
    return found[0]


@pytest.mark.parametrize(
    ("proxies", "forwarded", "address"),
    [
        (0, "203.0.113.5", "10.0.0.1"),
        (1, None, "10.0.0.1"),
        (1, "", "10.0.0.1"),
        (1, "203.0.113.5", "203.0.113.5"),
        (1, "198.51.100.1, 203.0.113.5", "203.0.113.5"),  # the client wrote the first
        (2, "198.51.100.1, 203.0.113.5, 10.0.0.9", "203.0.113.5"),
        (2, "203.0.113.5", "10.0.0.1"),
        (1, "unknown", "10.0.0.1"),
        (1, "2001:db8::1", "2001:db8::1"),
        (1, "203.0.113.5:4711", "203.0.113.5"),
        (1, "198.51.100.1, [2001:db8::1]:4711", "2001:db8::1"),
        (1, "[2001:db8::1]", "2001:db8::1"),
        (1, '"[2001:db8::1]:4711"', "2001:db8::1"),
        (1, "fe80::1%eth0", "fe80::1"),
        (1, "2001:db8::1:4711", "2001:db8::1:4711"),  # without brackets it is an address
        (1, "203.0.113.5:x", "10.0.0.1"),
    ],
)
def test_only_our_own_proxies_are_believed(
    settings: Settings, proxies: int, forwarded: str | None, address: str
) -> None:
    settings.PROXY_COUNT = proxies
    assert seen(forwarded) == address


@pytest.mark.parametrize(
    ("remote", "address"),
    [
        ("203.0.113.5", "203.0.113.5"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("::ffff:203.0.113.5", "203.0.113.5"),
        ("", None),
    ],
)
def test_a_customer_of_ipv6_has_one_address(remote: str, address: str | None) -> None:
    assert client_address(RequestFactory().get("/", REMOTE_ADDR=remote)) == address


@pytest.mark.django_db
@pytest.mark.parametrize("forwarded", ["unknown", None, "\x1b[31m, _hidden"])
def test_nobody_locks_out_everybody_where_the_proxy_does_not_tell(
    settings: Settings, forwarded: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """A stranger's guesses count against nobody else; doctor and log tell of it, and not what they wrote as it is."""
    settings.PROXY_COUNT = 1
    member("ann", "operator")
    headers = {} if forwarded is None else {"X-Forwarded-For": forwarded}
    stranger = Client(headers=headers)
    assert client_addresses()[0]
    for _ in range(settings.SIGN_IN_FAILURES + 2):
        assert stranger.post(LOGIN, {"username": "ann", "password": "a guess"}).status_code == 200
    signed_in = Client(headers=headers).post(LOGIN, {"username": "ann", "password": PASSWORD})
    assert signed_in.status_code == 302
    is_well, found, _ = client_addresses()
    assert not is_well
    assert "\x1b" not in found + caplog.text
    assert "PROXY_COUNT" in caplog.text


@pytest.mark.django_db
def test_with_a_known_address_the_lock_out_stands(settings: Settings) -> None:
    settings.PROXY_COUNT = 1
    member("ann", "operator")
    stranger = Client(headers={"X-Forwarded-For": "203.0.113.5:4711"})
    answers = [stranger.post(LOGIN, {"username": "ann", "password": "a guess"}) for _ in range(6)]
    assert answers[-1].status_code == 429
    other = Client(headers={"X-Forwarded-For": "203.0.113.6:4711"})
    assert other.post(LOGIN, {"username": "ann", "password": PASSWORD}).status_code == 302
