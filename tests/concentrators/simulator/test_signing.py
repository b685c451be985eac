"""What simulated meters sign is what the head-end takes, and what goes wrong ends as it is said to."""

from pathlib import Path

import pytest

from concentrators.simulator.factory import Factory
from concentrators.simulator.nonvolatile import NonVolatile
from concentrators.simulator.signing import Signer
from keyvault.cose.structures import make_kid
from keyvault.coupons.forms import is_list, is_sign1, parse_list, parse_reading
from keyvault.coupons.verifying import Brought, CouponError, Coupons, Identity
from keyvault.enrolment.certificates import CURVE_ED25519, parse_certificate
from meters.readings.senml import parse_pack
from tests.concentrators.simulator.test_misbehaviour import HEAD_END, SECRET, frames_of, make_plan, opened

KID, NEXT = make_kid(bytes(8), 1), make_kid(bytes(8), 2)
BY = Brought(1, 0)
VERDICTS_OF_COUPONS = {"coupon_unknown", "signature_invalid", "coupon_reused"}


def judge(coupons: Coupons, kid: bytes, payload: bytes) -> str:
    """The verdict of a payload as far as coupons go; its pack is one, where there is none."""
    try:
        if is_list(payload):
            coupons.announce(coupons.read_list(kid, payload, BY))
        elif is_sign1(payload):
            coupons.open_reading(kid, payload, BY)
    except CouponError as error:
        return error.reason.value
    return "accepted"


def test_meters_of_scheme_signed_with_their_misbehaviours(tmp_path: Path) -> None:
    rates = (
        "signature_forged=0.05,coupon_unknown=0.05,coupon_reused=0.05,coupon_list_twice=0.05,late=0.05,conflict=0.05"
    )
    plan = make_plan(rates, meters=4, days=2, schemes=["ccm + signed", "session + signed", "sealed + signed"])
    coupons: dict[bytes, Coupons] = {}
    found = set()
    for verdict, octets in frames_of(plan, tmp_path):
        kid, _, payload = opened(plan, octets)
        title = kid[:8]
        if title not in coupons:
            number = int.from_bytes(title[5:], "big")
            certificate = Factory(plan, SECRET, HEAD_END).identity_certificate(number, 1_767_225_600)
            identity = parse_certificate(certificate, CURVE_ED25519).public
            coupons[title] = Coupons(identities={title: [Identity(1, identity)]})
        judged = judge(coupons[title], kid, payload)
        assert (judged if judged in VERDICTS_OF_COUPONS else "") == (verdict if verdict in VERDICTS_OF_COUPONS else "")
        found.add(verdict)
    assert found == VERDICTS_OF_COUPONS | {"accepted", "reading_conflict"}


class TestSigner:
    def test_numbers_are_reserved_before_a_list_leaves(self) -> None:
        memory = NonVolatile()
        signer = Signer(memory, b"s")
        first = signer.sign(KID, b"\x80")
        (announced,) = signer.take_lists()
        assert (parse_reading(first).number, parse_list(announced).first) == (0, 0)
        again = Signer(NonVolatile(dict(memory.cells)), b"s")  # power was lost
        assert parse_reading(again.sign(KID, b"\x80")).number == 11
        assert parse_list(again.take_lists()[0]).first == 11

    def test_a_list_comes_when_the_last_is_spent_and_each_epoch_begins_anew(self) -> None:
        signer = Signer(NonVolatile(), b"s")
        numbers = [parse_reading(signer.sign(KID, b"\x80")).number for _ in range(12)]
        assert numbers == list(range(12))
        assert len(signer.take_lists()) == 2
        assert parse_reading(signer.sign(NEXT, b"\x80")).number == 0
        assert parse_list(signer.take_lists()[0]).kid == NEXT

    def test_power_lost_at_any_write_uses_no_number_twice(self) -> None:
        class LostError(Exception):
            pass

        for at in range(4):
            memory = NonVolatile()
            writes = iter(range(at, -1, -1))

            def power(of: NonVolatile, cell: str, octets: bytes, writes=writes) -> None:  # type: ignore[no-untyped-def]
                if next(writes, 0) == 0:
                    of.cells[cell] = octets[:3]
                    raise LostError

            used = []
            signer = Signer(memory, b"s")
            memory.power = power
            try:
                used += [parse_reading(signer.sign(KID, b"\x80")).number for _ in range(30)]
            except LostError:
                memory.power = None
            again = Signer(memory, b"s")
            used += [parse_reading(again.sign(KID, b"\x80")).number for _ in range(30)]
            assert len(set(used)) == len(used)


def test_what_it_says_is_a_pack(tmp_path: Path) -> None:
    plan = make_plan("", meters=1, days=1, schemes=["ccm + signed"])
    payloads = [opened(plan, octets)[2] for _, octets in frames_of(plan, tmp_path)]
    readings = [parse_reading(one).payload for one in payloads if is_sign1(one) and not is_list(one)]
    assert len(readings) == 48
    assert all(len(parse_pack(one)) == 2 for one in readings)
    assert sum(map(is_list, payloads)) == pytest.approx(48 / 11, abs=1)
