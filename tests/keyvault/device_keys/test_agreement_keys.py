"""Agreement keys in the vault: made, replaced, cut off, wrapped; and device keys that are agreed on with them."""

from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from django.contrib.auth.models import Group, User
from django.db import transaction
from pytest_django import Settings

from concentrators.models import Concentrator
from keyvault import approvals, master_key
from keyvault.approvals import ApprovalError, Person
from keyvault.audit.chain import Actor
from keyvault.device_keys import agreement_cut_off, agreement_keys, epochs, provisioning
from keyvault.device_keys.agreement_keys import AgreementKeyError
from keyvault.device_keys.epochs import EpochError
from keyvault.device_keys.provisioning import NewKey, ProvisioningError
from keyvault.device_keys.unwrapping import open_keys
from keyvault.master_key import MasterKeyError, census, rewrap, trial
from keyvault.models import AgreementKey, AgreementState, AuditRecord, DeviceKey, DevicePublicKey, KeySource, KeyState
from keyvault.schemes.agreed import agree, agreed_device_key
from meters.models import Meter
from tests.builders import KNOWN_TITLE
from tests.concentrators.fleet import Device, judged
from tests.concentrators.statements import counting
from tests.factories import ConcentratorFactory, MeterFactory
from tests.keyvault.agreeing import agreement_key, pairs, provision
from tests.keyvault.schemes.test_agreed import DEVICE_KEYS, HEAD_END, HEAD_END_PUBLIC, METER_PUBLIC

pytestmark = pytest.mark.django_db
OFFICER = Actor("officer", "test")
NOW = datetime(2026, 1, 1, tzinfo=UTC)
TITLES = [bytes.fromhex("02be") + number.to_bytes(6, "big") for number in range(5)]


def opened(title: bytes, epoch: int) -> bytes:
    (key,) = open_keys([DeviceKey.objects.get(system_title=title, epoch=epoch).pk])
    return key.octets


def test_known_answers_of_the_vault() -> None:
    key = agreement_key(HEAD_END)
    entries = [NewKey(KNOWN_TITLE, epoch, agreement_key=key.pk) for epoch in (0, 1)]
    provisioning.provision_agreed(entries, {KNOWN_TITLE: METER_PUBLIC})
    assert {epoch: opened(KNOWN_TITLE, epoch).hex() for epoch in (0, 1)} == DEVICE_KEYS
    (first,) = open_keys([DeviceKey.objects.get(epoch=1).pk])
    assert first.agreement_private is not None
    assert first.agreement_private.private_bytes_raw() == HEAD_END.private_bytes_raw()
    assert first.agreement_public == HEAD_END_PUBLIC


def test_frames_under_agreed_keys_are_accepted() -> None:
    concentrator: Concentrator = ConcentratorFactory.create()
    privates = pairs([bytes(MeterFactory.create().system_title)])
    key = agreement_keys.init("hes-1", OFFICER)
    provision(privates, key)
    ((title, private),) = privates.items()
    public = private.public_key().public_bytes_raw()
    head_end = bytes(key.public)
    secret = agreed_device_key(agree(private, head_end), title, 1, public, head_end)

    device = Device(Meter.objects.get(system_title=title), secret)
    assert judged(concentrator, [device.frame(0), device.frame(1)]) == {"accepted": 2}


class TestVersions:
    def test_init_and_rotate(self) -> None:
        first = agreement_keys.init("hes-1", OFFICER)
        second = agreement_keys.rotate("hes-1", OFFICER, NOW)
        first.refresh_from_db()
        assert (first.state, first.replaced_at, second.version) == (AgreementState.REPLACED, NOW, 2)
        assert agreement_keys.active() == agreement_keys.active("hes-1") == second
        acts = list(AuditRecord.objects.order_by("number").values_list("act", flat=True))
        assert acts == ["agreement_key.init", "agreement_key.rotate"]
        assert bytes(first.public) != bytes(second.public)

    @pytest.mark.parametrize("name", ["", "  ", "x" * 101, "two\nlines"])
    def test_names(self, name: str) -> None:
        with pytest.raises(AgreementKeyError, match="name of up to 100"):
            agreement_keys.init(name, OFFICER)

    def test_what_is_refused(self) -> None:
        with pytest.raises(AgreementKeyError, match="no agreement key:"):
            agreement_keys.active()
        with pytest.raises(AgreementKeyError, match="no agreement key hes-1"):
            agreement_keys.rotate("hes-1", OFFICER, NOW)
        agreement_keys.init("hes-1", OFFICER)
        with pytest.raises(AgreementKeyError, match="already"):
            agreement_keys.init("hes-1", OFFICER)
        agreement_keys.init("hes-2", OFFICER)
        with pytest.raises(AgreementKeyError, match="several"):
            agreement_keys.active()

    def test_what_uses_a_version(self) -> None:
        first = agreement_keys.init("hes-1", OFFICER)
        provision(pairs(TITLES[:3]), first)
        second = agreement_keys.rotate("hes-1", OFFICER, NOW)
        provision(pairs(TITLES[3:]), second)
        with counting() as statements:
            found = {row.key.version: (row.meters, row.usable) for row in agreement_keys.standings()}
        assert found == {2: (2, 4), 1: (3, 6)}
        assert len(statements) == 2


