"""Posting a signed message to an address that an administrator gave: where to, and what is refused.

The addresses that a name stands for are checked, and the connection goes to the one that was checked: a name that
changes its mind between the two gains nothing. No redirect is followed, no proxy of the environment is used.
"""

import ipaddress
import json
import socket
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import httpx
from django.conf import settings

from ami_headend.alerts.models import Channel
from keyvault import signing

TIMEOUT_S = 5.0
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class RefusedAddressError(ValueError):
    """An address that webhooks do not go to; the message says why and what to do. The administrator's to mend."""


class WebhookError(Exception):
    """The receiver did not take the message. ``is_down`` tells one that cannot be reached from one that says no."""

    def __init__(self, message: str, *, is_down: bool) -> None:
        super().__init__(message)
        self.is_down = is_down


def check_url(text: str) -> httpx.URL:
    """The URL, if it is one that webhooks may go to by its looks; RefusedAddressError otherwise. Resolves nothing."""
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL as error:
        raise RefusedAddressError(f"{text[:200]!r} is no address: {error}") from None
    if url.scheme != "https" and not (url.scheme == "http" and settings.WEBHOOK_ALLOW_HTTP):
        hint = " (http:// only with WEBHOOK_ALLOW_HTTP)" if url.scheme == "http" else ""
        raise RefusedAddressError(f"A webhook's address begins with https://{hint}.")
    if not url.host or (url.port is not None and not 0 < url.port < 65_536):
        raise RefusedAddressError(f"{text[:200]!r} names no host, or no port that there is.")
    if url.userinfo:
        raise RefusedAddressError("An address holds no user name or password: messages are signed instead.")
    try:
        _check_address(ipaddress.ip_address(url.host))
    except RefusedAddressError:
        raise
    except ValueError:  # a name; it is looked up when a message goes out
        pass
    return url


def post(channel: Channel, delivery_id: int, body: dict[str, Any], now: datetime) -> None:
    """Send one message, signed.

    WebhookError or RefusedAddressError where it was not taken; SigningError, MasterKeyError where it cannot be signed.
    """
    url = check_url(channel.address)
    content = json.dumps(body, separators=(",", ":"), sort_keys=True).encode()
    timestamp_s = int(now.timestamp())
    message_id = f"msg_{delivery_id}"
    headers = {
        "Host": url.netloc.decode(),
        "Content-Type": "application/json",
        "User-Agent": "ami-headend",
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp_s),
        "webhook-signature": signing.signatures(channel.secret_owner, message_id, timestamp_s, content, now),
    }
    try:
        address = _resolve(url.host, url.port or (443 if url.scheme == "https" else 80))
        with (
            httpx.Client(timeout=TIMEOUT_S, follow_redirects=False, trust_env=False) as client,
            client.stream(
                "POST",
                url.copy_with(host=str(address)),
                content=content,
                headers=headers,
                extensions={"sni_hostname": url.host},
            ) as answer,
        ):
            status = answer.status_code
    except (httpx.HTTPError, OSError) as error:
        raise WebhookError(f"{type(error).__name__}: {error}", is_down=True) from None
    if not 200 <= status < 300:
        raise WebhookError(f"the receiver answered {status}", is_down=status in (429, 502, 503, 504))


def _resolve(host: str, port: int) -> Address:
    """The first address that a host stands for. RefusedAddressError where any of them is refused."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError as error:
        raise OSError(f"{host!r} is no host name: {error}") from None
    addresses = [ipaddress.ip_address(entry[4][0]) for entry in found]
    for address in addresses:
        _check_address(address)
    return addresses[0]


def _check_address(address: Address) -> None:
    plain = getattr(address, "ipv4_mapped", None) or address
    if plain.is_multicast or plain.is_unspecified or any(plain in network for network in _refused()):
        raise RefusedAddressError(
            f"{address} is an address that webhooks do not go to (WEBHOOK_REFUSED_NETWORKS): this machine, its "
            "neighbours on the link, or the provider's metadata."
        )


def _refused() -> Sequence[Network]:
    return [ipaddress.ip_network(text) for text in settings.WEBHOOK_REFUSED_NETWORKS]
