"""Enrolment by certificate, from a posted frame to a key: who is let in, who is not and why, and exactly once."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from django.test import override_settings
from django.utils import timezone
from pytest_django import Settings

from concentrators.failures.explanations import explain
from concentrators.failures.kinds import FailureKind
from concentrators.ingest import fair_shares, reverification_queue
from concentrators.models import Concentrator
from keyvault import master_key
from keyvault.counted_keys import ContendedError
from keyvault.device_keys import agreement_cut_off, agreement_keys, epochs, provisioning
from keyvault.enrolment import authorities, lookups
from keyvault.enrolment.authorities import AuthorityError, PublicAuthority
from keyvault.enrolment.certificates import revoke
from keyvault.journal import reading
from keyvault.models import (
    AgreementKey,
    Authority,
    AwaitedEnrolment,
    DeviceKey,
    DevicePublicKey,
    Enrolment,
    InvocationCounter,
    KeyState,
)
from keyvault.opening import Opening, save_counters
from meters.models import Meter, MeterStatus
from tests.concentrators.enrolling import (
    AUTHORITY,
    DAY_S,
    ISSUER,
    KID,
    OFFICER,
    Newcomer,
    nothing_new,
    pin,
)
from tests.concentrators.fleet import NOW, START_S, evidence, judged, outcome, readings_of, verified
from tests.concentrators.statements import counting
from tests.factories import ConcentratorFactory, MeterFactory

pytestmark = pytest.mark.django_db
AT_S = int(NOW.timestamp())


@pytest.fixture
def concentrator() -> Concentrator:
    return ConcentratorFactory.create()


@pytest.fixture
def version() -> AgreementKey:
    pin()
    return agreement_keys.init("hes-1", OFFICER)


@pytest.fixture
def newcomer(version: AgreementKey) -> Newcomer:
    return await_(Newcomer(MeterFactory.create(), version))


def await_(newcomer: Newcomer, **kind: object) -> Newcomer:
    authorities.allow([newcomer.title], OFFICER, NOW, **kind)  # type: ignore[arg-type]
    return newcomer


def kinds(folder: Path) -> list[str]:
    """The kinds of the records in a journal."""
    return [record.kind for record in reading.read([folder], master_key.current())]


def standing(newcomer: Newcomer) -> dict[int, str]:
    rows = DeviceKey.objects.filter(system_title=newcomer.title).order_by("epoch")
    return dict(rows.values_list("epoch", "state"))


def test_a_meter_enrols_by_its_first_frame(concentrator: Concentrator, newcomer: Newcomer) -> None:
    certificate = newcomer.certificate()
    assert judged(concentrator, [newcomer.frame(certificate)]) == {"accepted": 1}
    assert standing(newcomer) == {0: "active", 1: "active"}
    assert readings_of(newcomer.device) == {0: 100}
    row = Enrolment.objects.get()
    assert (bytes(row.certificate), bytes(row.system_title), row.epoch) == (certificate, newcomer.title, 1)
    assert not AwaitedEnrolment.objects.exists()
    assert newcomer.device.row().activated_at is not None
    assert newcomer.device.counter().highest == 0
    assert judged(concentrator, [newcomer.device.frame(1), newcomer.device.frame(2)]) == {"accepted": 2}


def test_frames_of_the_same_uplink_wait_for_the_key_and_are_judged_then(
    concentrator: Concentrator, newcomer: Newcomer
) -> None:
    first = newcomer.frame(newcomer.certificate())
    assert judged(concentrator, [newcomer.device.frame(1), first]) == {"accepted": 1, "unknown_device": 1}
    reverification_queue.work()
    assert readings_of(newcomer.device) == {0: 100, 1: 100}


def test_one_that_came_before_its_meter_was_registered_waits(concentrator: Concentrator, version: AgreementKey) -> None:
    newcomer = Newcomer(MeterFactory.create(), version)
    uplink = verified(concentrator, [newcomer.frame(newcomer.certificate())])
    assert outcome(uplink) == {"unknown_device": 1}
    assert "awaits enrolment" in evidence(uplink)[0].detail
    await_(newcomer)
    reverification_queue.request_everything()
    reverification_queue.work()
    assert standing(newcomer) == {0: "active", 1: "active"}


def test_the_same_frame_again_is_a_duplicate_and_another_of_the_certificate_counts(
    concentrator: Concentrator, newcomer: Newcomer
) -> None:
    certificate = newcomer.certificate()
    frame = newcomer.frame(certificate)
    assert judged(concentrator, [frame, frame]) == {"accepted": 1, "duplicate": 1}
    assert judged(concentrator, [frame]) == {"duplicate": 1}
    assert judged(concentrator, [newcomer.frame(certificate, 1)]) == {"accepted": 1}
    late = {"received_at": NOW + timedelta(days=2)}  # the certificate has expired, and nobody asks any more
    assert judged(concentrator, [newcomer.frame(certificate, 2)], **late) == {"accepted": 1}
    damaged = newcomer.frame(certificate, 3)
    damaged = damaged[:-1] + bytes((damaged[-1] ^ 1,))
    assert judged(concentrator, [damaged]) == {"tag_invalid": 1}


class TestRefusals:
    """Each with its evidence, and nothing written."""

    CASES: dict[str, tuple[str, Callable[[Newcomer], bytes]]] = {
        "no authority": ("certificate_invalid", lambda one: one.certificate(kid=b"authority-2")),
        "another iss": ("certificate_invalid", lambda one: one.certificate(issuer="somebody")),
        "expired": ("certificate_expired", lambda one: one.certificate(expires_s=AT_S)),
        "not yet": ("certificate_invalid", lambda one: one.certificate(issued_s=AT_S + 301)),
        "of another title": ("certificate_invalid", lambda one: one.certificate(system_title=bytes(8))),
        "another head-end": ("certificate_invalid", lambda one: one.certificate(audience="hes-2")),
        "forged": ("certificate_invalid", lambda one: one.certificate(authority=Ed25519PrivateKey.generate())),
        "small order": ("certificate_invalid", lambda one: one.certificate(public=bytes(32))),
        "another's key": ("tag_invalid", lambda one: one.certificate(public=bytes((9,)) + bytes(31))),
        "no certificate": ("certificate_invalid", lambda one: cbor2.dumps({1: "nonsense"})),
        "too long": ("certificate_invalid", lambda one: one.certificate(issuer="x" * 400)),
    }

    @pytest.mark.parametrize("case", CASES)
    def test_the_verdict(self, concentrator: Concentrator, newcomer: Newcomer, case: str) -> None:
        kind, certificate = self.CASES[case]
        frame = newcomer.frame(certificate(newcomer))
        with nothing_new(DeviceKey, DevicePublicKey, Enrolment, AwaitedEnrolment, InvocationCounter):
            uplink = verified(concentrator, [frame])
        assert outcome(uplink) == {kind: 1}
        (failure,) = evidence(uplink)
        assert (bytes(failure.frame), bytes(failure.kid or b"")) == (frame, newcomer.kid)
        assert failure.meter_id == newcomer.meter.pk
        assert explain(FailureKind(failure.kind))
        assert judged(concentrator, [newcomer.frame(newcomer.certificate())]) == {"accepted": 1}

    def test_an_authority_that_has_expired(self, concentrator: Concentrator, newcomer: Newcomer) -> None:
        public = AUTHORITY.public_key().public_bytes_raw()
        Authority.objects.update(expires_at=NOW, mac=lookups.seal_authority(KID, ISSUER, public, AT_S))
        assert judged(concentrator, [newcomer.frame(newcomer.certificate())]) == {"certificate_expired": 1}

    def test_a_revoked_one(self, concentrator: Concentrator, newcomer: Newcomer) -> None:
        cti = b"revoked!"
        revoked = authorities.revoke(revoke(AUTHORITY, KID, cti, AT_S), OFFICER, NOW)
        assert (revoked.enrolment, revoked.key_ids) == (None, [])
        assert judged(concentrator, [newcomer.frame(newcomer.certificate(cti=cti))]) == {"certificate_revoked": 1}

    def test_an_authority_that_was_unpinned_and_pinned_again(
        self, concentrator: Concentrator, newcomer: Newcomer
    ) -> None:
        frame = newcomer.frame(newcomer.certificate())
        authorities.unpin(KID, OFFICER, NOW)
        assert judged(concentrator, [frame]) == {"certificate_invalid": 1}
        with pytest.raises(AuthorityError, match="no authority authority-1 is pinned"):
            authorities.unpin(KID, OFFICER, NOW)
        other = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
        with pytest.raises(AuthorityError, match="with another key: take another kid"):
            authorities.pin(PublicAuthority(KID, ISSUER, other), OFFICER, NOW)
        pin()
        assert judged(concentrator, [newcomer.frame(newcomer.certificate())]) == {"accepted": 1}

    @pytest.mark.parametrize("with_old_mac", [True, False])
    def test_who_writes_to_the_database_cannot_undo_an_unpinning(
        self, concentrator: Concentrator, newcomer: Newcomer, caplog: pytest.LogCaptureFixture, with_old_mac: bool
    ) -> None:
        (before,) = Authority.objects.values("unpinned_at", "mac", "pinned_at")
        authorities.unpin(KID, OFFICER, NOW)
        put_back = before if with_old_mac else {"unpinned_at": None}
        Authority.objects.update(**put_back)
        assert judged(concentrator, [newcomer.frame(newcomer.certificate())]) == {"certificate_invalid": 1}
        assert ("older row put back" if with_old_mac else "row was changed") in caplog.text

    def test_one_number_for_two_meters(
        self, concentrator: Concentrator, version: AgreementKey, newcomer: Newcomer
    ) -> None:
        other = await_(Newcomer(MeterFactory.create(), version))
        frames = [one.frame(one.certificate(cti=b"the same")) for one in (newcomer, other)]
        assert judged(concentrator, frames) == {"accepted": 1, "already_enrolled": 1}
        assert judged(concentrator, [other.frame(other.certificate(cti=b"the same"))]) == {"already_enrolled": 1}

    def test_two_authorities_may_use_the_same_number(
        self, concentrator: Concentrator, version: AgreementKey, newcomer: Newcomer
    ) -> None:
        signing = Ed25519PrivateKey.generate()
        public = signing.public_key().public_bytes_raw()
        authorities.pin(PublicAuthority(b"authority-2", ISSUER, public), OFFICER, NOW)
        first, second = await_(Newcomer(MeterFactory.create(), version)), newcomer
        same = first.certificate(cti=b"the same")
        others = second.certificate(cti=b"the same", kid=b"authority-2", authority=signing)
        assert judged(concentrator, [first.frame(same)]) == {"accepted": 1}
        assert judged(concentrator, [second.frame(others)]) == {"accepted": 1}
        third = await_(Newcomer(MeterFactory.create(), version))
        again = third.certificate(cti=b"the same", kid=b"authority-2", authority=signing)
        assert judged(concentrator, [third.frame(again)]) == {"already_enrolled": 1}

    def test_of_two_certificates_for_one_meter_the_second_waits_for_the_first(
        self, concentrator: Concentrator, version: AgreementKey, newcomer: Newcomer
    ) -> None:
        other = Newcomer(newcomer.meter, version)
        bad = newcomer.frame(newcomer.certificate(), payload=b"\x80")
        good = other.frame(other.certificate())
        assert judged(concentrator, [bad, good]) == {"payload_invalid": 1, "unknown_device": 1}
        reverification_queue.request_everything()
        reverification_queue.work()
        assert standing(other) == {0: "active", 1: "active"}
        assert readings_of(other.device) == {0: 100}

    def test_of_two_good_certificates_for_one_meter_the_first_enrols_it(
        self, concentrator: Concentrator, version: AgreementKey, newcomer: Newcomer
    ) -> None:
        other = Newcomer(newcomer.meter, version)
        frames = [one.frame(one.certificate(), n) for n, one in enumerate((newcomer, other))]
        uplink = verified(concentrator, frames)
        assert outcome(uplink) == {"accepted": 1, "unknown_device": 1}
        reverification_queue.work()
        uplink.refresh_from_db()
        assert outcome(uplink) == {"accepted": 1, "already_enrolled": 1}
        assert readings_of(newcomer.device) == {0: 100}

    def test_a_meter_that_has_keys_and_no_leave(
        self, concentrator: Concentrator, version: AgreementKey, newcomer: Newcomer
    ) -> None:
        judged(concentrator, [newcomer.frame(newcomer.certificate())])
        again = Newcomer(newcomer.meter, version)
        assert judged(concentrator, [again.frame(again.certificate())]) == {"already_enrolled": 1}
        again = Newcomer(newcomer.meter, version, epoch=2)
        assert judged(concentrator, [again.frame(again.certificate())]) == {"already_enrolled": 1}
        imported = Newcomer(MeterFactory.create(), version)
        provisioning.provision_devices([imported.title])
        assert judged(concentrator, [imported.frame(imported.certificate())]) == {"already_enrolled": 1}

    def test_another_epoch_and_algorithm(self, concentrator: Concentrator, newcomer: Newcomer) -> None:
        version = AgreementKey.objects.get()
        later = Newcomer(newcomer.meter, version, epoch=2)
        assert judged(concentrator, [later.frame(later.certificate())]) == {"unknown_epoch": 1}
        longer = Newcomer(newcomer.meter, version, alg=11)
        assert judged(concentrator, [longer.frame(longer.certificate())]) == {"algorithm_mismatch": 1}

    def test_a_meter_that_is_not_in_service(self, concentrator: Concentrator, newcomer: Newcomer) -> None:
        Meter.objects.update(status=MeterStatus.SUSPENDED)
        with nothing_new(DeviceKey, Enrolment):
            assert judged(concentrator, [newcomer.frame(newcomer.certificate())]) == {"device_suspended": 1}

    def test_a_payload_that_is_refused_enrols_nobody(self, concentrator: Concentrator, newcomer: Newcomer) -> None:
        with nothing_new(DeviceKey, Enrolment):
            frame = newcomer.frame(newcomer.certificate(), payload=b"\x80")
            assert judged(concentrator, [frame]) == {"payload_invalid": 1}
        assert judged(concentrator, [newcomer.frame(newcomer.certificate())]) == {"accepted": 1}

    def test_a_certificate_older_than_the_one_that_enrolled(
        self, concentrator: Concentrator, version: AgreementKey, newcomer: Newcomer
    ) -> None:
        judged(concentrator, [newcomer.frame(newcomer.certificate())])
        again = await_(Newcomer(newcomer.meter, version, epoch=2))
        older = again.certificate(issued_s=AT_S - 2 * DAY_S)
        assert judged(concentrator, [again.frame(older)]) == {"certificate_revoked": 1}

    def test_a_version_that_was_cut_off(self, concentrator: Concentrator, newcomer: Newcomer) -> None:
        agreement_cut_off.cut_off("hes-1", 1, OFFICER, NOW)
        assert judged(concentrator, [newcomer.frame(newcomer.certificate())]) == {"certificate_invalid": 1}


class TestAgain:
    def test_with_leave_as_the_next_epoch(
        self, concentrator: Concentrator, version: AgreementKey, newcomer: Newcomer
    ) -> None:
        judged(concentrator, [newcomer.frame(newcomer.certificate())])
        before = DeviceKey.objects.get(system_title=newcomer.title, epoch=0)
        epochs.begin([newcomer.title])  # a rotation is under way
        again = await_(Newcomer(newcomer.meter, version, epoch=3))
        assert judged(concentrator, [again.frame(again.certificate(), 1)]) == {"accepted": 1}
        assert standing(again) == {0: "active", 1: "retiring", 2: "retired", 3: "active"}
        after = DeviceKey.objects.get(system_title=newcomer.title, epoch=0)
        assert (after.pk, after.version) == (before.pk, before.version + 1)
        assert after.fingerprint != before.fingerprint
        assert judged(concentrator, [newcomer.device.frame(2)]) == {"accepted": 1}  # late, under the old epoch
        third = Newcomer(newcomer.meter, version, epoch=4)
        assert judged(concentrator, [third.frame(third.certificate())]) == {"already_enrolled": 1}

    def test_a_try_that_another_came_between_leaves_nothing_in_the_journal(
        self, concentrator: Concentrator, version: AgreementKey, newcomer: Newcomer, settings: Settings, tmp_path: Path
    ) -> None:
        judged(concentrator, [newcomer.frame(newcomer.certificate())])
        epochs.begin([newcomer.title])
        again = await_(Newcomer(newcomer.meter, version, epoch=3))
        settings.KEY_JOURNAL_DIR = tmp_path
        written: list[list[str]] = []

        def come_between(opening: Opening, heard: Any) -> None:
            assert DeviceKey.objects.filter(system_title=newcomer.title, epoch=3).exists()
            written.append(kinds(tmp_path))
            if len(written) == 1:
                raise ContendedError("another came between")
            save_counters(opening, heard)

        with patch("concentrators.ingest.store.save_counters", come_between):
            assert judged(concentrator, [again.frame(again.certificate(), 1)]) == {"accepted": 1}
        assert written == [[], []]
        assert kinds(tmp_path) == ["state", "public_keys", "keys", "keys", "enrolled", "activated"]

    def test_not_with_the_public_key_that_it_had(self, concentrator: Concentrator, newcomer: Newcomer) -> None:
        judged(concentrator, [newcomer.frame(newcomer.certificate())])
        await_(newcomer)
        newcomer.epoch, newcomer.kid = 2, newcomer.title + b"\x00\x02"
        uplink = verified(concentrator, [newcomer.frame(newcomer.certificate())])
        assert outcome(uplink) == {"certificate_invalid": 1}
        assert "makes a new pair" in evidence(uplink)[0].detail

    def test_after_everything_was_cut_off(
        self, concentrator: Concentrator, version: AgreementKey, newcomer: Newcomer
    ) -> None:
        certificate = newcomer.certificate(cti=b"stolen!!")
        judged(concentrator, [newcomer.frame(certificate)])
        revoked = authorities.revoke(revoke(AUTHORITY, KID, b"stolen!!", AT_S), OFFICER, NOW)
        assert revoked.enrolment is not None
        assert epochs.compromise(revoked.key_ids, OFFICER) == 2
        assert judged(concentrator, [newcomer.frame(certificate)]) == {"key_retired": 1}
        again = await_(Newcomer(newcomer.meter, version, epoch=2))
        assert judged(concentrator, [again.frame(again.certificate(), 1)]) == {"accepted": 1}
        assert standing(again) == {0: "active", 1: "compromised", 2: "active"}

    def test_what_anybody_sends_for_its_key_costs_neither_an_agreement_nor_a_second_try(
        self, concentrator: Concentrator, newcomer: Newcomer
    ) -> None:
        judged(concentrator, [newcomer.frame(newcomer.certificate())])
        judged(
            concentrator, [newcomer.device.frame(1)]
        )  # its cipher is kept, and its counters are foreseen from now on
        following = newcomer.device.frame(2)
        junk = newcomer.frame(b"\x80")
        with (
            patch("keyvault.enrolment.opening.open_keys", side_effect=AssertionError),
            patch("concentrators.ingest.transaction_retry._more_careful", side_effect=AssertionError),
        ):
            assert judged(concentrator, [following, junk]) == {"accepted": 1, "already_enrolled": 1}

    def test_replayed_beside_the_meters_frames_it_costs_no_second_try(
        self, concentrator: Concentrator, newcomer: Newcomer
    ) -> None:
        """Anybody may have captured it. The gaps that stand are kept: one is filled later."""
        first, late = newcomer.frame(newcomer.certificate()), newcomer.device.frame(1)
        judged(concentrator, [first])
        judged(concentrator, [newcomer.device.frame(2)])  # skips the late one; its cipher is kept from now on
        forged = first[:-1] + bytes((first[-1] ^ 1,))
        numbers = []
        with patch("concentrators.ingest.transaction_retry._more_careful", side_effect=AssertionError):
            for interval, count in ((3, 1), (5, 3)):
                frames = [newcomer.device.frame(interval), newcomer.device.frame(interval + 1)]
                with counting() as statements:
                    outcomes = judged(concentrator, [*frames, *[first, forged] * count])
                numbers.append(len(statements))
                assert outcomes == {"accepted": 2, "duplicate": count, "tag_invalid": count}
        assert numbers[0] == numbers[1]
        assert judged(concentrator, [late]) == {"accepted": 1}
        assert (newcomer.device.counter().highest, newcomer.device.counter().floor) == (6, 0)

    def test_replayed_beside_a_frame_under_a_key_that_was_cut_off(
        self, concentrator: Concentrator, newcomer: Newcomer
    ) -> None:
        first = newcomer.frame(newcomer.certificate())
        judged(concentrator, [first])
        judged(concentrator, [newcomer.device.frame(1)])  # its cipher is kept from now on
        epochs.compromise([newcomer.device.row().pk], OFFICER)
        assert judged(concentrator, [newcomer.device.frame(2), first]) == {"key_retired": 2}

    def test_revoking_the_certificate_before_is_not_about_what_the_next_one_enrolled(
        self, concentrator: Concentrator, version: AgreementKey, newcomer: Newcomer
    ) -> None:
        judged(concentrator, [newcomer.frame(newcomer.certificate(cti=b"replaced"))])
        again = await_(Newcomer(newcomer.meter, version, epoch=2))
        assert judged(concentrator, [again.frame(again.certificate(), 1)]) == {"accepted": 1}
        revoked = authorities.revoke(revoke(AUTHORITY, KID, b"replaced", AT_S), OFFICER, NOW)
        assert epochs.compromise(revoked.key_ids, OFFICER) == 1
        assert standing(again) == {0: "active", 1: "compromised", 2: "active"}


class TestAnotherAuthority:
    OTHER, OTHER_KID = Ed25519PrivateKey.from_private_bytes(bytes(range(0xB0, 0xD0))), b"authority-2"

    @pytest.fixture(autouse=True)
    def pinned(self, version: AgreementKey) -> None:
        public = self.OTHER.public_key().public_bytes_raw()
        authorities.pin(PublicAuthority(self.OTHER_KID, "another", public), OFFICER, NOW)

    def test_has_no_say_over_the_certificates_of_the_first(
        self, concentrator: Concentrator, newcomer: Newcomer
    ) -> None:
        authorities.revoke(revoke(self.OTHER, self.OTHER_KID, b"not mine", AT_S), OFFICER, NOW)
        assert judged(concentrator, [newcomer.frame(newcomer.certificate(cti=b"not mine"))]) == {"accepted": 1}
        revoked = authorities.revoke(revoke(AUTHORITY, KID, b"not mine", AT_S), OFFICER, NOW)
        assert len(revoked.key_ids) == 2

    def test_that_somebody_put_into_the_table_vouches_for_nothing(
        self, concentrator: Concentrator, newcomer: Newcomer, caplog: pytest.LogCaptureFixture
    ) -> None:
        ours = {"public": AUTHORITY.public_key().public_bytes_raw(), "pinned_at": NOW}
        Authority.objects.create(kid=b"mine", issuer="mine", mac=Authority.objects.get(kid=KID).mac, **ours)
        uplink = verified(concentrator, [newcomer.frame(newcomer.certificate(kid=b"mine", issuer="mine"))])
        assert outcome(uplink) == {"certificate_invalid": 1}
        assert "is pinned" in evidence(uplink)[0].detail
        assert "pinned by nobody" in caplog.text

    def test_never_has_the_key_of_the_first(self) -> None:
        public = self.OTHER.public_key().public_bytes_raw()
        with pytest.raises(AuthorityError, match="public key already"):
            authorities.pin(PublicAuthority(b"authority-3", "a third", public), OFFICER, NOW)


class TestSchemes:
    def test_a_meter_that_was_made_for_the_version_before(
        self, concentrator: Concentrator, version: AgreementKey, newcomer: Newcomer
    ) -> None:
        agreement_keys.rotate("hes-1", OFFICER, NOW)
        assert judged(concentrator, [newcomer.frame(newcomer.certificate())]) == {"accepted": 1}
        assert set(DeviceKey.objects.values_list("agreement_key", flat=True)) == {version.pk}

    def test_keys_of_256_bits(self, concentrator: Concentrator, version: AgreementKey) -> None:
        newcomer = await_(Newcomer(MeterFactory.create(), version, alg=11), algorithm=11)
        assert judged(concentrator, [newcomer.frame(newcomer.certificate())]) == {"accepted": 1}
        assert set(DeviceKey.objects.values_list("algorithm", flat=True)) == {11}
        assert judged(concentrator, [newcomer.device.frame(1)]) == {"accepted": 1}

    @pytest.mark.parametrize("scheme", ["hop", "session", "mac", "sealed"])
    def test_of_another_scheme_it_brings_events_alone(
        self, concentrator: Concentrator, version: AgreementKey, scheme: str
    ) -> None:
        newcomer = await_(Newcomer(MeterFactory.create(), version), scheme=scheme)
        certificate = newcomer.certificate()
        assert judged(concentrator, [newcomer.frame(certificate)]) == {"algorithm_mismatch": 1}
        assert not DeviceKey.objects.exists()
        event = cbor2.dumps([{0: "0-0:96.11.0", 1: "count", 2: 1, 6: START_S}])
        assert judged(concentrator, [newcomer.frame(certificate, payload=event)]) == {"accepted": 1}
        assert newcomer.device.row().scheme == scheme


def test_queries_do_not_depend_on_the_number_of_frames(concentrator: Concentrator, version: AgreementKey) -> None:
    numbers = []
    for count in (1, 6):
        newcomers = [await_(Newcomer(MeterFactory.create(), version)) for _ in range(count)]
        frames = [one.frame(one.certificate()) for one in newcomers]
        with counting() as statements:
            assert judged(concentrator, frames) == {"accepted": count}
        numbers.append(len(statements))
    assert numbers[0] == numbers[1]
    assert DeviceKey.objects.filter(state=KeyState.ACTIVE).count() == 14


def test_forged_certificates_count_as_bad_tags_do(concentrator: Concentrator, newcomer: Newcomer) -> None:
    frames = [newcomer.frame(newcomer.certificate(authority=Ed25519PrivateKey.generate())) for _ in range(3)]
    now = timezone.now()
    verified(concentrator, frames, now)
    with override_settings(BAD_TAGS_PER_HOUR=3):
        assert fair_shares.standing(concentrator.pk, now).comes_last