class TestProvisioning:
    def test_a_public_key_stands_for_one_meter_for_good(self) -> None:
        key = agreement_keys.init("hes-1", OFFICER)
        privates = pairs(TITLES[:1])
        provision(privates, key)
        stolen = {TITLES[1]: privates[TITLES[0]]}
        with pytest.raises(ProvisioningError, match=f"its public key is that of {TITLES[0].hex()}"):
            provision(stolen, key)
        DeviceKey.objects.filter(system_title=TITLES[0]).update(state=KeyState.COMPROMISED)
        with pytest.raises(ProvisioningError, match="Each meter has a pair of its own"):
            provision(stolen, key)
        assert DevicePublicKey.objects.count() == 1

    def test_one_key_for_two_meters_of_one_list(self) -> None:
        key = agreement_keys.init("hes-1", OFFICER)
        private = X25519PrivateKey.generate()
        with pytest.raises(ProvisioningError, match="too"):
            provision({TITLES[0]: private, TITLES[1]: private}, key)
        assert not DevicePublicKey.objects.exists()

    def test_a_public_key_of_small_order_and_the_head_ends_own(self) -> None:
        key = agreement_key(HEAD_END)
        entries = [NewKey(TITLES[0], 1, agreement_key=key.pk)]
        with pytest.raises(ProvisioningError, match="small order"):
            provisioning.provision_agreed(entries, {TITLES[0]: bytes(32)})
        with pytest.raises(ProvisioningError, match="head-end's own"):
            provisioning.provision_agreed(entries, {TITLES[0]: HEAD_END_PUBLIC})
        assert not DeviceKey.objects.exists()

    def test_a_version_that_is_cut_off_or_missing(self) -> None:
        key = agreement_keys.init("hes-1", OFFICER)
        agreement_cut_off.cut_off("hes-1", 1, OFFICER, NOW)
        with pytest.raises(AgreementKeyError, match="cut off"):
            provision(pairs(TITLES[:1]), key)
        with pytest.raises(ProvisioningError, match="needs a version"):
            provisioning.provision_agreed([NewKey(TITLES[0], 1)], {TITLES[0]: METER_PUBLIC})

    def test_queries_do_not_depend_on_the_number(self) -> None:
        key = agreement_keys.init("hes-1", OFFICER)
        numbers = []
        for titles in (TITLES[:1], TITLES[1:]):
            with counting() as statements:
                provision(pairs(titles), key)
            numbers.append(len(statements))
        assert numbers[0] == numbers[1]


class TestEpochs:
    def test_the_next_epoch_goes_with_the_active_version(self) -> None:
        first = agreement_keys.init("hes-1", OFFICER)
        privates = pairs(TITLES[:2])
        provision(privates, first)
        second = agreement_keys.rotate("hes-1", OFFICER, NOW)
        epochs.begin(TITLES[:2])
        title = TITLES[0]
        row = DeviceKey.objects.get(system_title=title, epoch=2)
        assert (row.source, row.state, row.agreement_key) == (KeySource.AGREED, KeyState.PENDING, second)
        head_end, public = bytes(second.public), privates[title].public_key().public_bytes_raw()
        assert opened(title, 2) == agreed_device_key(agree(privates[title], head_end), title, 2, public, head_end)
        assert DeviceKey.objects.get(system_title=title, epoch=0).agreement_key == first

    def test_to_random_keys_and_back(self) -> None:
        provision(pairs(TITLES[:1]), agreement_keys.init("hes-1", OFFICER))
        epochs.begin(TITLES[:1], source=KeySource.STORED)
        row = DeviceKey.objects.get(epoch=2)
        assert row.source == KeySource.STORED
        epochs.activate([row.pk], NOW)
        epochs.begin(TITLES[:1], source=KeySource.AGREED)
        assert DeviceKey.objects.get(epoch=3).source == KeySource.AGREED

    def test_a_meter_without_a_public_key(self) -> None:
        provisioning.provision_devices(TITLES[:1])
        with pytest.raises(AgreementKeyError, match="there is no agreement key"):
            epochs.begin(TITLES[:1], source=KeySource.AGREED)
        agreement_keys.init("hes-1", OFFICER)
        with pytest.raises(EpochError, match="no public key"):
            epochs.begin(TITLES[:1], source=KeySource.AGREED)


