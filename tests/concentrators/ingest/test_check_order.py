"""The order in which a frame is checked, keys and meters out of service, and what waits for a key."""

import secrets

import pytest
from pytest_django import Settings

from concentrators.models import Concentrator, IntervalTotal
from keyvault.device_keys import key_rows, provisioning
from keyvault.models import KeyState
from meters.models import MeterStatus
from tests.concentrators.fleet import (
    Device,
    commission,
    evidence,
    judged,
    outcome,
    readings_of,
    verified,
)
from tests.factories import MeterFactory

pytestmark = pytest.mark.django_db


@pytest.fixture
def device(concentrator: Concentrator) -> Device:
    return commission(1, concentrator)[0]


class TestMeterState:
    @pytest.mark.parametrize("status", [MeterStatus.SUSPENDED, MeterStatus.RETIRED])
    def test_device_suspended_leaves_the_counter(
        self, concentrator: Concentrator, device: Device, status: MeterStatus
    ) -> None:
        device.meter.status = status
        device.meter.save()
        frame = device.frame(0, counter=5)
        uplink = verified(concentrator, [frame, frame])
        assert outcome(uplink) == {"device_suspended": 2}
        assert evidence(uplink)[0].meter == device.meter
        assert (device.counter().highest, device.counter().heard_at) == (-1, None)

        device.meter.status = MeterStatus.COMMISSIONED
        device.meter.save()
        assert judged(concentrator, [frame]) == {"accepted": 1}

    def test_a_key_without_a_meter_leaves_the_counter(self, concentrator: Concentrator) -> None:
        device = Device(MeterFactory.build(), secrets.token_bytes(32))
        provisioning.provision_stored([provisioning.NewKey(device.title, 1, device.key)])
        frame = device.frame(0)
        uplink = verified(concentrator, [frame])
        assert (outcome(uplink), uplink.waiting) == ({"unknown_device": 1}, 1)
        assert device.counter().highest == -1

        device.meter.save()
        assert judged(concentrator, [frame, frame]) == {"accepted": 1, "duplicate": 1}

    def test_an_unassigned_meter_counts_to_no_total(self, concentrator: Concentrator) -> None:
        device = commission(1, None)[0]
        assert judged(concentrator, [device.frame(0)]) == {"accepted": 1}
        assert readings_of(device) == {0: 100}
        assert not IntervalTotal.objects.exists()


class TestUnknown:
    def test_unknown_device_and_unknown_epoch_wait_for_a_key(self, concentrator: Concentrator, device: Device) -> None:
        stranger = Device(MeterFactory.create(), secrets.token_bytes(32))
        unknown_epoch = Device(device.meter, device.key, epoch=2)
        uplink = verified(concentrator, [stranger.frame(0), unknown_epoch.frame(0), device.frame(0), b"?"])
        assert outcome(uplink) == {"unknown_device": 1, "unknown_epoch": 1, "accepted": 1, "malformed": 1}
        assert uplink.waiting == 2
        assert [row.meter for row in evidence(uplink)] == [stranger.meter, device.meter, None]

    def test_the_transfer_key_protects_no_frame(self, concentrator: Concentrator, device: Device) -> None:
        key = secrets.token_bytes(32)
        provisioning.provision_stored([provisioning.NewKey(device.title, 0, key)])
        assert judged(concentrator, [Device(device.meter, key, epoch=0).frame(0)]) == {"unknown_epoch": 1}

    def test_they_are_accepted_once_the_key_is_there(self, concentrator: Concentrator) -> None:
        device = Device(MeterFactory.create(), secrets.token_bytes(32))
        frame = device.frame(0)
        assert judged(concentrator, [frame]) == {"unknown_device": 1}
        provisioning.provision_stored([provisioning.NewKey(device.title, 1, device.key)])
        assert judged(concentrator, [frame, b""]) == {"accepted": 1, "malformed": 1}


@pytest.mark.parametrize("state", [KeyState.RETIRED, KeyState.COMPROMISED])
def test_a_key_that_is_over_opens_nothing(concentrator: Concentrator, device: Device, state: KeyState) -> None:
    key_rows.set_key_state([device.row().pk], state)
    assert judged(concentrator, [device.frame(0)]) == {"key_retired": 1}


@pytest.mark.parametrize("state", [KeyState.PENDING, KeyState.ACTIVE, KeyState.RETIRING])
def test_a_key_that_is_coming_current_or_going_opens(
    concentrator: Concentrator, device: Device, state: KeyState
) -> None:
    key_rows.set_key_state([device.row().pk], state)
    assert judged(concentrator, [device.frame(0)]) == {"accepted": 1}


class TestOrderOfChecks:
    """Structure, key, key state, alg, tag, counter, meter state, payload."""

    def test_structure_before_all(self, concentrator: Concentrator, device: Device, settings: Settings) -> None:
        settings.FRAME_MAX_OCTETS = 90
        long = device.seal(bytes(200))
        assert judged(concentrator, [long, device.frame(0) + b"\x00"]) == {"malformed": 2}

    def test_key_state_before_alg_and_tag(self, concentrator: Concentrator, device: Device) -> None:
        key_rows.set_key_state([device.row().pk], KeyState.RETIRED)
        impostor = Device(device.meter, bytes(32), alg=11)
        assert judged(concentrator, [impostor.frame(0)]) == {"key_retired": 1}

    def test_alg_before_tag(self, concentrator: Concentrator, device: Device) -> None:
        assert judged(concentrator, [Device(device.meter, bytes(32), alg=11).frame(0)]) == {"algorithm_mismatch": 1}

    def test_tag_before_counter(self, concentrator: Concentrator, device: Device) -> None:
        judged(concentrator, [device.frame(0, counter=3)])
        impostor = Device(device.meter, bytes(32))
        assert judged(concentrator, [impostor.frame(1, counter=3)]) == {"tag_invalid": 1}

    def test_a_bad_tag_leaves_the_counter(self, concentrator: Concentrator, device: Device) -> None:
        assert judged(concentrator, [Device(device.meter, bytes(32)).frame(0, counter=2**40 - 1)]) == {"tag_invalid": 1}
        assert device.counter().highest == -1
        assert judged(concentrator, [device.frame(0)]) == {"accepted": 1}

    def test_counter_before_meter_state(self, concentrator: Concentrator, device: Device, settings: Settings) -> None:
        settings.COUNTER_GAP_RUNS = 1
        accepted = [device.frame(0, counter=2), device.frame(1, counter=4)]
        judged(concentrator, accepted)
        device.meter.status = MeterStatus.SUSPENDED
        device.meter.save()
        frames = [accepted[0], device.frame(9, counter=2), device.frame(9, counter=0), device.frame(9, counter=5)]
        assert judged(concentrator, frames) == {
            "duplicate": 1,
            "counter_reused": 1,
            "counter_too_old": 1,
            "device_suspended": 1,
        }

    def test_meter_state_before_payload(self, concentrator: Concentrator, device: Device) -> None:
        device.meter.status = MeterStatus.SUSPENDED
        device.meter.save()
        assert judged(concentrator, [device.seal(b"?")]) == {"device_suspended": 1}
