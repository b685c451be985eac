"""Posting a signed message to an address that an administrator gave: where to, and what is refused.

The name is looked up once and every address that it stands for is checked, with those inside of it (NAT64, 6to4,
Teredo); the connection goes to one that was checked. No redirect is followed, no proxy of the environment is used.
What people are told does not say whether something listens there: that stands in the log, for whoever runs the machine.
"""

import http.client
import ipaddress
import json
import logging
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import httpx
from django.conf import settings

from ami_headend.alerts.models import Channel
from ami_headend.core.exchange import exchange
from ami_headend.core.transition_addresses import Address, Network, standing_for
from keyvault import signing

logger = logging.getLogger(__name__)


NO_ANSWER = "the receiver could not be reached, or gave no answer in time"


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


def post(channel: Channel, message_id: str, body: dict[str, Any], now: datetime) -> None:
    """Send one message, signed; over after ``ALERT_EXCHANGE_S`` seconds, whatever the receiver does.

    WebhookError or RefusedAddressError where it was not taken; SigningError, MasterKeyError where it cannot be signed.
    """
    url = check_url(channel.address)
    content = json.dumps(body, separators=(",", ":"), sort_keys=True).encode()
    timestamp_s = int(now.timestamp())
    headers = {
        "Host": url.netloc.decode(),
        "Content-Type": "application/json",
        "User-Agent": "ami-headend",
        "Connection": "close",
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp_s),
        "webhook-signature": signing.signatures(channel.secret_owner, message_id, timestamp_s, content, now),
    }
    try:
        status = _exchange(url, content, headers)
    except (http.client.HTTPException, OSError) as error:
        logger.warning("the webhook %s does not answer: %s: %s", channel, type(error).__name__, error)
        raise WebhookError(NO_ANSWER, is_down=True) from None
    if not 200 <= status < 300:
        raise WebhookError(f"the receiver answered {status}", is_down=status in (429, 502, 503, 504))


def _exchange(url: httpx.URL, content: bytes, headers: dict[str, str]) -> int:
    """The status of the answer; its body is not read."""
    is_tls = url.scheme == "https"
    port = url.port or (443 if is_tls else 80)
    with exchange(settings.ALERT_EXCHANGE_S) as this:
        addresses = this.look_up(url.host, port)
        for address in addresses:
            _check_address(ipaddress.ip_address(address))
        connected = this.connect(addresses, port)
        with connected:
            if is_tls:
                connected = httpx.create_ssl_context(trust_env=False).wrap_socket(connected, server_hostname=url.host)
            connection = http.client.HTTPConnection(url.host, port)
            connection.sock = connected
            try:
                connection.request("POST", url.raw_path.decode(), content, headers)
                status = connection.getresponse().status
                this.left_s()  # headers that were cut off by the deadline pass for whole ones
                return status
            finally:
                connection.close()


def _check_address(address: Address) -> None:
    for one in standing_for(address):
        if one.is_multicast or one.is_unspecified or any(one in network for network in _refused()):
            raise RefusedAddressError(
                "The address is one that webhooks do not go to (WEBHOOK_REFUSED_NETWORKS): this machine, its "
                "neighbours on the link, or the provider's metadata."
            )


def _refused() -> Sequence[Network]:
    return [ipaddress.ip_network(text) for text in settings.WEBHOOK_REFUSED_NETWORKS]