class TestCuttingOff:
    def test_it_takes_every_key_that_was_agreed_on(self) -> None:
        first = agreement_keys.init("hes-1", OFFICER)
        provision(pairs(TITLES[:2]), first)
        second = agreement_keys.rotate("hes-1", OFFICER, NOW)
        provision(pairs(TITLES[2:3]), second)
        epochs.begin(TITLES[:1])
        assert agreement_cut_off.would_be("hes-1", 1) == (4, 0)
        done = agreement_cut_off.cut_off("hes-1", 1, OFFICER, NOW)
        cut = DeviceKey.objects.filter(state=KeyState.COMPROMISED).order_by("system_title", "epoch")
        expected = [(title, epoch) for title, epochs_ in ((TITLES[0], 3), (TITLES[1], 2)) for epoch in range(epochs_)]
        assert [(bytes(key.system_title), key.epoch) for key in cut] == expected  # the pending one, too
        assert done.compromised == 5 or done.compromised == 4
        with pytest.raises(AgreementKeyError, match="already"):
            agreement_cut_off.cut_off("hes-1", 1, OFFICER, NOW)

    def test_it_takes_a_second_person(self, settings: Settings) -> None:
        settings.REQUIRE_APPROVAL = True
        agreement_keys.init("hes-1", OFFICER)
        people = [User.objects.create_user(name) for name in ("ann", "ben")]
        people[0].groups.add(Group.objects.get(name="key officer"))
        people[1].groups.add(Group.objects.get(name="administrator"))
        ann, ben = (Person(person, "test") for person in people)
        with pytest.raises(ApprovalError):
            agreement_cut_off.cut_off("hes-1", 1, OFFICER, NOW)
        assert agreement_keys.active().state == AgreementState.ACTIVE
        subject = agreement_cut_off.approval_subject("hes-1", 1)
        asked = approvals.request(approvals.CUT_OFF_AGREEMENT_KEY, subject, "leaked", ann, NOW)
        assert approvals.describe(asked) == "cut off version 1 of agreement key hes-1, and all keys of it"
        approvals.approve(asked.pk, ben, NOW)
        agreement_cut_off.cut_off("hes-1", 1, OFFICER, NOW)
        assert AgreementKey.objects.get().state == AgreementState.CUT_OFF


class TestWrapping:
    @pytest.fixture
    def key(self) -> AgreementKey:
        key = agreement_keys.init("hes-1", OFFICER)
        provision(pairs(TITLES[:2]), key)
        return key

    def test_every_secret_is_rewrapped(self, key: AgreementKey) -> None:
        before = {epoch: opened(TITLES[0], epoch) for epoch in (0, 1)}
        assert census.census()[0].agreement_keys == 1
        rotation = rewrap.begin(None, OFFICER)
        while rewrap.rewrap_batch(rotation.pk):
            pass
        key.refresh_from_db()
        assert key.master_key_version == rotation.to_version
        assert set(DeviceKey.objects.values_list("master_key_version", flat=True)) == {rotation.to_version}
        assert {epoch: opened(TITLES[0], epoch) for epoch in (0, 1)} == before
        assert census.verify().faults == []

    def test_a_row_opens_for_its_name_and_version_alone(self, key: AgreementKey) -> None:
        AgreementKey.objects.update(version=2)
        assert "agreement key hes-1 version 2" in census.verify().faults[0]
        AgreementKey.objects.update(version=1, name="other")
        assert trial.try_stored_keys().refusals != []

    def test_another_public_key_in_a_row_opens_nothing(self, key: AgreementKey) -> None:
        """Who writes to the database cannot become a meter: the public key that counts is bound to its row."""
        one, other = (DeviceKey.objects.get(system_title=title, epoch=1) for title in TITLES[:2])
        DeviceKey.objects.filter(pk=one.pk).update(wrapped=other.wrapped)
        assert open_keys([one.pk]) == []
        DevicePublicKey.objects.update(system_title=TITLES[4])
        assert len(open_keys([other.pk])) == 1

    def test_another_public_key_of_the_head_end_opens_nothing(self, key: AgreementKey) -> None:
        AgreementKey.objects.update(public=METER_PUBLIC)
        (row,) = DeviceKey.objects.filter(system_title=TITLES[0], epoch=1)
        provisioning.provision_devices(TITLES[3:4])  # one that opens: the row is at fault, not the master key
        assert open_keys([row.pk]) == []
        with pytest.raises(AgreementKeyError, match="changed"), transaction.atomic():
            agreement_keys.open_versions([key.pk], master_key.current())

    def test_a_wrong_master_key_is_told_from_a_changed_row(self, key: AgreementKey) -> None:
        damaged = bytes(77)
        AgreementKey.objects.update(wrapped=damaged)
        DeviceKey.objects.update(wrapped=damaged)
        with pytest.raises(MasterKeyError):
            open_keys(list(DeviceKey.objects.values_list("pk", flat=True)))
