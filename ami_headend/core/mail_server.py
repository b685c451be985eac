"""The mail server as one address, such as ``smtp+tls://user:password@mail.example:587``."""

from typing import Any
from urllib.parse import unquote, urlsplit

_PORTS = {"smtp": 25, "smtp+tls": 587, "smtp+ssl": 465}


def mail_settings(url: str) -> dict[str, Any]:
    """Return Django's settings for the address. ValueError, without the password, if it is not such an address.

    ``smtp`` uses no TLS. ``smtp+tls`` starts with STARTTLS and sends nothing if the server lacks it. ``smtp+ssl`` uses
    TLS from the start. Special characters of user and password are percent-encoded, such as %40 for @.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError(
            "it is not an address, or its port is not a number (%40 for an @ in the password, %2F for a /)"
        ) from None
    if parts.scheme not in _PORTS or not parts.hostname:
        raise ValueError(
            "it must read smtp+tls://user:password@host:port, or smtp+ssl://..., or smtp://... without TLS"
        )
    return {
        "EMAIL_BACKEND": "ami_headend.core.mail.DeadlineEmailBackend",
        "EMAIL_HOST": parts.hostname,
        "EMAIL_PORT": port or _PORTS[parts.scheme],
        "EMAIL_HOST_USER": unquote(parts.username or ""),
        "EMAIL_HOST_PASSWORD": unquote(parts.password or ""),
        "EMAIL_USE_TLS": parts.scheme == "smtp+tls",
        "EMAIL_USE_SSL": parts.scheme == "smtp+ssl",
    }
