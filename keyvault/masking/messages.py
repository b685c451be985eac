"""What the head-end asks of a mask authority, and what that answers: COSE_Sign1 with Ed25519. Pure.

RFC 9052 section 4.2, alg -19 of RFC 9864. Each has one valid encoding, and is compared octet for octet.
"""

from collections.abc import Sequence
from hashlib import sha256
from itertools import pairwise
from typing import NamedTuple

import cbor2
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from keyvault.cose.structures import SYSTEM_TITLE_OCTETS, encode_bstr
from keyvault.masking.masks import MASKED_OCTETS, MODULUS, Cell

FEWEST = 10  # titles of a sum
MOST = 8_000
KEY_OCTETS = 32
_PROTECTED = cbor2.dumps({1: -19})
_HEAD = b"\xd2\x84" + encode_bstr(_PROTECTED) + b"\xa0"  # tag 18, of four; no unprotected header
_SIGNATURE_OCTETS = 64
_SIGNATURE_HEAD = b"\x58\x40"
_SUM, _ASK_SUM = "ami-headend mask sum", "ami-headend mask sum request"
_METERS, _ASK_METERS = "ami-headend mask meters", "ami-headend mask meters request"


class MessageError(ValueError):
    """Octets that are no such message, or whose signature does not fit. Anyone can send them."""


class SumRequest(NamedTuple):
    """A head-end (Ed25519 public key) asks an authority (the same) for the sum of the masks of a cell of many meters.

    ``titles`` are system titles (8 octets), each greater than the one before; ``at_s`` is when it asks.
    """

    requester: bytes
    authority: bytes
    at_s: int
    cell: Cell
    titles: tuple[bytes, ...]


class MetersRequest(NamedTuple):
    """A head-end asks an authority which of some meters it has taken."""

    requester: bytes
    authority: bytes
    at_s: int
    titles: tuple[bytes, ...]


Request = SumRequest | MetersRequest


def seal_request(private: Ed25519PrivateKey, request: Request) -> bytes:
    """A request under the head-end's own key."""
    return _sign(private, _asked(request))


def open_request(octets: bytes) -> Request:
    """What a request says; nothing in it is authentic before ``verify``. MessageError."""
    payload, _ = _parts(octets)
    match _decoded(payload):
        case [str(what), bytes(requester), bytes(authority), int(at_s), str(code), int(start), int(minutes), bytes(t)]:
            request: Request = SumRequest(requester, authority, at_s, Cell(code, start, minutes), split_titles(t))
            kind = _ASK_SUM
        case [str(what), bytes(requester), bytes(authority), int(at_s), bytes(titles)]:
            request = MetersRequest(requester, authority, at_s, split_titles(titles))
            kind = _ASK_METERS
        case _:
            raise MessageError("it is no request of a head-end")
    if what != kind or len(request.requester) != KEY_OCTETS or len(request.authority) != KEY_OCTETS:
        raise MessageError("it is no request of a head-end")
    return request


def verify(octets: bytes, public: bytes) -> bytes:
    """The payload of a message that was signed under an Ed25519 public key (32 octets); MessageError."""
    payload, signature = _parts(octets)
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, _to_sign(payload))
    except (InvalidSignature, ValueError):
        raise MessageError("its signature does not fit: forged, damaged, or under another key") from None
    return payload


def seal_sum(private: Ed25519PrivateKey, cell: Cell, titles: Sequence[bytes], mask_sum: int) -> bytes:
    """An authority's answer: the masks of that cell of those meters, in order, add up to ``mask_sum`` mod 2^64."""
    digest = sha256(b"".join(titles)).digest()
    said = [_SUM, *cell, digest, len(titles), (mask_sum % MODULUS).to_bytes(MASKED_OCTETS, "big")]
    return _sign(private, cbor2.dumps(said))


def open_sum(octets: bytes, public: bytes, cell: Cell, titles: Sequence[bytes]) -> int:
    """The sum in an authority's answer to exactly this; MessageError where it is none, or not signed by it."""
    match _decoded(verify(octets, public)):
        case [str(what), *said, bytes(digest), int(number), bytes(mask_sum)] if what == _SUM:
            if said != list(cell) or digest != sha256(b"".join(titles)).digest() or number != len(titles):
                raise MessageError("it answers another question")
            if len(mask_sum) == MASKED_OCTETS:
                return int.from_bytes(mask_sum, "big")
    raise MessageError("it is no sum of masks")


def seal_meters(private: Ed25519PrivateKey, titles: Sequence[bytes]) -> bytes:
    """An authority's answer: of the meters that were asked about it has taken these."""
    return _sign(private, cbor2.dumps([_METERS, b"".join(titles)]))


def open_meters(octets: bytes, public: bytes) -> tuple[bytes, ...]:
    """The titles in such an answer; MessageError."""
    match _decoded(verify(octets, public)):
        case [str(what), bytes(titles)] if what == _METERS:
            return split_titles(titles)
    raise MessageError("it is no list of meters")


def split_titles(joined: bytes) -> tuple[bytes, ...]:
    """System titles (8 octets) that stand one after the other, each greater than the one before; MessageError."""
    if len(joined) % SYSTEM_TITLE_OCTETS or len(joined) > MOST * SYSTEM_TITLE_OCTETS:
        raise MessageError(f"titles have {SYSTEM_TITLE_OCTETS} octets each, and are at most {MOST:,}")
    step = SYSTEM_TITLE_OCTETS
    titles = tuple(joined[at : at + step] for at in range(0, len(joined), step))
    if any(before >= after for before, after in pairwise(titles)):
        raise MessageError("titles are not in order, each once")
    return titles


def _asked(request: Request) -> bytes:
    joined = b"".join(request.titles)
    if isinstance(request, SumRequest):
        return cbor2.dumps(
            [_ASK_SUM, request.requester, request.authority, request.at_s, *request.cell, joined], canonical=True
        )
    return cbor2.dumps([_ASK_METERS, request.requester, request.authority, request.at_s, joined], canonical=True)


def _sign(private: Ed25519PrivateKey, payload: bytes) -> bytes:
    return _HEAD + encode_bstr(payload) + _SIGNATURE_HEAD + private.sign(_to_sign(payload))


def _to_sign(payload: bytes) -> bytes:
    """Sig_structure (RFC 9052 section 4.4)."""
    return cbor2.dumps(["Signature1", _PROTECTED, b"", payload])


def _parts(octets: bytes) -> tuple[bytes, bytes]:
    """Payload and signature of the one encoding of such a message."""
    signature = octets[-_SIGNATURE_OCTETS:]
    try:
        item = cbor2.loads(octets[len(_HEAD) : -_SIGNATURE_OCTETS - len(_SIGNATURE_HEAD)])
    except (cbor2.CBORError, ValueError, RecursionError, OverflowError):
        item = None
    if not isinstance(item, bytes) or octets != _HEAD + encode_bstr(item) + _SIGNATURE_HEAD + signature:
        raise MessageError("it is no COSE_Sign1 with Ed25519 in its one encoding")
    return item, signature


def _decoded(payload: bytes) -> object:
    try:
        item = cbor2.loads(payload, max_depth=3)
        is_deterministic = cbor2.dumps(item, canonical=True) == payload
    except (cbor2.CBORError, ValueError, TypeError, RecursionError, OverflowError):
        raise MessageError("its payload is no CBOR item") from None
    if not is_deterministic or not isinstance(item, list) or any(isinstance(one, bool) for one in item):
        raise MessageError("its payload is no array in deterministic encoding")
    return item
