"""The hash against known answers and a second implementation in affine coordinates, and every point to be refused."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nacl import bindings

from keyvault.coupons import chameleon
from keyvault.coupons.chameleon import GROUP_ORDER, PointError, check_point, fits
from keyvault.coupons.forms import reading_to_sign
from tests.keyvault.coupons.known import (
    COMMITMENT,
    COMMITMENT_SECRET,
    COUPON_SECRET,
    HASHED,
    KID,
    NUMBER,
    PAYLOAD,
    POINT,
    RESPONSE,
    X,
    Y,
)

FIELD = 2**255 - 19
D = -121665 * pow(121666, -1, FIELD) % FIELD
Affine = tuple[int, int]


def decode(octets: bytes) -> Affine:
    """RFC 8032 section 5.1.3, without its checks."""
    y = int.from_bytes(octets, "little")
    sign, y = y >> 255, y % 2**255
    square = (y * y - 1) * pow(D * y * y + 1, -1, FIELD) % FIELD
    x = pow(square, (FIELD + 3) // 8, FIELD)
    if (x * x - square) % FIELD:
        x = x * pow(2, (FIELD - 1) // 4, FIELD) % FIELD
    assert (x * x - square) % FIELD == 0
    return (x if x % 2 == sign else -x % FIELD), y


def encode(point: Affine) -> bytes:
    x, y = point
    return (y | (x % 2) << 255).to_bytes(32, "little")


def add(one: Affine, other: Affine) -> Affine:
    (x1, y1), (x2, y2) = one, other
    both = D * x1 * x2 * y1 * y2
    return (
        (x1 * y2 + x2 * y1) * pow(1 + both, -1, FIELD) % FIELD,
        (y1 * y2 + x1 * x2) * pow(1 - both, -1, FIELD) % FIELD,
    )


def multiply(scalar: int, point: Affine) -> Affine:
    total = (0, 1)
    for bit in f"{scalar:b}":
        total = add(total, total)
        if bit == "1":
            total = add(total, point)
    return total


BASE = decode(bytes.fromhex("58" + "66" * 31))
TORSION = decode(bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"))  # of order 8
OF_SMALL_ORDER = [multiply(times, TORSION) for times in range(1, 9)]


def test_known_answers() -> None:
    assert (chameleon.base_times(X), chameleon.base_times(COUPON_SECRET)) == (Y, POINT)
    assert chameleon.times(COMMITMENT_SECRET, Y) == COMMITMENT
    assert chameleon.hash_of(reading_to_sign(KID, NUMBER, PAYLOAD), POINT, Y) == HASHED
    assert chameleon.respond(HASHED, chameleon.ready(COUPON_SECRET, X), COMMITMENT_SECRET) == RESPONSE
    assert fits(HASHED, RESPONSE, POINT, Y, COMMITMENT)


def test_another_implementation_says_the_same() -> None:
    r = int.from_bytes(RESPONSE, "little")
    assert encode(multiply(X, BASE)) == Y
    assert encode(add(multiply(HASHED, decode(POINT)), multiply(r, decode(Y)))) == COMMITMENT


@given(st.integers(1, GROUP_ORDER - 1), st.integers(1, GROUP_ORDER - 1), st.integers(1, GROUP_ORDER - 1), st.binary())
@settings(max_examples=25)
def test_what_a_meter_signs_fits_and_nothing_else_does(x: int, k: int, t: int, message: bytes) -> None:
    public, point = chameleon.base_times(x), chameleon.base_times(k)
    commitment = chameleon.times(t, public)
    hashed = chameleon.hash_of(message, point, public)
    response = chameleon.respond(hashed, chameleon.ready(k, x), t)
    assert fits(hashed, response, point, public, commitment)
    assert not fits((hashed + 1) % GROUP_ORDER, response, point, public, commitment)


@pytest.mark.parametrize("bit", range(256))
def test_each_flipped_bit_of_the_response_is_refused(bit: int) -> None:
    flipped = (int.from_bytes(RESPONSE, "little") ^ 1 << bit).to_bytes(32, "little")
    assert not fits(HASHED, flipped, POINT, Y, COMMITMENT)


def test_scalars_that_libsodium_would_reduce_are_refused() -> None:
    r = int.from_bytes(RESPONSE, "little")
    for other in (r + GROUP_ORDER, r + 2**255, r + 2 * GROUP_ORDER, GROUP_ORDER, 0):
        assert not fits(HASHED, other.to_bytes(32, "little"), POINT, Y, COMMITMENT)
    assert not fits(HASHED, RESPONSE + b"\0", POINT, Y, COMMITMENT)
    # With h = 0 the answer would be t for any K: C = rY.
    t = COMMITMENT_SECRET.to_bytes(32, "little")
    assert not fits(0, t, POINT, Y, COMMITMENT)
    # With r = 0 it would be hK = C: whoever knows h beforehand announces that.
    assert not fits(HASHED, bytes(32), POINT, Y, chameleon.times(HASHED, POINT))


class TestPoints:
    def test_good_ones_are_taken(self) -> None:
        for scalar in (1, 2, X, GROUP_ORDER - 1):
            check_point(chameleon.base_times(scalar))

    def test_the_points_of_small_order_and_the_identity_are_refused(self) -> None:
        assert len({encode(point) for point in OF_SMALL_ORDER}) == 8
        assert encode(OF_SMALL_ORDER[7]) == bytes((1,)) + bytes(31)
        for point in OF_SMALL_ORDER:
            with pytest.raises(PointError, match="not of the order of the group"):
                check_point(encode(point))

    def test_points_of_mixed_order_are_refused_whatever_libsodium_says_of_them(self) -> None:
        for small in OF_SMALL_ORDER[:7]:
            mixed = encode(add(decode(POINT), small))
            assert len(bindings.crypto_core_ed25519_add(mixed, POINT)) == 32  # it adds such points
            with pytest.raises(PointError, match="not of the order of the group"):
                check_point(mixed)

    def test_encodings_that_are_not_canonical_are_refused(self) -> None:
        for y in (FIELD, FIELD + 1, FIELD + 3, 2**255 - 1):
            for sign in (0, 1):
                with pytest.raises(PointError, match="not canonical"):
                    check_point((y | sign << 255).to_bytes(32, "little"))
        with pytest.raises(PointError):  # the identity with the other sign of x
            check_point((1 | 1 << 255).to_bytes(32, "little"))

    def test_octets_that_are_on_no_curve_or_too_few_are_refused(self) -> None:
        refused = 0
        for y in range(2, 40):
            octets = y.to_bytes(32, "little")
            if not bindings.crypto_core_ed25519_is_valid_point(octets):
                refused += 1
                with pytest.raises(PointError):
                    check_point(octets)
        assert refused > 10
        for octets in (b"", POINT[:-1], POINT + b"\0"):
            with pytest.raises(PointError, match="32 octets"):
                check_point(octets)
