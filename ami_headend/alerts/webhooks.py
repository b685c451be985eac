"""Posts a signed message to an address that an administrator gave, unless the address is refused.

The name is looked up once, and every address is checked, including embedded ones (NAT64, 6to4, Teredo); the connection
goes to a checked one. Redirects are not followed, and proxies of the environment are not used. People do not learn from
the error whether something listens there; only the log says so.
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
from ami_headend.core.timed_exchange import exchange
from ami_headend.core.transition_addresses import Address, Network, standing_for
from keyvault import webhook_signatures

logger = logging.getLogger(__name__)


NO_ANSWER = "the receiver could not be reached, or did not answer in time"


class RefusedAddressError(ValueError):
    """An address that webhooks may not use; the message says why and what to do. The administrator's mistake."""


class WebhookError(Exception):
    """The receiver did not take the message. ``is_down``: it cannot be reached, as opposed to refusing the message."""

    def __init__(self, message: str, *, is_down: bool) -> None:
        super().__init__(message)
        self.is_down = is_down


def check_url(text: str) -> httpx.URL:
    """Return the URL if webhooks may use it, judged without look-up; RefusedAddressError otherwise."""
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL as error:
        raise RefusedAddressError(f"{text[:200]!r} is not an address: {error}") from None
    if url.scheme != "https" and not (url.scheme == "http" and settings.WEBHOOK_ALLOW_HTTP):
        hint = " (http:// only with WEBHOOK_ALLOW_HTTP)" if url.scheme == "http" else ""
        raise RefusedAddressError(f"A webhook's address must begin with https://{hint}.")
    if not url.host or (url.port is not None and not 0 < url.port < 65_536):
        raise RefusedAddressError(f"{text[:200]!r} has no host, or its port is not possible.")
    if url.userinfo:
        raise RefusedAddressError("An address must not contain a user name or password: messages are signed instead.")
    try:
        _check_address(ipaddress.ip_address(url.host))
    except RefusedAddressError:
        raise
    except ValueError:  # a name; it is looked up when a message goes out
        pass
    return url


def post(channel: Channel, message_id: str, body: dict[str, Any], now: datetime) -> None:
    """Sign and send one message, within ``ALERT_EXCHANGE_S`` seconds whatever the receiver does.

    WebhookError or RefusedAddressError if it was not taken; SigningError, MasterKeyError if it cannot be signed.
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
        "webhook-signature": webhook_signatures.signatures(channel.secret_owner, message_id, timestamp_s, content, now),
    }
    try:
        status = _exchange(url, content, headers)
    except (http.client.HTTPException, OSError) as error:
        logger.warning("the webhook %s does not answer: %s: %s", channel, type(error).__name__, error)
        raise WebhookError(NO_ANSWER, is_down=True) from None
    if not 200 <= status < 300:
        raise WebhookError(f"the receiver answered {status}", is_down=status in (429, 502, 503, 504))


def _exchange(url: httpx.URL, content: bytes, headers: dict[str, str]) -> int:
    """Return the status of the answer; its body is not read."""
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
                this.left_s()  # headers cut off by the deadline look complete
                return status
            finally:
                connection.close()


def _check_address(address: Address) -> None:
    for one in standing_for(address):
        if one.is_multicast or one.is_unspecified or any(one in network for network in _refused()):
            raise RefusedAddressError(
                "Webhooks may not use this address (WEBHOOK_REFUSED_NETWORKS): it is this machine, a "
                "neighbour on its link, or the provider's metadata."
            )


def _refused() -> Sequence[Network]:
    return [ipaddress.ip_network(text) for text in settings.WEBHOOK_REFUSED_NETWORKS]
