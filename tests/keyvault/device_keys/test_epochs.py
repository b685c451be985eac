"""The life of key epochs: beginning, activation by the first frame, grace, compromise, cancelling."""

import secrets
from collections.abc import Iterator
from datetime import timedelta

import pytest
from django.utils import timezone

from concentrators.commands import queue
from concentrators.models import Concentrator
from keyvault.audit.chain import Actor
from keyvault.device_keys import epochs, key_rows, provisioning
from keyvault.device_keys.epochs import EpochError
from keyvault.device_keys.unwrapping import open_keys
from keyvault.models import AuditRecord, DeviceKey, InvocationCounter, KeySource, KeyState
from keyvault.schemes.table import SCHEMES, SchemeError
from tests.concentrators.fleet import Device, commission, judged
from tests.concentrators.statements import Statements, counting
from tests.factories import ConcentratorFactory
from tests.toy_schemes import ToyDevice, toys

pytestmark = pytest.mark.django_db
ACTOR = Actor("tester", "test")


@pytest.fixture
def concentrator() -> Concentrator:
    return ConcentratorFactory.create()


def transfer(*devices: Device) -> None:
    """Give devices of ``commission`` a transfer key each."""
    provisioning.provision_stored([provisioning.NewKey(device.title, 0) for device in devices])


def key_row(title: bytes, epoch: int) -> DeviceKey:
    return DeviceKey.objects.get(system_title=title, epoch=epoch)


def under_new_key(device: Device, epoch: int) -> Device:
    """The meter once it has the key of a pending epoch."""
    row = key_row(device.title, epoch)
    return Device(device.meter, open_keys([row.pk])[0].octets, epoch, row.algorithm)


def states(device: Device) -> dict[int, str]:
    rows = DeviceKey.objects.filter(system_title=device.title, epoch__gt=0)
    return dict(rows.values_list("epoch", "state"))


def test_a_new_epoch_is_pending_and_is_used_again_until_it_is_active(concentrator: Concentrator) -> None:
    devices = commission(3, concentrator)
    transfer(*devices)
    titles = [device.title for device in devices]
    assert epochs.begin(titles) == dict.fromkeys(titles, 2)
    fingerprints = [bytes(key_row(title, 2).fingerprint or b"") for title in titles]
    assert epochs.begin([*titles, titles[0]], algorithm=11) == dict.fromkeys(titles, 2)
    assert [bytes(key_row(title, 2).fingerprint or b"") for title in titles] == fingerprints
    assert len(set(fingerprints)) == 3
    assert states(devices[0]) == {1: "active", 2: "pending"}


def test_beginning_costs_the_same_for_any_number_of_devices(concentrator: Concentrator) -> None:
    costs = []
    for size in (2, 50):
        devices = commission(size, concentrator)
        transfer(*devices)
        with counting() as statements:
            epochs.begin([device.title for device in devices])
        costs.append(len(statements))
    assert costs[0] == costs[1]


def test_what_has_no_usable_keys_begins_no_epoch_and_is_named(concentrator: Concentrator) -> None:
    good, without_transfer, compromised_transfer = commission(3, concentrator)
    transfer(good, compromised_transfer)
    epochs.compromise([key_row(compromised_transfer.title, 0).pk], ACTOR)
    bare = secrets.token_bytes(8)
    provisioning.provision_stored([provisioning.NewKey(bare, 0)])
    for title, reason in (
        (without_transfer.title, "no transfer key"),
        (compromised_transfer.title, "is compromised: it takes a shipment"),
        (secrets.token_bytes(8), "is unknown"),
        (bare, "import its first key"),
    ):
        with pytest.raises(EpochError, match=reason) as error:
            epochs.begin([good.title, title])
        assert title.hex() in str(error.value)
    assert states(good) == {1: "active"}


def test_epochs_end_at_two_octets(concentrator: Concentrator) -> None:
    (device,) = commission(1, concentrator)
    transfer(device)
    DeviceKey.objects.filter(system_title=device.title, epoch=1).update(epoch=0xFFFF)
    with pytest.raises(EpochError, match="used up"):
        epochs.begin([device.title])


class TestSources:
    def test_derived_keys_stay_derived_or_move_to_another_fleet_key(self) -> None:
        title = secrets.token_bytes(8)
        old, new = provisioning.create_fleet_key("old"), provisioning.create_fleet_key("new")
        provisioning.provision_devices([title], fleet_key=old)
        epochs.begin([title])
        assert key_row(title, 2).fleet_key == old
        epochs.activate([key_row(title, 2).pk], timezone.now())
        epochs.begin([title], source=new)
        row = key_row(title, 3)
        assert (row.source, row.fleet_key, row.wrapped) == (KeySource.DERIVED, new, None)

    def test_a_leaked_derived_key_moves_its_device_to_random_keys(self) -> None:
        title = secrets.token_bytes(8)
        provisioning.provision_devices([title], fleet_key=provisioning.create_fleet_key("leaked"))
        epochs.compromise([key_row(title, 1).pk], ACTOR)
        epochs.begin([title])
        assert key_row(title, 2).source == KeySource.STORED

    def test_algorithm_and_source_can_be_asked_for(self) -> None:
        title = secrets.token_bytes(8)
        provisioning.provision_devices([title], fleet_key=provisioning.create_fleet_key("fleet"))
        epochs.begin([title], algorithm=11, source=KeySource.STORED)
        assert (key_row(title, 2).algorithm, key_row(title, 2).source) == (11, KeySource.STORED)


