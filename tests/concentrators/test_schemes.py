"""The seam for schemes: toy members of the tables go through the whole verification, beside the usual ones."""

import secrets
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
from pytest_django import Settings

from concentrators.fleet import summaries
from concentrators.ingest import reverification, verification
from concentrators.models import Assignment, Concentrator
from keyvault.ciphers import KeptCiphers
from keyvault.cose.structures import parse_frame
from keyvault.device_keys import command_sealing, key_rows, provisioning
from keyvault.device_keys.command_sealing import PlainCommand
from keyvault.device_keys.provisioning import NewKey, ProvisioningError
from keyvault.models import DeviceKey, KeyState
from keyvault.opening import open_frames
from keyvault.replay_window_store import Care
from keyvault.schemes.table import scheme_numbered
from tests.concentrators.fleet import (
    NOW,
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
from tests.concentrators.masked_devices import MASKED_MAKES
from tests.concentrators.scheme_devices import of_mac, of_sealed, of_session, of_signed
from tests.concentrators.statements import Statements
from tests.factories import MeterFactory
from tests.toy_schemes import ALG, BY_KID, BY_TITLE, OTHER_ALG, OWN_ALG, ToyDevice, toy_payload, toys

pytestmark = pytest.mark.django_db
Make = Callable[[Concentrator], Device]


@pytest.fixture(autouse=True)
def added() -> Iterator[None]:
    with toys():
        yield


def meter_at(concentrator: Concentrator) -> ToyDevice:
    """A meter without a key, assigned for ever."""
    meter = MeterFactory.create()
    Assignment.objects.create(meter=meter, concentrator=concentrator, valid_from=NOW - timedelta(days=4000))
    return ToyDevice(meter, secrets.token_bytes(32))


def by_kid(concentrator: Concentrator) -> ToyDevice:
    device = meter_at(concentrator)
    provisioning.provision_stored([NewKey(device.title, 1, device.key, ALG, "toy")])
    return device


def by_title(concentrator: Concentrator) -> ToyDevice:
    device = meter_at(concentrator)
    device.envelope = BY_TITLE
    provisioning.provision_stored([NewKey(device.title, 1, device.key, ALG, "toy title")])
    return device


class ToyContentDevice(Device):
    def frame(self, interval: int, wh: int = 100, counter: int | None = None) -> bytes:
        return self.seal(toy_payload(interval, wh), counter)


def of_toy_content(concentrator: Concentrator) -> ToyContentDevice:
    toy = meter_at(concentrator)
    provisioning.provision_stored([NewKey(toy.title, 1, toy.key, 10, "ccm + toy")])
    return ToyContentDevice(toy.meter, toy.key)


def of_ccm(concentrator: Concentrator) -> Device:
    return commission(1, concentrator)[0]


MAKES = {
    "ccm": of_ccm,
    "session": of_session,
    "mac": of_mac,
    "sealed": of_sealed,
    **MASKED_MAKES,
    "ccm + signed": of_signed,
    "session + signed": lambda concentrator: of_signed(concentrator, of_session),
    "sealed + signed": lambda concentrator: of_signed(concentrator, of_sealed),
    "toy": by_kid,
    "toy title": by_title,
    "ccm + toy": of_toy_content,
}
every = pytest.mark.parametrize("make", MAKES.values(), ids=MAKES)


@every
def test_each_reading_says_its_scheme(concentrator: Concentrator, make: Make) -> None:
    device = make(concentrator)
    judged(concentrator, [device.frame(0)])
    rows = device.model.objects.filter(meter=device.meter)  # type: ignore[attr-defined]
    (number,) = set(rows.values_list("scheme", flat=True))
    assert scheme_numbered(number).name == DeviceKey.objects.get(system_title=device.title).scheme


@every
class TestExactlyOnce:
    def test_accepted_once_in_any_order(self, concentrator: Concentrator, make: Make) -> None:
        device = make(concentrator)
        frames = [device.frame(n, 100 + n) for n in range(4)]
        assert judged(concentrator, [frames[2], frames[0], frames[0]]) == {"accepted": 2, "duplicate": 1}
        assert judged(concentrator, frames) == {"accepted": 2, "duplicate": 2}
        assert readings_of(device) == {n: 100 + n for n in range(4)}
        counter = device.counter()
        assert (counter.highest, counter.heard_at, counter.heard_via) == (3, NOW, concentrator.pk)

    def test_replays_and_counters_used_twice_are_refused(
        self, concentrator: Concentrator, make: Make, settings: Settings
    ) -> None:
        device = make(concentrator)
        frame = device.frame(0)
        assert judged(concentrator, [frame, device.frame(1, counter=0)]) == {"accepted": 1, "counter_reused": 1}
        late = NOW + timedelta(seconds=settings.RETRANSMISSION_WINDOW_S + 1)
        assert judged(concentrator, [frame], late) == {"replayed": 1}

    def test_a_forged_tag_is_refused_and_takes_no_counter(self, concentrator: Concentrator, make: Make) -> None:
        device = make(concentrator)
        frame = device.frame(0)
        uplink = verified(concentrator, [frame[:-1] + bytes((frame[-1] ^ 1,))])
        assert outcome(uplink) == {"tag_invalid": 1}
        assert [bytes(row.kid or b"") for row in evidence(uplink)] == [device.kid]
        assert judged(concentrator, [frame]) == {"accepted": 1}

    def test_under_locks_it_is_the_same(self, concentrator: Concentrator, make: Make) -> None:
        device = make(concentrator)
        changed = bytearray(device.frame(1))
        changed[-1] ^= 1
        frames = list(enumerate([device.frame(0), bytes(changed), device.frame(1)]))
        free, locked = (open_frames([frames], care, KeptCiphers()) for care in (Care.LOOK, Care.LOCK))
        assert free.uplinks[0].refused == locked.uplinks[0].refused
        assert [one[:4] for one in free.uplinks[0].opened] == [one[:4] for one in locked.uplinks[0].opened]
        assert len(free.uplinks[0].opened) == 2


class TestAnotherScheme:
    """Enforced by the key's epoch: never a try of another."""

    def test_a_right_tag_in_another_envelope_is_not_looked_at(self, concentrator: Concentrator) -> None:
        meters = [by_kid(concentrator), by_title(concentrator), of_ccm(concentrator)]
        wrong = [
            other.frame(0)
            for one in meters
            for other in (
                ToyDevice(one.meter, one.key, envelope=BY_KID),
                ToyDevice(one.meter, one.key, envelope=BY_TITLE),
                Device(one.meter, one.key),
            )
            if getattr(other, "envelope", None) is not getattr(one, "envelope", None)
        ]
        uplink = verified(concentrator, wrong)
        assert outcome(uplink) == {"algorithm_mismatch": 6}
        assert {row.detail for row in evidence(uplink)} == {
            f"envelope {envelope}, provisioned is {scheme}"
            for envelope in ("ccm", "toy", "toy title")
            for scheme in ("ccm", "toy", "toy title")
            if envelope != scheme
        }
        assert judged(concentrator, [one.frame(0) for one in meters]) == {"accepted": 3}  # counter 0 was kept

    @pytest.mark.parametrize("envelope", [BY_KID, BY_TITLE], ids=lambda envelope: envelope.name)
    def test_another_algorithm_of_the_same_envelope(self, concentrator: Concentrator, envelope: object) -> None:
        device = by_kid(concentrator) if envelope is BY_KID else by_title(concentrator)
        device.alg = OTHER_ALG
        assert judged(concentrator, [device.frame(0)]) == {"algorithm_mismatch": 1}
        device.alg = ALG
        assert judged(concentrator, [device.frame(0, counter=0)]) == {"accepted": 1}

    def test_another_content_shows_after_the_tag_and_takes_the_counter(self, concentrator: Concentrator) -> None:
        device = of_toy_content(concentrator)
        plain = device.seal(usual(0))
        assert judged(concentrator, [plain]) == {"algorithm_mismatch": 1}
        assert device.counter().highest == 0
        assert judged(concentrator, [plain]) == {"algorithm_mismatch": 1}
        assert judged(concentrator, [of_ccm(concentrator).seal(toy_payload(0))]) == {"payload_invalid": 1}

    def test_a_scheme_that_only_another_release_knows_opens_nothing(self, concentrator: Concentrator) -> None:
        device = of_ccm(concentrator)
        judged(concentrator, [device.frame(0)])
        DeviceKey.objects.filter(system_title=device.title).update(scheme="of tomorrow")
        key_rows.set_key_state([device.row().pk], KeyState.RETIRING)  # moves its version, as every change must
        assert judged(concentrator, [device.frame(1), of_ccm(concentrator).frame(1)]) == {
            "accepted": 1,
            "algorithm_mismatch": 1,
        }


class TestNamedByTitle:
    def next_epoch(self, device: ToyDevice, state: KeyState) -> ToyDevice:
        """The same meter with a pending second key."""
        new = ToyDevice(device.meter, secrets.token_bytes(32), epoch=2, envelope=BY_TITLE)
        provisioning.provision_pending([NewKey(new.title, 2, new.key, ALG, "toy title")], {})
        DeviceKey.objects.filter(system_title=new.title, epoch=2).update(state=state)
        return new

    def test_the_tag_tells_the_epoch_and_proves_a_pending_one(self, concentrator: Concentrator) -> None:
        old = by_title(concentrator)
        assert judged(concentrator, [old.frame(0)]) == {"accepted": 1}
        new = self.next_epoch(old, KeyState.PENDING)
        assert judged(concentrator, [new.frame(1), old.frame(2), new.frame(3)]) == {"accepted": 3}
        assert (old.row().state, new.row().state) == (KeyState.RETIRING, KeyState.ACTIVE)
        assert (old.counter().highest, new.counter().highest) == (1, 1)
        assert readings_of(old).keys() == {0, 1, 2, 3}

    def test_a_key_that_was_cut_off_opens_nothing(self, concentrator: Concentrator) -> None:
        device = by_title(concentrator)
        assert judged(concentrator, [device.frame(0)]) == {"accepted": 1}
        key_rows.set_key_state([device.row().pk], KeyState.COMPROMISED)
        assert judged(concentrator, [device.frame(1)]) == {"key_retired": 1}

    def test_of_a_device_without_a_key_it_waits(self, concentrator: Concentrator) -> None:
        device = meter_at(concentrator)
        device.envelope = BY_TITLE
        uplink = verified(concentrator, [device.frame(0), device.frame(1)])
        assert outcome(uplink) == {"unknown_device": 2}
        assert reverification.verify_all_again([uplink.pk]).verdicts.accepted == 0
        provisioning.provision_stored([NewKey(device.title, 1, device.key, ALG, "toy title")])
        assert reverification.verify_all_again([uplink.pk]).verdicts.accepted == 2
        assert readings_of(device).keys() == {0, 1}


def mixed(concentrator: Concentrator, each: int) -> list[Device]:
    return [make(concentrator) for make in MAKES.values() for _ in range(each)]


def test_mixed_fleets_cost_the_same_for_any_number_of_frames(
    concentrator: Concentrator, statements: Statements
) -> None:
    costs: list[list[int]] = []
    for each in (1, 3, 7):
        devices = mixed(concentrator, each)
        stranger = meter_at(concentrator)
        stranger.envelope = BY_TITLE
        costs.append([])
        for interval in range(3):
            frames = [device.frame(interval) for device in devices]
            forged = [frame[:-1] + bytes((frame[-1] ^ 1,)) for frame in frames]
            strange = [stranger.frame(interval) for _ in range(each)]
            uplink = post(concentrator, [*frames, *forged, *strange, *frames])
            statements.take()
            verification.verify(uplink.pk)
            costs[-1].append(len(statements.take()))
            uplink.refresh_from_db()
            assert outcome(uplink) == {
                "accepted": len(devices),
                "duplicate": len(devices),
                "tag_invalid": len(devices),
                "unknown_device": each,
            }
    assert costs[0][1:] == costs[1][1:] == costs[2][1:]


class TestProvisioning:
    def test_an_algorithm_of_its_own_has_its_name_and_takes_commands(self, concentrator: Concentrator) -> None:
        device = meter_at(concentrator)
        device.alg = OWN_ALG
        provisioning.provision_stored([NewKey(device.title, 1, device.key, OWN_ALG, "toy")])
        assert judged(concentrator, [device.frame(0)]) == {"accepted": 1}
        assert [key["algorithm"] for key in summaries.meter(device.meter, NOW)["keys"]] == ["toy 9"]
        sealed = command_sealing.seal([PlainCommand(1, device.title, (3, 1))], NOW)[1]
        assert parse_frame(sealed.octets).alg == 30

    def test_a_triple_that_no_scheme_allows_is_refused(self) -> None:
        with pytest.raises(ProvisioningError, match="no scheme 'nothing' takes a stored key"):
            provisioning.provision_stored([NewKey(bytes(8), 1, bytes(32), 10, "nothing")])
        with pytest.raises(ProvisioningError, match=r"algorithm 30 is not one of \[9, 10, 11\]"):
            provisioning.provision_stored([NewKey(bytes(8), 1, bytes(32), 30, "toy")])
        assert not DeviceKey.objects.filter(system_title=bytes(8)).exists()
