"""Signed readings: coupons come in lists, each is spent once, and whatever was signed is kept (docs/schemes.md)."""

from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pytest_django import Settings

from concentrators.ingest import fair_shares, reverification, reverification_queue, verification
from concentrators.models import Concentrator, Reverification
from keyvault.coupons import identities
from keyvault.coupons.identities import IdentityError
from keyvault.device_keys import key_rows, provisioning
from keyvault.enrolment import authorities, certificates
from keyvault.models import AuditRecord, Coupon, CouponDispute, CouponList, DeviceKey, KeyState, MeterIdentity
from keyvault.schemes.table import SCHEMES
from meters.models import MeterEvent, MeterStatus, Reading, Signature
from meters.readings import partitions
from tests.builders import pack
from tests.concentrators.fleet import (
    NOW,
    START_S,
    Device,
    commission,
    evidence,
    judged,
    outcome,
    post,
    readings_of,
    usual,
    verified,
)
from tests.concentrators.scheme_devices import (
    AUTHORITY,
    AUTHORITY_KEY,
    SignedDevice,
    announce,
    of_sealed,
    of_session,
    of_signed,
    signing,
)
from tests.concentrators.statements import Statements
from tests.stateful.headend import ACTOR

pytestmark = pytest.mark.django_db
NOW_S = int(NOW.timestamp())


@pytest.fixture
def meter(concentrator: Concentrator) -> SignedDevice:
    """A meter that signs, and has announced nothing yet."""
    return signing(commission(1, concentrator)[0])


def event(code: int = 1) -> bytes:
    return pack({-1: 26, -3: START_S, 0: "0-0:96.11.0", 1: "count", 2: code})


def spent(device: SignedDevice) -> dict[int, bool]:
    """Whether each coupon of a meter is spent, by number."""
    rows = Coupon.objects.filter(system_title=device.title)
    return {number: by is not None for number, by in rows.values_list("number", "spent_on")}


class TestLists:
    def test_a_list_comes_in_a_frame_and_signatures_follow(
        self, concentrator: Concentrator, meter: SignedDevice
    ) -> None:
        announced = meter.seal_unsigned(meter.list_of(0))
        frames = [announced, meter.frame(0, 100), meter.frame(1, 101)]
        assert judged(concentrator, frames) == {"accepted": 3}
        assert readings_of(meter) == {0: 100, 1: 101}
        assert spent(meter) == {number: number < 2 for number in range(11)}
        assert set(Reading.objects.values_list("scheme", flat=True)) == {SCHEMES["ccm + signed"].number}
        kept = [bytes(row.octets) for row in Signature.objects.order_by("number")]
        assert [meter.coupon_kid in one for one in kept] == [True, True]
        assert judged(concentrator, frames[::-1]) == {"duplicate": 3}
        assert CouponList.objects.count() == 1

    def test_the_same_list_sealed_anew_is_accepted_and_another_is_proof(
        self, concentrator: Concentrator, meter: SignedDevice
    ) -> None:
        listed = meter.list_of(0)
        assert judged(concentrator, [meter.seal_unsigned(listed)] * 1) == {"accepted": 1}
        assert judged(concentrator, [meter.seal_unsigned(listed)]) == {"accepted": 1}
        other = meter.list_of(10)
        assert judged(concentrator, [meter.seal_unsigned(other), meter.seal_unsigned(other)]) == {"coupon_reused": 2}
        (dispute,) = CouponDispute.objects.all()
        assert (dispute.is_list, bytes(dispute.second), dispute.coupon.number) == (True, other, 10)
        assert Coupon.objects.count() == 11

    def test_a_point_of_another_meters_coupon(self, concentrator: Concentrator, meter: SignedDevice) -> None:
        thief = signing(commission(1, concentrator)[0])
        thief.signing = meter.signing
        announce(meter)
        assert thief.coupon(0) == meter.coupon(0)
        uplink = verified(concentrator, [thief.seal_unsigned(thief.list_of(0))])
        assert outcome(uplink) == {"coupon_reused": 1}
        assert {bytes(row.system_title) for row in Coupon.objects.all()} == {meter.title}
        assert not CouponDispute.objects.exists()  # the meter whose coupon it is announced nothing twice
        assert [row.meter for row in evidence(uplink)] == [thief.meter]
        again = meter.list_of(10)
        assert judged(concentrator, [meter.seal_unsigned(again)]) == {"coupon_reused": 1}
        assert [bytes(row.second) for row in CouponDispute.objects.all()] == [again]

    def test_of_an_unregistered_identity_it_waits_until_that_is_registered(
        self, concentrator: Concentrator, meter: SignedDevice
    ) -> None:
        MeterIdentity.objects.all().delete()
        Reverification.objects.all().delete()
        uplink = verified(concentrator, [meter.seal_unsigned(meter.list_of(0)), meter.frame(0)])
        assert outcome(uplink) == {"coupon_unknown": 2}
        assert uplink.waiting == 2
        assert reverification.verify_all_again([uplink.pk]).uplinks == 0  # it is not looked at before
        identities.register([meter.certificate(AUTHORITY_KEY, NOW_S)], ACTOR, NOW)
        assert [row.cause for row in Reverification.objects.all()] == ["coupon"]
        assert not reverification_queue.work()
        uplink.refresh_from_db()
        assert outcome(uplink) == {"accepted": 2}

    def test_a_counter_that_brought_something_else_announces_nothing(
        self, concentrator: Concentrator, meter: SignedDevice
    ) -> None:
        frames = [meter.seal_unsigned(event(), 0), meter.seal_unsigned(meter.list_of(0), 0)]
        assert judged(concentrator, frames) == {"accepted": 1, "counter_reused": 1}
        assert not Coupon.objects.exists()

    def test_a_revoked_identity_announces_nothing_more(self, concentrator: Concentrator, meter: SignedDevice) -> None:
        announce(meter)
        cti = bytes(MeterIdentity.objects.get().cti)
        octets = certificates.revoke(AUTHORITY_KEY, AUTHORITY.encode(), cti, NOW_S)
        authorities.revoke(octets, ACTOR, NOW)
        frames = [meter.seal_unsigned(meter.list_of(11)), meter.frame(0)]
        assert judged(concentrator, frames) == {"signature_invalid": 1, "accepted": 1}