class TestActivation:
    def test_the_first_accepted_frame_activates_and_late_frames_are_accepted_once(
        self, concentrator: Concentrator
    ) -> None:
        (device,) = commission(1, concentrator)
        transfer(device)
        late = device.frame(0)
        epochs.begin([device.title])
        renewed = under_new_key(device, 2)
        assert judged(concentrator, [renewed.frame(1)]) == {"accepted": 1}
        assert states(device) == {1: "retiring", 2: "active"}
        row, old = key_row(device.title, 2), key_row(device.title, 1)
        assert row.activated_at == old.retiring_at is not None
        assert judged(concentrator, [late]) == {"accepted": 1}
        assert judged(concentrator, [late, late]) == {"duplicate": 2}
        assert states(device) == {1: "retiring", 2: "active"}

    @pytest.mark.parametrize("spoil", ["tag", "payload"])
    def test_a_refused_frame_activates_nothing(self, concentrator: Concentrator, spoil: str) -> None:
        (device,) = commission(1, concentrator)
        transfer(device)
        epochs.begin([device.title])
        forged = Device(device.meter, bytes(32), 2).frame(0)
        frame = forged if spoil == "tag" else under_new_key(device, 2).seal(b"")
        assert "accepted" not in judged(concentrator, [frame])
        assert states(device) == {1: "active", 2: "pending"}

    def test_nothing_but_a_pending_key_costs_more_and_that_the_same_for_any_number(
        self, concentrator: Concentrator
    ) -> None:
        judged(concentrator, [commission(1, concentrator)[0].frame(0)])  # registers are read once a process
        costs = []
        for size in (2, 40):
            devices = commission(size, concentrator)
            transfer(*devices)
            epochs.begin([device.title for device in devices])
            renewed = [under_new_key(device, 2) for device in devices]
            with counting() as proving:
                assert judged(concentrator, [device.frame(0) for device in renewed]) == {"accepted": size}
            with counting() as usual:
                assert judged(concentrator, [device.frame(1) for device in renewed]) == {"accepted": size}
            costs.append((len(proving), len(usual)))
        assert costs[0] == costs[1]
        assert _updates_of_keys(usual) == 0 < _updates_of_keys(proving)


def _updates_of_keys(statements: Statements) -> int:
    return sum(statement.startswith("UPDATE keyvault_devicekey") for statement in statements)


def test_keys_retire_after_the_grace_time_and_not_before(concentrator: Concentrator) -> None:
    device, other = commission(2, concentrator)
    transfer(device, other)
    epochs.begin([device.title, other.title])
    assert judged(concentrator, [under_new_key(one, 2).frame(0) for one in (device, other)]) == {"accepted": 2}
    epochs.compromise([key_row(other.title, 1).pk], ACTOR)
    now = timezone.now()
    assert epochs.retire_due(now + timedelta(days=44)) == 0
    assert epochs.retire_due(now + timedelta(days=45, minutes=1)) == 1
    assert states(device) == {1: "retired", 2: "active"}
    assert states(other) == {1: "compromised", 2: "active"}
    assert epochs.retire_due(now + timedelta(days=46)) == 0


def test_a_compromise_is_audited_and_final(concentrator: Concentrator) -> None:
    (device,) = commission(1, concentrator)
    row = key_row(device.title, 1)
    assert epochs.compromise([row.pk], ACTOR) == 1
    assert epochs.compromise([row.pk], ACTOR) == 0
    record = AuditRecord.objects.earliest("number")
    assert (record.act, record.actor, record.result) == ("device_key.compromise", "tester", "1 cut off")
    assert record.subject["keys"] == [
        {"device": device.title.hex(), "epoch": 1, "fingerprint": bytes(row.fingerprint or b"").hex()}
    ]
    assert InvocationCounter.objects.get(key=row).key_version == key_row(device.title, 1).version == 2


