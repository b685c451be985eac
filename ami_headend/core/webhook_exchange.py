"""Posts signed octets to an address that an administrator gave, unless the address is refused.

Redirects are not followed, and proxies of the environment are not used. People do not learn from the error whether
something listens there; only the log says so.
"""

import http.client
import logging
from collections.abc import Mapping

import httpx
from django.conf import settings

from ami_headend.core.refused_addresses import RefusedAddressError, check_host, connect
from ami_headend.core.timed_exchange import exchange

logger = logging.getLogger(__name__)

NO_ANSWER = "the receiver could not be reached, or did not answer in time"


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
    check_host(url.host)
    return url


def post(url: httpx.URL, content: bytes, headers: Mapping[str, str], seconds: float, receiver: object) -> None:
    """Post a message within some seconds, whatever the receiver does; ``receiver`` is its name in the log.

    WebhookError if it was not taken, RefusedAddressError if it may not go there.
    """
    try:
        status = _exchange(url, content, headers, seconds)
    except (http.client.HTTPException, OSError) as error:
        logger.warning("the webhook %s does not answer: %s: %s", receiver, type(error).__name__, error)
        raise WebhookError(NO_ANSWER, is_down=True) from None
    if not 200 <= status < 300:
        raise WebhookError(f"the receiver answered {status}", is_down=status in (429, 502, 503, 504))


def _exchange(url: httpx.URL, content: bytes, headers: Mapping[str, str], seconds: float) -> int:
    """Return the status of the answer; its body is not read."""
    is_tls = url.scheme == "https"
    port = url.port or (443 if is_tls else 80)
    usual = {"Host": url.netloc.decode(), "User-Agent": "ami-headend", "Connection": "close"}
    with exchange(seconds) as this:
        connected = connect(this, url.host, port)
        with connected:
            if is_tls:
                connected = httpx.create_ssl_context(trust_env=False).wrap_socket(connected, server_hostname=url.host)
            connection = http.client.HTTPConnection(url.host, port)
            connection.sock = connected
            try:
                connection.request("POST", url.raw_path.decode(), content, {**usual, **headers})
                status = connection.getresponse().status
                this.left_s()  # headers cut off by the deadline look complete
                return status
            finally:
                connection.close()