class TestReadings:
    def test_before_its_list_it_waits_and_its_counter_is_free(
        self, concentrator: Concentrator, meter: SignedDevice
    ) -> None:
        reading = meter.frame(0)
        uplink = verified(concentrator, [reading])
        assert outcome(uplink) == {"coupon_unknown": 1}
        assert meter.counter().highest == -1
        Reverification.objects.all().delete()
        assert judged(concentrator, [meter.seal_unsigned(meter.list_of(0))]) == {"accepted": 1}
        assert [row.cause for row in Reverification.objects.all()] == ["coupon"]
        assert not reverification_queue.work()
        uplink.refresh_from_db()
        assert (outcome(uplink), uplink.waiting) == ({"accepted": 1}, 0)
        assert readings_of(meter) == {0: 100}
        assert not evidence(uplink)

    def test_two_signatures_under_one_coupon(self, concentrator: Concentrator) -> None:
        meter = of_signed(concentrator)
        first, second = (meter.sign(usual(0, wh), number=3) for wh in (100, 200))
        other = meter.seal_unsigned(second)
        assert judged(concentrator, [meter.seal_unsigned(first), other]) == {"accepted": 1, "coupon_reused": 1}
        (dispute,) = CouponDispute.objects.all()
        assert (dispute.is_list, bytes(dispute.second)) == (False, second)
        assert bytes(Signature.objects.get().octets) == first
        assert readings_of(meter) == {0: 100}
        assert judged(concentrator, [other, meter.seal_unsigned(second)]) == {"coupon_reused": 2}
        assert judged(concentrator, [meter.seal_unsigned(first)]) == {"accepted": 1}  # the same again, sealed anew

    @pytest.mark.parametrize(
        ("payload", "verdict"),
        [
            (b"\x80", "payload_invalid"),
            (pack({-1: 26, -3: START_S, 0: "1-0:255.255.255", 1: "Wh", 2: 1}), "unknown_register"),
            (pack({-1: 26, -3: 2**28, 0: "1-0:1.8.0", 1: "Wh", 2: 1}), "too_old"),
            (pack({-1: 26, -3: START_S, 0: "1-0:1.8.0", 1: "Wh", 2: -1}), "implausible"),
            (usual(10_000_000), "clock_skew"),
        ],
    )
    def test_a_coupon_is_spent_whatever_its_payload(
        self, concentrator: Concentrator, payload: bytes, verdict: str
    ) -> None:
        meter = of_signed(concentrator)
        uplink = verified(concentrator, [meter.seal(payload)])
        assert outcome(uplink) == {verdict: 1}
        assert spent(meter)[0]
        assert meter.title in bytes(Signature.objects.get().octets)
        reverification.verify_all_again([uplink.pk])
        assert Signature.objects.count() == 1
        assert judged(concentrator, [meter.seal_unsigned(meter.sign(usual(1), number=0))]) == {"coupon_reused": 1}

    def test_only_a_signature_that_fits_spends(self, concentrator: Concentrator) -> None:
        meter = of_signed(concentrator)
        good = meter.sign(usual(0), number=0)
        for place in (-1, -33, len(good) // 2):
            forged = bytearray(good)
            forged[place] ^= 1
            kind = judged(concentrator, [meter.seal_unsigned(bytes(forged))])
            assert kind in ({"signature_invalid": 1}, {"payload_invalid": 1})
        assert not any(spent(meter).values())
        assert judged(concentrator, [meter.seal_unsigned(good)]) == {"accepted": 1}

    def test_what_is_not_signed(self, concentrator: Concentrator) -> None:
        meter = of_signed(concentrator)
        frames = [meter.seal_unsigned(usual(0)), meter.seal_unsigned(event())]
        assert judged(concentrator, frames) == {"algorithm_mismatch": 1, "accepted": 1}
        assert meter.counter().highest == 1
        assert MeterEvent.objects.count() == 1

    def test_of_a_meter_out_of_service_nothing_is_spent(self, concentrator: Concentrator) -> None:
        meter = of_signed(concentrator)
        type(meter.meter).objects.update(status=MeterStatus.SUSPENDED)
        frames = [meter.frame(0), meter.seal_unsigned(meter.list_of(11))]
        assert judged(concentrator, frames) == {"device_suspended": 2}
        assert not any(spent(meter).values())
        assert len(spent(meter)) == 11

    def test_a_wrong_signature_counts_as_forged(self, concentrator: Concentrator, settings: Settings) -> None:
        settings.BAD_TAGS_PER_HOUR = 1
        meter = of_signed(concentrator)
        good = meter.sign(usual(0), number=0)
        assert not fair_shares.standing(concentrator.pk, NOW).comes_last
        assert judged(concentrator, [meter.seal_unsigned(good[:-1] + bytes((good[-1] ^ 1,)))]) == {
            "signature_invalid": 1
        }
        assert fair_shares.standing(concentrator.pk, NOW).comes_last


class TestEpochs:
    def following(self, meter: SignedDevice) -> SignedDevice:
        """The same meter with a key of epoch 2, whose identity and secrets are as they were."""
        key = bytes(range(32))
        key_rows.set_key_state([meter.row().pk], KeyState.RETIRING)
        provisioning.provision_stored([provisioning.NewKey(meter.title, 2, key, 10, "ccm + signed")])
        return SignedDevice(
            meter.meter, key, 2, inner=Device(meter.meter, key, 2), identity=meter.identity, signing=meter.signing
        )

    def test_a_new_epoch_begins_without_coupons_and_takes_what_was_signed_before(
        self, concentrator: Concentrator
    ) -> None:
        old = of_signed(concentrator)
        new = self.following(old)
        assert judged(concentrator, [new.frame(0)]) == {"coupon_unknown": 1}
        assert judged(concentrator, [new.seal_unsigned(old.sign(usual(1)))]) == {"accepted": 1}
        assert judged(concentrator, [new.seal_unsigned(old.list_of(11))]) == {"accepted": 1}
        assert judged(concentrator, [new.seal_unsigned(new.list_of(0)), new.frame(2)]) == {"accepted": 2}
        late = new.sign(usual(3))
        assert judged(concentrator, [old.seal_unsigned(late)]) == {"payload_invalid": 1}  # an epoch to come

    def test_coupons_of_a_compromised_epoch_are_worth_nothing(self, concentrator: Concentrator) -> None:
        old = of_signed(concentrator)
        before, after = old.sign(usual(0)), old.sign(usual(1))
        assert judged(concentrator, [old.seal_unsigned(before)]) == {"accepted": 1}
        new = self.following(old)
        key_rows.set_key_state([DeviceKey.objects.get(epoch=1).pk], KeyState.COMPROMISED)
        frames = [new.seal_unsigned(before), new.seal_unsigned(after), new.seal_unsigned(old.list_of(11))]
        assert judged(concentrator, frames) == {"accepted": 1, "signature_invalid": 2}


class TestIdentities:
    def test_wrong_certificates_register_nothing(self, concentrator: Concentrator, meter: SignedDevice) -> None:
        fresh = signing(commission(1, concentrator)[0])
        other = Ed25519PrivateKey.generate()
        own = meter.identity.public_key().public_bytes_raw()
        cti = bytes(MeterIdentity.objects.get(system_title=meter.title).cti)
        standing = MeterIdentity.objects.count()
        fresh.identity = other
        for octets, why in (
            (fresh.certificate(other, NOW_S), "signature does not fit"),
            (fresh.certificate(other, NOW_S, kid=b"nobody"), "no authority nobody is pinned"),
            (fresh.certificate(AUTHORITY_KEY, NOW_S, issuer="x"), "its iss is not the name"),
            (fresh.certificate(AUTHORITY_KEY, NOW_S, audience="hes-1"), "its aud is 'hes-1'"),
            (fresh.certificate(AUTHORITY_KEY, NOW_S, expires_s=NOW_S - 1), "is over"),
            (fresh.certificate(AUTHORITY_KEY, NOW_S + 10**6), "begins in the future"),
            (fresh.certificate(AUTHORITY_KEY, NOW_S, curve=4), "no Ed25519 public key"),
            (fresh.certificate(AUTHORITY_KEY, NOW_S, public=own), "a meter makes a new pair"),
            (fresh.certificate(AUTHORITY_KEY, NOW_S, cti=cti), "is that of another certificate"),
            (fresh.certificate(AUTHORITY_KEY, NOW_S - 1000), "a newer certificate"),
            (fresh.certificate(AUTHORITY_KEY, NOW_S, public=bytes((1,)) + bytes(31)), "small order"),
            (b"\x00", "no COSE_Sign1"),
        ):
            with pytest.raises(IdentityError, match=why):
                identities.register([fresh.certificate(AUTHORITY_KEY, NOW_S), octets], ACTOR, NOW)
        assert MeterIdentity.objects.count() == standing

    def test_the_same_again_changes_nothing_and_a_newer_one_signs_lists(
        self, concentrator: Concentrator, meter: SignedDevice
    ) -> None:
        before = bytes(MeterIdentity.objects.get().certificate)
        assert identities.register([before], ACTOR, NOW)[:2] == (0, 1)
        acts = AuditRecord.objects.filter(act="identity.register")
        assert acts.count() == 1
        meter.identity = Ed25519PrivateKey.generate()
        assert judged(concentrator, [meter.seal_unsigned(meter.list_of(0))]) == {"signature_invalid": 1}
        assert identities.register([meter.certificate(AUTHORITY_KEY, NOW_S)], ACTOR, NOW)[:2] == (1, 0)
        assert judged(concentrator, [meter.seal_unsigned(meter.list_of(0))]) == {"accepted": 1}


def test_signatures_go_with_the_months_of_their_readings(concentrator: Concentrator, settings: Settings) -> None:
    meter = of_signed(concentrator)
    assert judged(concentrator, [meter.frame(0)]) == {"accepted": 1}
    partitions.set_retention()
    later = NOW + timedelta(days=settings.RETENTION_DAYS + 70)
    partitions.maintain(later)
    assert not Reading.objects.exists()
    assert not Signature.objects.exists()
    assert spent(meter)[0]


def test_an_uplink_costs_the_same_for_any_number_of_signatures(
    concentrator: Concentrator, statements: Statements
) -> None:
    costs: list[list[int]] = []
    for each in (1, 4):
        makes = (None, of_session, of_sealed)
        meters = [of_signed(concentrator, make) for make in makes for _ in range(each)]
        costs.append([])
        for interval in range(2):
            lists = [meter.seal_unsigned(meter.list_of(11 + 11 * interval)) for meter in meters]
            frames = [meter.frame(interval) for meter in meters]
            uplink = post(concentrator, [*lists, *frames, *frames])
            statements.take()
            verification.verify(uplink.pk)
            costs[-1].append(len(statements.take()))
            uplink.refresh_from_db()
            assert outcome(uplink) == {"accepted": 2 * len(meters), "duplicate": len(meters)}
    assert costs[0] == costs[1]
