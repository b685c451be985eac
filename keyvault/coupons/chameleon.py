"""A chameleon hash over edwards25519, and the one-time signature that it makes: hash, sign, switch. Pure.

Shamir and Tauman (2001), with the double-trapdoor hash hK + rY of Chen and others (2008): a coupon commits to the hash
C = tY beforehand, and whoever knows x (Y = xG) and k (K = kG) meets it with one multiplication modulo l for any
message. Points have 32 octets (RFC 8032 section 5.1.2), scalars 32 octets, little endian.

libsodium reduces scalars, ignores bits, and adds points of mixed order: whatever comes from others is checked here.
"""

from hashlib import sha512

from nacl import bindings

POINT_OCTETS = SCALAR_OCTETS = 32
GROUP_ORDER = 2**252 + 27742317777372353535851937790883648493  # l of RFC 8032 section 5.1
_FIELD_PRIME = 2**255 - 19


class PointError(ValueError):
    """Octets that are no point of the group of order l, or its identity. Anyone can send them."""


def check_point(octets: bytes) -> None:
    """PointError where 32 octets are not the one encoding of a point of order l.

    Refused: an encoding that is not canonical, a point off the curve, of small or of mixed order, the identity.
    """
    if len(octets) != POINT_OCTETS:
        raise PointError(f"a point has {POINT_OCTETS} octets, not {len(octets)}")
    if int.from_bytes(octets, "little") % 2**255 >= _FIELD_PRIME:
        raise PointError("its encoding is not canonical")
    if not bindings.crypto_core_ed25519_is_valid_point(octets):
        raise PointError("it is off the curve, or not of the order of the group")


def hash_of(signed: bytes, coupon_point: bytes, public: bytes) -> int:
    """h of the octets that are signed, under a coupon's K and the meter's Y: 0 to l - 1."""
    return int.from_bytes(sha512(signed + coupon_point + public).digest(), "little") % GROUP_ORDER


def fits(hashed: int, response: bytes, coupon_point: bytes, public: bytes, commitment: bytes) -> bool:
    """Whether hK + rY = C, with h from 1 and r from 1 to l - 1. The points were checked before (``check_point``)."""
    r = int.from_bytes(response, "little")
    if len(response) != SCALAR_OCTETS or not 0 < hashed < GROUP_ORDER or not 0 < r < GROUP_ORDER:
        return False
    h = hashed.to_bytes(SCALAR_OCTETS, "little")
    multiply = bindings.crypto_scalarmult_ed25519_noclamp
    met: bytes = bindings.crypto_core_ed25519_add(multiply(h, coupon_point), multiply(response, public))
    return met == commitment


def base_times(scalar: int) -> bytes:
    """The point that a scalar, from 1 to l - 1, makes of the base point."""
    point: bytes = bindings.crypto_scalarmult_ed25519_base_noclamp(scalar.to_bytes(SCALAR_OCTETS, "little"))
    return point


def times(scalar: int, point: bytes) -> bytes:
    """A point multiplied by a scalar from 1 to l - 1."""
    product: bytes = bindings.crypto_scalarmult_ed25519_noclamp(scalar.to_bytes(SCALAR_OCTETS, "little"), point)
    return product


def ready(coupon_secret: int, secret: int) -> int:
    """k x^-1 modulo l, which a meter computes while it is idle."""
    return coupon_secret * pow(secret, -1, GROUP_ORDER) % GROUP_ORDER


def respond(hashed: int, prepared: int, commitment_secret: int) -> bytes:
    """r = t - h k x^-1 modulo l (32 octets): all that signing costs. ``prepared`` is what ``ready`` gave."""
    return ((commitment_secret - hashed * prepared) % GROUP_ORDER).to_bytes(SCALAR_OCTETS, "little")