class TestSchemes:
    """A new epoch may be of another scheme than the one before."""

    @pytest.fixture(autouse=True)
    def added(self) -> Iterator[None]:
        with toys(), SCHEMES.including(SCHEMES["toy"]._replace(name="stored toy", sources=frozenset({"stored"}))):
            yield

    def test_it_moves_where_that_is_asked_and_else_stays(self, concentrator: Concentrator) -> None:
        device, strong = commission(1, concentrator) + commission(1, concentrator, alg=11)
        transfer(device, strong)
        epochs.begin([device.title, strong.title], scheme="toy")
        assert [(key.scheme, key.algorithm) for key in (key_row(device.title, 2), key_row(strong.title, 2))] == [
            ("toy", 10),
            ("toy", 11),  # it goes with the scheme, and stays
        ]
        epochs.activate([key_row(device.title, 2).pk], timezone.now())
        epochs.begin([device.title], algorithm=9)
        assert (key_row(device.title, 3).scheme, key_row(device.title, 3).algorithm) == ("toy", 9)
        epochs.activate([key_row(device.title, 3).pk], timezone.now())
        epochs.begin([device.title], scheme="ccm")
        assert (key_row(device.title, 4).scheme, key_row(device.title, 4).algorithm) == ("ccm", 10)  # not 9: the usual

    def test_frames_of_the_scheme_before_stay_good_for_the_grace_time(self, concentrator: Concentrator) -> None:
        (device,) = commission(1, concentrator)
        transfer(device)
        epochs.begin([device.title], scheme="toy")
        renewed = under_new_key(device, 2)
        toy = ToyDevice(device.meter, renewed.key, 2)
        assert judged(concentrator, [device.frame(0), toy.frame(1), device.frame(2)]) == {"accepted": 3}
        assert judged(concentrator, [renewed.frame(3)]) == {"algorithm_mismatch": 1}
        assert states(device) == {1: "retiring", 2: "active"}

    def test_what_cannot_be_is_named_and_begins_nothing(self, concentrator: Concentrator) -> None:
        stored, moving = commission(2, concentrator)
        derived = secrets.token_bytes(8)
        provisioning.provision_devices([derived], fleet_key=provisioning.create_fleet_key("fleet"))
        transfer(stored, moving)
        epochs.begin([moving.title], scheme="toy")
        for title, algorithm, scheme, error, reason in (
            (derived, None, "stored toy", EpochError, "scheme stored toy takes no derived keys"),
            (stored.title, 4, None, EpochError, "scheme ccm has no keys for"),
            (stored.title, 4, "ccm", SchemeError, "scheme ccm has no keys for"),
            (stored.title, None, "of old", SchemeError, "scheme 'of old' is not one of ccm"),
            (moving.title, None, "ccm", EpochError, "is being given a key of scheme toy: that comes first"),
        ):
            with pytest.raises(error, match=reason):
                epochs.begin([stored.title, title], algorithm, scheme=scheme)
            assert states(stored) == {1: "active"}


class TestCancel:
    def test_a_key_that_nobody_fetched_goes(self, concentrator: Concentrator) -> None:
        (device,) = commission(1, concentrator)
        transfer(device)
        epochs.begin([device.title])
        judged(concentrator, [Device(device.meter, bytes(32), 2).frame(0)])  # bad tags against it hinder nothing
        assert epochs.cancel([device.title]) == {device.title}
        assert states(device) == {1: "active"}
        assert epochs.begin([device.title]) == {device.title: 2}

    def test_a_key_that_was_fetched_stays_acceptable(self, concentrator: Concentrator) -> None:
        (device,) = commission(1, concentrator)
        transfer(device)
        epochs.begin([device.title])
        assert epochs.offered({device.title: 2}, timezone.now()) == {device.title}
        assert epochs.cancel([device.title]) == set()
        assert judged(concentrator, [under_new_key(device, 2).frame(0)]) == {"accepted": 1}
        assert epochs.offered({device.title: 2}, timezone.now()) == set()


def test_keys_near_their_safe_number_of_frames_are_found(concentrator: Concentrator) -> None:
    devices = commission(4, concentrator)
    transfer(*devices)
    worn, worst, retiring, fresh = devices
    near = 3 * 2**21
    for device, highest in ((worn, near), (worst, near + 1), (retiring, near)):
        InvocationCounter.objects.filter(key=key_row(device.title, 1)).update(highest=highest, floor=highest)
    InvocationCounter.objects.filter(key=key_row(fresh.title, 1)).update(highest=near - 1, floor=near - 1)
    epochs.begin([worst.title])  # its key may never have come: whoever asks knows what became of the command
    key_rows.set_key_state([key_row(retiring.title, 1).pk], KeyState.RETIRING)
    assert list(epochs.near_budget(10)) == [[worst.title, worn.title]]
    assert list(epochs.near_budget(1)) == [[worst.title], [worn.title]]


@pytest.mark.parametrize("lacks", ["transfer key", "usable transfer key", "epoch"])
def test_a_worn_key_that_cannot_be_replaced_holds_up_no_other(concentrator: Concentrator, lacks: str) -> None:
    devices = commission(2, concentrator)
    transfer(*devices)
    worn, hopeless = devices
    InvocationCounter.objects.filter(key__epoch=1).update(highest=3 * 2**21, floor=3 * 2**21)
    if lacks == "transfer key":
        key_row(hopeless.title, 0).delete()
    elif lacks == "usable transfer key":
        epochs.compromise([key_row(hopeless.title, 0).pk], ACTOR)
    else:
        DeviceKey.objects.filter(pk=key_row(hopeless.title, 1).pk).update(epoch=epochs.LAST_EPOCH)
    assert queue.replace_worn_keys(10, timezone.now()) == 1
    assert states(worn) == {1: "active", 2: "pending"}
