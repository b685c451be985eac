"""Bearer tokens (RFC 6750): how a request carries one, and the form of each kind.

A token's prefix names its kind, so that one kind is never looked for among another, and a leaked token is easy to find
(``ami_([a-z0-9]{1,16}_)?[A-Za-z0-9_-]{43}[0-9a-f]{8}``). It may name its cell (docs/scaling.md), so that an entrance
leads there without asking anybody. The rest has 256 random bits.
"""

import hashlib
import re
import secrets
import zlib
from collections.abc import Mapping

CONCENTRATOR = "dcu_"
PROGRAM = "ami_"
_RANDOM_OCTETS = 32
_CHECKSUM_DIGITS = 8
LENGTH = 43 + _CHECKSUM_DIGITS  # of a program's token after what names its kind and cell
_CELL = re.compile("[a-z0-9]{1,16}")
# What is random may begin as a cell's name does: the length tells which it is.
_OF_CELL = re.compile("(?:dcu_([a-z0-9]{1,16})_[A-Za-z0-9_-]{43}|ami_([a-z0-9]{1,16})_[A-Za-z0-9_-]{43}[0-9a-f]{8})")


def given(headers: Mapping[str, str]) -> str | None:
    """Return the token in ``Authorization: Bearer TOKEN``; None if the request names another scheme, or none."""
    scheme, _, token = headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def new(prefix: str, cell: str = "") -> str:
    """Return a new token of a kind, without a checksum. It names the cell, unless that is empty."""
    return f"{prefix}{cell}{'_' if cell else ''}{secrets.token_urlsafe(_RANDOM_OCTETS)}"


def is_cell(name: str) -> bool:
    """Whether a token can name this cell."""
    return _CELL.fullmatch(name) is not None


def cell_of(token: str) -> str:
    """Return the cell that a whole token names; an empty text if it names none, or has not the form of a token."""
    named = _OF_CELL.fullmatch(token)
    return "" if named is None else named[1] or named[2]


def with_checksum(token: str) -> str:
    """Append the CRC-32 of a token in 8 hex digits: a mistyped or cut-off token is found without the database."""
    return f"{token}{zlib.crc32(token.encode()):08x}"


def is_whole(token: str) -> bool:
    """Whether a token ends with the checksum of what stands before it."""
    return with_checksum(token[:-_CHECKSUM_DIGITS]) == token


def digest(token: str) -> bytes:
    """Return the SHA-256 of a token, 32 octets. A token has 256 random bits, so it needs no salt or stretching."""
    return hashlib.sha256(token.encode()).digest()
