"""The mail server as one address, as ``smtp+tls://user:password@mail.example:587``."""

from typing import Any
from urllib.parse import unquote, urlsplit

_PORTS = {"smtp": 25, "smtp+tls": 587, "smtp+ssl": 465}


def mail_settings(url: str) -> dict[str, Any]:
    """Django's settings for it. ValueError, without the password, where it is no such address.

    ``smtp`` has no TLS, ``smtp+tls`` begins it by STARTTLS and sends nothing where the server has none, ``smtp+ssl``
    begins with it. What is special in an address is written as %40 in user and password.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError(
            "it is no address, or its port no number (%40 for an @ in the password, %2F for a /)"
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
