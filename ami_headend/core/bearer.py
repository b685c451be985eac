"""Bearer tokens (RFC 6750): how a request carries one, and the form of each kind.

A token's prefix names its kind, so that one kind is never looked for among another, and a leaked token is easy to find
(``ami_[A-Za-z0-9_-]{43}[0-9a-f]{8}``). The rest has 256 random bits.
"""

import hashlib
import secrets
import zlib
from collections.abc import Mapping

CONCENTRATOR = "dcu_"
PROGRAM = "ami_"
_RANDOM_OCTETS = 32
_CHECKSUM_DIGITS = 8


def given(headers: Mapping[str, str]) -> str | None:
    """Return the token in ``Authorization: Bearer TOKEN``; None if the request names another scheme, or none."""
    scheme, _, token = headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def new(prefix: str) -> str:
    """Return a new token of a kind, without a checksum."""
    return prefix + secrets.token_urlsafe(_RANDOM_OCTETS)


def with_checksum(token: str) -> str:
    """Append the CRC-32 of a token in 8 hex digits: a mistyped or cut-off token is found without the database."""
    return f"{token}{zlib.crc32(token.encode()):08x}"


def is_whole(token: str) -> bool:
    """Whether a token ends with the checksum of what stands before it."""
    return with_checksum(token[:-_CHECKSUM_DIGITS]) == token


def digest(token: str) -> bytes:
    """Return the SHA-256 of a token, 32 octets. A token has 256 random bits, so it needs no salt or stretching."""
    return hashlib.sha256(token.encode()).digest()
