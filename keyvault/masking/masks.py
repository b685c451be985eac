"""The arithmetic of masks: keys, masks, masked values, and what is left when masks are taken off a sum. Pure."""

import hmac
from collections.abc import Iterable
from hashlib import sha256
from typing import NamedTuple

import cbor2
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from keyvault.schemes.agreed import agree

MODULUS = 2**64
MASKED_OCTETS = 8
VALUE_MAX = 2**32 - 1  # of one value, in steps of its register
MASK_KEY_OCTETS = 32


class Cell(NamedTuple):
    """What a mask is for, beside the meter: register, start of the interval (Unix seconds), and its minutes."""

    obis_code: str
    start_s: int
    minutes: int


def mask_key(private: X25519PrivateKey, other: bytes, system_title: bytes, meter: bytes, authority: bytes) -> bytes:
    """The key (32 octets) that a meter and a mask authority share, by one's private key and the ``other``'s public key.

    ``meter`` and ``authority`` are both public keys (32 octets). No epoch goes in: the same reading has the same
    masked value in all epochs. HKDF-SHA-256 (RFC 5869); AgreementError where Z would be all zero.
    """
    info = cbor2.dumps(["ami-headend mask key", system_title, meter, authority])
    return HKDF(SHA256(), MASK_KEY_OCTETS, None, info).derive(agree(private, other))


def mask(key: bytes, system_title: bytes, cell: Cell) -> int:
    """The mask of one cell of a meter under one mask key, 0 to 2^64 - 1 (HMAC-SHA-256, its first 8 octets)."""
    said = cbor2.dumps(["ami-headend mask", system_title, cell.obis_code, cell.start_s, cell.minutes])
    return int.from_bytes(hmac.digest(key, said, sha256)[:MASKED_OCTETS], "big")


def masked(value: int, keys: Iterable[bytes], system_title: bytes, cell: Cell) -> int:
    """A value (0 to 2^32 - 1) under the masks of all authorities; ValueError for any other. A cell is masked once."""
    if not 0 <= value <= VALUE_MAX:
        raise ValueError(f"a masked value is 0 to {VALUE_MAX} steps, not {value}")
    return (value + sum(mask(key, system_title, cell) for key in keys)) % MODULUS


def unmasked(masked_sum: int, mask_sums: Iterable[int]) -> int:
    """What values add up to, from the sum of their masked values and the sums of their masks by each authority."""
    return (masked_sum - sum(mask_sums)) % MODULUS


def is_plausible(total: int, number: int, maximum: int) -> bool:
    """Whether ``number`` values of at most ``maximum`` steps each can have that total.

    A random answer of an authority gives one that passes with probability number x maximum / 2^64. A lie of a few
    steps passes always.
    """
    return 0 <= total <= number * min(maximum, VALUE_MAX)
