"""The octets of signed readings and of coupon lists: COSE_Sign1 (RFC 9052 section 4.2), one encoding each. Pure.

Both are payloads of a meter's own frames, whose tag was verified before anything here is looked at.
"""

from collections.abc import Sequence
from typing import NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from keyvault.cose.forms import KID_OCTETS, bstr_head
from keyvault.cose.structures import encode_bstr
from keyvault.coupons.chameleon import POINT_OCTETS, SCALAR_OCTETS

LIST_MAX_COUPONS = 11
MAX_NUMBER = 2**32 - 1
_SIGN1 = b"\xd2\x84"
_READING = _SIGN1 + b"\x58\x19\xa3\x01\x3a\x00\x01\x00\x01\x04\x4a"  # {1: -65538, 4: kid, 6: n}
_LIST = _SIGN1 + b"\x4f\xa2\x01\x32\x04\x4a"  # {1: -19, 4: kid}
_PROTECTED_AT, _LIST_PROTECTED_AT = 4, 3
_NUMBER = b"\x06\x44"
_NUMBER_OCTETS = 4
_WHAT = b"\x73ami-headend coupons"
_SIGNATURE_OCTETS = 64
_POINT = bstr_head(POINT_OCTETS)
_SIGNATURE1 = b"\x84\x6aSignature1"


class FormError(ValueError):
    """A payload that begins as a COSE_Sign1 of a meter, and is not the one encoding of it."""


class SignedReading(NamedTuple):
    """A signed payload: the kid (10 octets) and number (0 to 2^32 - 1) of its coupon, what it says, and r (32 octets).

    ``to_sign`` is what the signature is over (RFC 9052 section 4.4).
    """

    kid: bytes
    number: int
    payload: bytes
    response: bytes
    to_sign: bytes


class Coupon(NamedTuple):
    """The two points (32 octets each) that a coupon announces: K = kG, and C = tY."""

    point: bytes
    commitment: bytes


class CouponList(NamedTuple):
    """Coupons that a meter announces: its kid (10 octets), the number of the first, Y (32 octets), and the coupons."""

    kid: bytes
    first: int
    public: bytes
    coupons: tuple[Coupon, ...]
    signature: bytes
    to_sign: bytes


def is_sign1(payload: bytes) -> bool:
    """Whether a payload begins as a COSE_Sign1 does, and so as no SenML pack."""
    return payload.startswith(_SIGN1)


def is_list(payload: bytes) -> bool:
    """Whether a payload begins as a coupon list does."""
    return payload.startswith(_LIST)


def parse_reading(octets: bytes) -> SignedReading:
    """Take a signed payload apart; FormError where it is not the one encoding of any."""
    kid_at = len(_READING)
    number_at = kid_at + KID_OCTETS + len(_NUMBER)
    protected_end = number_at + _NUMBER_OCTETS
    if not octets.startswith(_READING) or octets[kid_at + KID_OCTETS : number_at] != _NUMBER:
        raise FormError("its protected header is not {1: -65538, 4: kid, 6: number of 4 octets}")
    payload, end = _bstr(octets, _after_protected(octets, protected_end))
    response, end = _bstr(octets, end)
    if len(response) != SCALAR_OCTETS or end != len(octets):
        raise FormError(f"its signature does not have {SCALAR_OCTETS} octets, or octets follow it")
    protected = octets[_PROTECTED_AT:protected_end]
    number = int.from_bytes(octets[number_at:protected_end], "big")
    return SignedReading(octets[kid_at : kid_at + KID_OCTETS], number, payload, response, _to_sign(protected, payload))


def encode_reading(kid: bytes, number: int, payload: bytes, response: bytes) -> bytes:
    """The octets of a signed payload."""
    return _READING + kid + _NUMBER + number.to_bytes(4, "big") + b"\xa0" + encode_bstr(payload) + encode_bstr(response)


def reading_to_sign(kid: bytes, number: int, payload: bytes) -> bytes:
    """What the signature of a payload under a coupon is over, before K and Y."""
    protected = _READING[_PROTECTED_AT:] + kid + _NUMBER + number.to_bytes(_NUMBER_OCTETS, "big")
    return _to_sign(protected, payload)


def parse_list(octets: bytes) -> CouponList:
    """Take a coupon list apart; FormError where it is not the one encoding of any. Its points are not looked at."""
    kid = octets[len(_LIST) : len(_LIST) + KID_OCTETS]
    if not octets.startswith(_LIST) or len(kid) < KID_OCTETS:
        raise FormError("its protected header is not {1: -19, 4: kid}")
    payload, end = _bstr(octets, _after_protected(octets, len(_LIST) + KID_OCTETS))
    signature, end = _bstr(octets, end)
    if len(signature) != _SIGNATURE_OCTETS or end != len(octets):
        raise FormError(f"its signature does not have {_SIGNATURE_OCTETS} octets, or octets follow it")
    first, public, coupons = _content(payload, kid)
    protected = octets[_LIST_PROTECTED_AT : len(_LIST) + KID_OCTETS]
    return CouponList(kid, first, public, coupons, signature, _to_sign(protected, payload))


