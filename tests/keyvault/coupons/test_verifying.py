"""What becomes of coupons, signatures and lists, without a database."""

from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from keyvault.cose.structures import make_kid
from keyvault.coupons import chameleon
from keyvault.coupons.forms import Coupon, encode_reading, reading_to_sign, sign_list
from keyvault.coupons.verifying import Brought, CouponError, Coupons, Dispute, Identity
from keyvault.refusals import CouponRefusal
from tests.keyvault.coupons.known import (
    IDENTITY,
    IDENTITY_PUBLIC,
    KID,
    LIST,
    NUMBER,
    PAYLOAD,
    READING,
    RESPONSE,
    TITLE,
    Y,
    coupon,
    coupon_list,
    signed,
)

AT_S = 1_767_225_600
BY = Brought(17, AT_S)
OTHER_TITLE = bytes.fromhex("0024befffe804ff2")
SECOND = make_kid(TITLE, 2)


def of_meter(*lists: bytes, is_revoked: bool = False) -> Coupons:
    """The coupons of a batch after some lists."""
    coupons = Coupons(identities={TITLE: [Identity(5, IDENTITY_PUBLIC, is_revoked)]})
    for octets in lists:
        coupons.announce(coupons.read_list(KID, octets, BY))
    return coupons


def refusal(act: Callable[[], object]) -> tuple[str, str]:
    with pytest.raises(CouponError) as caught:
        act()
    return caught.value.reason.value, str(caught.value)


class TestReadings:
    def test_a_signature_spends_its_coupon_once(self) -> None:
        coupons = of_meter(LIST)
        assert coupons.open_reading(KID, READING, BY).payload == PAYLOAD
        assert coupons.spent == [coupons.standing[KID, NUMBER]]
        assert coupons.open_reading(KID, READING, BY).payload == PAYLOAD  # the same again
        assert coupons.open_reading(SECOND, READING, BY).payload == PAYLOAD  # sealed anew under the next epoch
        assert len(coupons.spent) == 1

    def test_another_signature_under_it_is_proof_of_double_use(self) -> None:
        coupons = of_meter(LIST)
        coupons.open_reading(KID, READING, BY)
        other = signed(PAYLOAD[:-1] + b"\x11")
        assert refusal(lambda: coupons.open_reading(KID, other, BY)) == (
            "coupon_reused",
            "another signature was made under coupon 7 of epoch 1 before",
        )
        assert coupons.disputes == [Dispute((KID, NUMBER), is_list=False, second=other, brought=BY)]
        assert coupons.open_reading(KID, READING, BY).payload == PAYLOAD

    def test_whoever_has_both_learns_that_coupon_and_no_more(self) -> None:
        """r - r' = (h' - h) k/x: the coupon is open, and x stays hidden behind k."""
        first, other = READING, signed(PAYLOAD[:-1] + b"\x11")
        rs = [int.from_bytes(one[-32:], "little") for one in (first, other)]
        hs = [
            chameleon.hash_of(reading_to_sign(KID, NUMBER, payload), coupon(NUMBER).point, Y)
            for payload in (PAYLOAD, PAYLOAD[:-1] + b"\x11")
        ]
        ratio = (rs[0] - rs[1]) * pow(hs[1] - hs[0], -1, chameleon.GROUP_ORDER) % chameleon.GROUP_ORDER
        assert chameleon.times(ratio, Y) == coupon(NUMBER).point

    def test_a_forgery_spends_nothing_and_proves_nothing(self) -> None:
        coupons = of_meter(LIST)
        forged = encode_reading(KID, NUMBER, PAYLOAD[:-1] + b"\x11", RESPONSE)
        assert refusal(lambda: coupons.open_reading(KID, forged, BY))[0] == CouponRefusal.SIGNATURE_INVALID
        coupons.open_reading(KID, READING, BY)
        assert refusal(lambda: coupons.open_reading(KID, forged, BY))[0] == CouponRefusal.SIGNATURE_INVALID
        assert not coupons.disputes

    def test_without_its_list_it_waits(self) -> None:
        coupons = of_meter()
        assert refusal(lambda: coupons.open_reading(KID, READING, BY)) == (
            "coupon_unknown",
            "no list announced coupon 7 of epoch 1",
        )
        coupons.announce(coupons.read_list(KID, LIST, BY))
        assert coupons.open_reading(KID, READING, BY).payload == PAYLOAD
        assert refusal(lambda: coupons.open_reading(SECOND, signed(kid=SECOND), BY))[0] == "coupon_unknown"

    def test_whose_it_is(self) -> None:
        coupons = of_meter(LIST)
        other = make_kid(OTHER_TITLE, 1)
        assert refusal(lambda: coupons.open_reading(other, READING, BY))[0] == "identity_mismatch"
        later = signed(kid=SECOND)
        assert refusal(lambda: coupons.open_reading(KID, later, BY))[0] == "payload_invalid"
        assert refusal(lambda: coupons.open_reading(KID, signed(kid=make_kid(TITLE, 0)), BY))[0] == "payload_invalid"
        assert refusal(lambda: coupons.open_reading(KID, READING[:-1], BY))[0] == "payload_invalid"

    def test_coupons_of_a_compromised_epoch_sign_nothing_more(self) -> None:
        coupons = of_meter(LIST, coupon_list(8))
        coupons.open_reading(KID, READING, BY)
        coupons.cut_off = {KID}
        assert coupons.open_reading(SECOND, READING, BY).payload == PAYLOAD  # what was signed before stands
        assert refusal(lambda: coupons.open_reading(SECOND, signed(number=8), BY))[0] == "signature_invalid"
        assert refusal(lambda: coupons.read_list(SECOND, coupon_list(20), BY))[0] == "signature_invalid"


