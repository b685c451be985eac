"""Signed readings and coupon lists have one encoding each: every other octet is refused."""

import cbor2
import pytest

from keyvault.coupons.forms import (
    LIST_MAX_COUPONS,
    FormError,
    encode_reading,
    is_list,
    is_sign1,
    is_signed_by,
    parse_list,
    parse_reading,
    reading_to_sign,
)
from tests.keyvault.coupons.known import (
    COMMITMENT,
    IDENTITY_PUBLIC,
    KID,
    LIST,
    NUMBER,
    PAYLOAD,
    POINT,
    READING,
    RESPONSE,
    Y,
    coupon_list,
    signed,
)


def test_known_answers() -> None:
    reading = parse_reading(READING)
    assert reading[:4] == (KID, NUMBER, PAYLOAD, RESPONSE)
    assert reading.to_sign == reading_to_sign(KID, NUMBER, PAYLOAD)
    assert encode_reading(KID, NUMBER, PAYLOAD, RESPONSE) == READING == signed()
    announced = parse_list(LIST)
    assert announced[:4] == (KID, NUMBER, Y, ((POINT, COMMITMENT),))
    assert is_signed_by(announced, IDENTITY_PUBLIC)
    assert coupon_list() == LIST


def test_another_encoder_says_the_same() -> None:
    protected = cbor2.dumps({1: -65538, 4: KID, 6: NUMBER.to_bytes(4, "big")})
    assert cbor2.dumps(cbor2.CBORTag(18, [protected, {}, PAYLOAD, RESPONSE])) == READING
    assert reading_to_sign(KID, NUMBER, PAYLOAD) == cbor2.dumps(["Signature1", protected, b"", PAYLOAD])
    for first, count in ((0, 1), (23, 2), (24, 2), (255, 11), (65_535, 3), (2**32 - 11, 11)):
        item = cbor2.loads(coupon_list(first, count))
        assert cbor2.dumps(item) == coupon_list(first, count)
        assert cbor2.loads(item.value[2])[:5] == ["ami-headend coupons", KID[:8], KID[8:], first, Y]
        assert len(parse_list(coupon_list(first, count)).coupons) == count


def test_payloads_tell_what_they_are() -> None:
    assert (is_sign1(READING), is_list(READING)) == (True, False)
    assert (is_sign1(LIST), is_list(LIST)) == (True, True)
    assert not is_sign1(PAYLOAD)


def test_a_list_of_the_most_coupons_fits_into_a_frame() -> None:
    assert len(coupon_list(2**32 - LIST_MAX_COUPONS, LIST_MAX_COUPONS)) + 80 <= 1024  # 80: of sealed


@pytest.mark.parametrize("octets", [READING, LIST], ids=["reading", "list"])
def test_every_truncation_and_octets_after_the_end(octets: bytes) -> None:
    parse = parse_list if is_list(octets) else parse_reading
    for end in range(len(octets)):
        with pytest.raises(FormError):
            parse(octets[:end])
    with pytest.raises(FormError):
        parse(octets + b"\0")


def test_every_flipped_bit_of_a_reading_is_another_form_or_says_something_else() -> None:
    whole = parse_reading(READING)
    for bit in range(8 * len(READING)):
        flipped = bytearray(READING)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            other = parse_reading(bytes(flipped))
        except FormError:
            continue
        assert (other.kid, other.number, other.payload, other.response) != whole[:4]
        assert encode_reading(other.kid, other.number, other.payload, other.response) == flipped


def test_no_flipped_bit_of_a_list_is_signed() -> None:
    for bit in range(8 * len(LIST)):
        flipped = bytearray(LIST)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            other = parse_list(bytes(flipped))
        except FormError:
            continue
        assert not is_signed_by(other, IDENTITY_PUBLIC)


@pytest.mark.parametrize("first", [2**32 - 1])
def test_numbers_end_at_4_octets(first: int) -> None:
    assert parse_list(coupon_list(first)).first == first
    with pytest.raises(FormError, match="numbers below 2"):
        parse_list(coupon_list(first, 2))


def test_other_encodings_of_the_same_list_are_refused() -> None:
    whole = cbor2.loads(LIST)
    protected, unprotected, payload, signature = whole.value
    content = cbor2.loads(payload)
    for other in (
        [protected, {4: KID}, payload, signature],
        [protected, unprotected, payload + b"\0", signature],
        [protected, unprotected, payload, signature + b"\0"],
        [protected, unprotected, cbor2.dumps(content[:5]), signature],  # no coupon
        [protected, unprotected, cbor2.dumps([*content[:5], *[content[5]] * 12]), signature],
        [protected, unprotected, cbor2.dumps([*content, content[5] + [b""]]), signature],
        [protected, unprotected, payload.replace(b"\x42\x00\x01\x07", b"\x42\x00\x01\x18\x07"), signature],
        [protected, unprotected, payload.replace(b"\x42\x00\x01\x07", b"\x42\x00\x02\x07"), signature],
        [protected, unprotected, cbor2.dumps([*content[:5], [POINT, COMMITMENT[:-1]]]), signature],
    ):
        with pytest.raises(FormError):
            parse_list(cbor2.dumps(cbor2.CBORTag(18, other)))