def sign_list(identity: Ed25519PrivateKey, kid: bytes, first: int, public: bytes, coupons: Sequence[Coupon]) -> bytes:
    """A coupon list, signed with the meter's identity."""
    payload = _encode_content(kid, first, public, coupons)
    signature = identity.sign(_to_sign(_LIST[_LIST_PROTECTED_AT:] + kid, payload))
    return _LIST + kid + b"\xa0" + encode_bstr(payload) + encode_bstr(signature)


def is_signed_by(announced: CouponList, identity: bytes) -> bool:
    """Whether the identity with that Ed25519 public key (32 octets) signed a list."""
    try:
        Ed25519PublicKey.from_public_bytes(identity).verify(announced.signature, announced.to_sign)
    except (InvalidSignature, ValueError):
        return False
    return True


def _content(payload: bytes, kid: bytes) -> tuple[int, bytes, tuple[Coupon, ...]]:
    """The number of the first coupon, Y, and the coupons: read as they ought to stand, then compared as a whole."""
    start = 1 + len(_WHAT) + len(_head(2, 8)) + 8 + len(_head(2, 2)) + 2
    first, at = _uint(payload, start)
    public = payload[at + 2 : at + 2 + POINT_OCTETS]
    at += 2 + POINT_OCTETS
    each = 1 + 2 * (2 + POINT_OCTETS)
    coupons = tuple(
        Coupon(payload[one + 3 : one + 3 + POINT_OCTETS], payload[one + 5 + POINT_OCTETS : one + each])
        for one in range(at, len(payload), each)
    )
    if not 1 <= len(coupons) <= LIST_MAX_COUPONS or first + len(coupons) - 1 > MAX_NUMBER:
        raise FormError(f"it does not announce 1 to {LIST_MAX_COUPONS} coupons with numbers below 2^32")
    if _encode_content(kid, first, public, coupons) != payload:
        raise FormError('it is not ["ami-headend coupons", title, epoch, first number, Y, [K, C], ...] of its kid')
    return first, public, coupons


def _encode_content(kid: bytes, first: int, public: bytes, coupons: Sequence[Coupon]) -> bytes:
    pairs = (b"\x82" + _POINT + one.point + _POINT + one.commitment for one in coupons)
    return b"".join(
        (
            _head(4, 5 + len(coupons)),
            _WHAT,
            encode_bstr(kid[:8]),
            encode_bstr(kid[8:]),
            _head(0, first),
            _POINT + public,
            *pairs,
        )
    )


def _after_protected(octets: bytes, end: int) -> int:
    if octets[end : end + 1] != b"\xa0":
        raise FormError("its unprotected header is not empty")
    return end + 1


def _bstr(octets: bytes, at: int) -> tuple[bytes, int]:
    """The byte string that begins at an octet, in shortest form, and where it ends."""
    first = octets[at : at + 1]
    if b"\x40" <= first <= b"\x57":
        length, start = first[0] - 0x40, at + 1
    elif first in (b"\x58", b"\x59"):
        start = at + 1 + (first[0] - 0x57)
        length = int.from_bytes(octets[at + 1 : start], "big")
    else:
        raise FormError(f"at octet {at} no byte string of definite length begins")
    string = octets[start : start + length]
    if len(string) != length or octets[at:start] != bstr_head(length):
        raise FormError(f"the byte string at octet {at} is cut off, or its length is not in shortest form")
    return string, start + length


def _uint(octets: bytes, at: int) -> tuple[int, int]:
    """The unsigned integer that begins at an octet, of 4 octets at most, and where it ends."""
    info = octets[at] if at < len(octets) else 0xFF
    if info < 24:
        return info, at + 1
    if info > 26:
        raise FormError("the number of its first coupon is none below 2^32")
    end = at + 1 + (1 << (info - 24))
    return int.from_bytes(octets[at + 1 : end], "big"), end


def _head(major: int, value: int) -> bytes:
    """The head of a CBOR item in shortest form, of a value below 2^32."""
    if value < 24:
        return bytes((major * 32 + value,))
    for info, octets in ((24, 1), (25, 2), (26, 4)):
        if value < 1 << 8 * octets:
            return bytes((major * 32 + info,)) + value.to_bytes(octets, "big")
    raise ValueError(f"{value} is not below 2^32")


def _to_sign(protected: bytes, payload: bytes) -> bytes:
    """Sig_structure with an empty external AAD (RFC 9052 section 4.4)."""
    return _SIGNATURE1 + encode_bstr(protected) + b"\x40" + encode_bstr(payload)