class TestLists:
    def test_the_same_list_again_is_the_same_list(self) -> None:
        coupons = of_meter(LIST)
        assert coupons.read_list(KID, LIST, BY).stands_since_s == AT_S
        assert len(coupons.announced) == 1

    def test_another_list_for_a_coupon_that_stands(self) -> None:
        for other, name in (
            (coupon_list(NUMBER, 2), NUMBER),
            (coupon_list(NUMBER - 2, 11), NUMBER),
            (sign_list(IDENTITY, KID, NUMBER, Y, [coupon(90)]), NUMBER),
        ):
            coupons = of_meter(LIST)
            kind, detail = refusal(lambda: coupons.read_list(KID, other, BY))  # noqa: B023 - called at once
            assert (kind, detail) == ("coupon_reused", f"another list announced coupon {name} of epoch 1 before")
            assert coupons.disputes == [Dispute((KID, NUMBER), is_list=True, second=other, brought=BY)]

    def test_a_point_that_stands_is_no_other_coupons(self) -> None:
        k, c = coupon(NUMBER)
        fresh = coupon(90)
        for pair in (Coupon(k, fresh.commitment), Coupon(fresh.point, c), Coupon(c, k)):
            coupons = of_meter(LIST)
            other = sign_list(IDENTITY, SECOND, 1, Y, [pair])
            assert refusal(lambda: coupons.read_list(SECOND, other, BY))[0] == "coupon_reused"  # noqa: B023
            assert coupons.disputes[0].name == (KID, NUMBER)
        twice = sign_list(IDENTITY, KID, 1, Y, [fresh, Coupon(coupon(91).point, fresh.commitment)])
        assert refusal(lambda: of_meter().read_list(KID, twice, BY))[0] == "signature_invalid"

    def test_whose_signature_it_has(self) -> None:
        stranger = coupon_list(signer=Ed25519PrivateKey.generate())
        assert refusal(lambda: of_meter().read_list(KID, stranger, BY))[0] == "signature_invalid"
        assert refusal(lambda: of_meter(is_revoked=True).read_list(KID, LIST, BY))[0] == "signature_invalid"
        assert refusal(lambda: Coupons().read_list(KID, LIST, BY))[0] == "coupon_unknown"
        for kid, kind in ((make_kid(OTHER_TITLE, 1), "identity_mismatch"), (SECOND, None)):
            if kind is None:
                assert of_meter().read_list(kid, LIST, BY).identity_id == 5  # a list that is late
            else:
                assert refusal(lambda: of_meter().read_list(kid, LIST, BY))[0] == kind  # noqa: B023
        assert refusal(lambda: of_meter().read_list(KID, coupon_list(kid=SECOND), BY))[0] == "payload_invalid"
        assert refusal(lambda: of_meter().read_list(KID, LIST[:-1], BY))[0] == "payload_invalid"

    def test_points_that_are_none_are_refused(self) -> None:
        identity_point = bytes((1,)) + bytes(31)
        fresh = coupon(90)
        for public, pair in (
            (identity_point, fresh),
            (Y, Coupon(identity_point, fresh.commitment)),
            (Y, Coupon(fresh.point, bytes(32))),
        ):
            other = sign_list(IDENTITY, KID, 1, public, [pair])
            assert refusal(lambda: of_meter().read_list(KID, other, BY))[0] == "signature_invalid"  # noqa: B023
