"""Sends messages to a syslog receiver over TLS (RFC 5425).

Syslog has no receipts. So a connection carries one batch and is closed in good order: the receiver answers our
close_notify with its own only after it has read everything before it. Without that answer the batch counts as unsent.
"""

import ssl
from collections.abc import Sequence
from urllib.parse import urlsplit

from django.conf import settings

from ami_headend.core.timed_exchange import exchange
from ami_headend.siem.formats import framed

SCHEME = "syslog+tls"
_PORT = 6514  # RFC 5425 section 4.1


class NotReadError(Exception):
    """The receiver did not read everything; the message says why. All of it has to be sent again."""


def send(messages: Sequence[bytes]) -> None:
    """Send messages to SIEM_URL, and return once the receiver has read them all; NotReadError otherwise."""
    parts = urlsplit(settings.SIEM_URL)
    host, port = parts.hostname or "", parts.port or _PORT
    try:
        with exchange(settings.SIEM_EXCHANGE_S) as timed:
            plain = timed.connect(timed.look_up(host, port), port)
            with plain, _context().wrap_socket(plain, server_hostname=host) as secured:
                secured.sendall(b"".join(map(framed, messages)))
                secured.unwrap()
    except (OSError, ssl.SSLError, ValueError) as error:
        raise NotReadError(f"{host}:{port}: {error}") from None


def _context() -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=settings.SIEM_CA_FILE or None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if settings.SIEM_CERTIFICATE_FILE:
        context.load_cert_chain(settings.SIEM_CERTIFICATE_FILE, settings.SIEM_KEY_FILE or None)
    return context
