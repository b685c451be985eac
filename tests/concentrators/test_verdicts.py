"""Every verdict of docs/architecture.md, through reception and verification on PostgreSQL."""

import secrets
from datetime import timedelta

import pytest
from django.db.models import Sum
from pytest_django import Settings

from concentrators.failures.kinds import FailureKind, Severity
from concentrators.models import Concentrator, IntegrityFailure, IntervalTotal
from concentrators.totals import totals
from keyvault.cose.kdf import derived_device_key
from keyvault.cose.structures import make_kid
from keyvault.device_keys import provisioning
from meters.models import MeterEvent, Reading, Register
from tests.builders import senml_payload
from tests.concentrators.fleet import (
    ENERGY,
    HALF_HOUR_S,
    INTERVAL,
    NOW,
    START,
    START_S,
    WINDOW,
    Device,
    commission,
    evidence,
    judged,
    outcome,
    readings_of,
    tallies,
    usual,
    verified,
)
from tests.damage import damaged
from tests.factories import MeterFactory

pytestmark = pytest.mark.django_db


@pytest.fixture
def device(concentrator: Concentrator) -> Device:
    return commission(1, concentrator)[0]


def test_an_accepted_frame_becomes_its_readings_and_moves_the_total(concentrator: Concentrator, device: Device) -> None:
    uplink = verified(concentrator, [device.frame(0, 250), device.frame(1, 300)])

    assert outcome(uplink) == {"accepted": 2}
    assert readings_of(device) == {0: 250, 1: 300}
    assert readings_of(device, ENERGY) == {0: 10_000, 1: 10_001}
    rows = Reading.objects.filter(meter=device.meter)
    assert set(rows.values_list("uplink_id", "interval_minutes")) == {(uplink.pk, 0), (uplink.pk, 30)}
    total = IntervalTotal.objects.get(concentrator=concentrator, interval_start=START)
    assert (int(total.value_sum), total.meters_counted, total.interval_minutes) == (250, 1, 30)
    assert IntervalTotal.objects.filter(concentrator=concentrator).aggregate(s=Sum("value_sum"))["s"] == 550
    assert totals.compare(*WINDOW) == []


def test_an_accepted_frame_alone_moves_last_heard(
    concentrator: Concentrator, other_concentrator: Concentrator, device: Device
) -> None:
    frame = device.frame(0)
    verified(concentrator, [frame])
    assert (device.counter().heard_at, device.counter().heard_via) == (NOW, concentrator.pk)

    later = NOW + timedelta(minutes=1)
    conflicting, invalid = device.frame(0, 999), device.seal(b"no senml")
    forged = frame[:-1] + bytes((frame[-1] ^ 1,))
    refused = verified(other_concentrator, [frame, conflicting, invalid, forged], later)
    assert outcome(refused) == {"duplicate": 1, "reading_conflict": 1, "payload_invalid": 1, "tag_invalid": 1}
    assert (device.counter().heard_at, device.counter().heard_via) == (NOW, concentrator.pk)

    verified(other_concentrator, [device.frame(1)], later)
    assert (device.counter().heard_at, device.counter().heard_via) == (later, other_concentrator.pk)


@pytest.mark.parametrize("counters", [(5, 6), (6, 5)], ids=["ahead", "into a gap"])
def test_last_heard_never_goes_back(
    concentrator: Concentrator, other_concentrator: Concentrator, device: Device, counters: tuple[int, int]
) -> None:
    verified(concentrator, [device.frame(0, counter=counters[0])])
    earlier = verified(other_concentrator, [device.frame(1, counter=counters[1])], NOW - timedelta(hours=1))
    assert outcome(earlier) == {"accepted": 1}
    assert (device.counter().heard_at, device.counter().heard_via) == (NOW, concentrator.pk)


class TestDuplicate:
    def test_the_same_body_from_another_concentrator(
        self, concentrator: Concentrator, other_concentrator: Concentrator, device: Device
    ) -> None:
        frames = [device.frame(n) for n in range(3)]
        assert judged(concentrator, frames) == {"accepted": 3}
        assert judged(other_concentrator, frames) == {"duplicate": 3}
        assert not IntegrityFailure.objects.exists()
        assert totals.compare(*WINDOW) == []

    def test_the_same_frame_twice_in_one_uplink(self, concentrator: Concentrator, device: Device) -> None:
        frame = device.frame(0)
        assert judged(concentrator, [frame, frame, frame]) == {"accepted": 1, "duplicate": 2}
        assert totals.compare(*WINDOW) == []

    def test_the_frame_again_among_new_ones(self, concentrator: Concentrator, device: Device) -> None:
        frame = device.frame(0)
        judged(concentrator, [frame])
        assert judged(concentrator, [device.frame(1), frame]) == {"accepted": 1, "duplicate": 1}

    def test_it_is_one_to_the_last_second_of_the_window_and_a_replay_after(
        self, concentrator: Concentrator, device: Device, settings: Settings
    ) -> None:
        frame = device.frame(0)
        judged(concentrator, [frame])
        window = timedelta(seconds=settings.RETRANSMISSION_WINDOW_S)
        assert judged(concentrator, [frame, frame], NOW + window) == {"duplicate": 2}
        after = NOW + window + timedelta(microseconds=1)
        uplink = verified(concentrator, [frame, frame, frame], after)
        assert outcome(uplink) == {"replayed": 3}
        assert "10 days ago" in evidence(uplink)[0].detail

    def test_an_uplink_received_before_the_one_that_was_verified_first(
        self, concentrator: Concentrator, device: Device
    ) -> None:
        frame = device.frame(0)
        judged(concentrator, [frame])
        assert judged(concentrator, [frame, frame], NOW - timedelta(hours=20)) == {"duplicate": 2}


def test_a_value_that_stands_already_unchanged_is_not_stored_twice(concentrator: Concentrator, device: Device) -> None:
    """Another counter, or another epoch, with the same value: accepted, and nothing is added up again."""
    first = verified(concentrator, [device.frame(0, 250)])
    successor = device.next_epoch(2)
    again = verified(concentrator, [device.frame(0, 250), successor.frame(0, 250)])
    assert outcome(again) == {"accepted": 2}
    assert set(Reading.objects.filter(meter=device.meter).values_list("uplink_id", flat=True)) == {first.pk}
    assert totals.compare(*WINDOW) == []
    assert IntervalTotal.objects.get(concentrator=concentrator).meters_counted == 1


def test_only_what_is_new_of_a_frame_is_stored(concentrator: Concentrator, device: Device) -> None:
    judged(concentrator, [device.seal(senml_payload({ENERGY: 10_000}, START_S))])
    assert judged(concentrator, [device.frame(0, 250)]) == {"accepted": 1}
    assert readings_of(device) == {0: 250}
    assert totals.compare(*WINDOW) == []


class TestReadingConflict:
    def test_two_counters(self, concentrator: Concentrator, device: Device) -> None:
        judged(concentrator, [device.frame(0, 250)])
        uplink = verified(concentrator, [device.frame(0, 251)])
        assert outcome(uplink) == {"reading_conflict": 1}
        assert readings_of(device) == {0: 250}
        assert totals.compare(*WINDOW) == []

    def test_two_counters_in_one_uplink(self, concentrator: Concentrator, device: Device) -> None:
        assert judged(concentrator, [device.frame(0, 250), device.frame(0, 251)]) == {
            "accepted": 1,
            "reading_conflict": 1,
        }
        assert readings_of(device) == {0: 250}

    def test_two_epochs(self, concentrator: Concentrator, device: Device) -> None:
        successor = device.next_epoch(2)
        assert judged(concentrator, [successor.frame(0, 250), device.frame(0, 251)]) == {
            "accepted": 1,
            "reading_conflict": 1,
        }
        assert judged(concentrator, [device.frame(0, 252)]) == {"reading_conflict": 1}
        assert readings_of(device) == {0: 250}

    def test_a_frame_is_all_or_nothing(self, concentrator: Concentrator, device: Device) -> None:
        judged(concentrator, [device.seal(senml_payload({ENERGY: 1}, START_S))])
        assert judged(concentrator, [device.frame(0, 250)]) == {"reading_conflict": 1}
        assert readings_of(device) == {}
        assert totals.compare(*WINDOW) == []

    def test_it_consumes_the_counter(self, concentrator: Concentrator, device: Device) -> None:
        judged(concentrator, [device.frame(0, 250)])
        judged(concentrator, [device.frame(0, 251, counter=9)])
        assert judged(concentrator, [device.frame(5, counter=9)]) == {"counter_reused": 1}


class TestCounterReused:
    @pytest.mark.parametrize("together", [True, False])
    def test_other_content_under_a_counter(self, concentrator: Concentrator, device: Device, together: bool) -> None:
        first, second = device.frame(0, 250, counter=7), device.frame(1, 250, counter=7)
        uplinks = [[first, second]] if together else [[first], [second]]
        last = [verified(concentrator, frames) for frames in uplinks][-1]
        row = evidence(last)[0]
        assert (row.kind, row.severity, bytes(row.frame)) == ("counter_reused", Severity.CRITICAL, second)
        assert readings_of(device) == {0: 250}

    def test_another_value_at_the_same_time(self, concentrator: Concentrator, device: Device) -> None:
        judged(concentrator, [device.frame(0, 250, counter=7)])
        assert judged(concentrator, [device.frame(0, 251, counter=7)]) == {"counter_reused": 1}

    def test_a_part_of_the_content_is_the_same_content_where_all_of_it_stands(
        self, concentrator: Concentrator, device: Device
    ) -> None:
        judged(concentrator, [device.frame(0, 250, counter=7)])
        assert judged(concentrator, [device.seal(senml_payload({INTERVAL: 250}, START_S), counter=7)]) == {
            "duplicate": 1
        }


class TestCounterTooOld:
    def test_a_gap_that_was_given_up(self, concentrator: Concentrator, device: Device, settings: Settings) -> None:
        settings.COUNTER_GAP_RUNS = 2
        accepted = [device.frame(n, counter=2 * n) for n in range(1, 5)]  # gaps 1, 3, 5, 7: the oldest are given up
        assert judged(concentrator, accepted) == {"accepted": 4}
        uplink = verified(concentrator, [device.frame(10, counter=1), device.frame(11, counter=7)])
        assert outcome(uplink) == {"counter_too_old": 1, "accepted": 1}
        assert evidence(uplink)[0].invocation_counter == 1
        assert 10 not in readings_of(device)

    def test_all_of_1024_gaps_are_kept_and_taken_in_any_order(self, concentrator: Concentrator, device: Device) -> None:
        late = [device.frame(-n, counter=2 * n) for n in range(1024)]
        early = [device.frame(-n - 2000, counter=2 * n + 1) for n in range(1024)]
        assert judged(concentrator, early) == {"accepted": 1024}
        assert judged(concentrator, late[::-1]) == {"accepted": 1024}
        row = device.counter()
        assert (row.highest, row.floor) == (2047, 0)
        assert not row.gaps


class TestPayload:
    @pytest.mark.parametrize(
        ("payload", "detail"),
        [
            (b"", "not a CBOR item"),
            (b"\x80", "1 to 256 records"),
            (senml_payload({INTERVAL: 1}, START_S + 7), "no multiple of 30 minutes"),
            (senml_payload({ENERGY: 2**63}, START_S), "64 bits"),
            (senml_payload({ENERGY: 1}, 3600), "relative"),
        ],
    )
    def test_payload_invalid_consumes_its_counter(
        self, concentrator: Concentrator, device: Device, payload: bytes, detail: str
    ) -> None:
        frame = device.seal(payload, counter=3)
        uplink = verified(concentrator, [frame, frame])
        assert outcome(uplink) == {"payload_invalid": 2}
        assert detail in evidence(uplink)[0].detail
        assert device.counter().highest == 3
        assert judged(concentrator, [device.frame(0, counter=3)]) == {"counter_reused": 1}

    def test_identity_mismatch(self, concentrator: Concentrator, device: Device) -> None:
        own, foreign = (f"urn:dev:mac:{title}:{ENERGY}" for title in (device.title.hex(), "00" * 8))
        assert judged(concentrator, [device.seal(senml_payload({own: 1}, START_S))]) == {"accepted": 1}
        uplink = verified(concentrator, [device.seal(senml_payload({foreign: 1}, START_S + 1), counter=4)])
        assert outcome(uplink) == {"identity_mismatch": 1}
        assert evidence(uplink)[0].severity == Severity.CRITICAL
        assert device.counter().highest == 4

    def test_clock_skew_begins_one_second_after_five_minutes(self, concentrator: Concentrator, device: Device) -> None:
        received_at = NOW - timedelta(hours=3) + timedelta(microseconds=999_999)
        limit_s = int(received_at.timestamp()) + 300
        frames = [device.seal(senml_payload({ENERGY: 1}, limit_s + ahead)) for ahead in (0, 1)]
        uplink = verified(concentrator, frames, received_at)
        assert outcome(uplink) == {"accepted": 1, "clock_skew": 1}
        assert evidence(uplink)[0].frame_index == 1

    def test_too_old_is_what_lies_before_retention(
        self, concentrator: Concentrator, device: Device, settings: Settings
    ) -> None:
        settings.RETENTION_DAYS = 10
        start_s = int(NOW.timestamp()) - 10 * 86_400
        # what is kept is counted from now, which is up to an hour after NOW, and as long as the run takes
        frames = [device.seal(senml_payload({ENERGY: 1}, start_s + more)) for more in (0, 3 * 3_600)]
        uplink = verified(concentrator, frames)
        assert outcome(uplink) == {"accepted": 1, "too_old": 1}
        assert evidence(uplink)[0].frame_index == 0

    def test_what_was_accepted_and_is_past_retention_is_a_replay(
        self, concentrator: Concentrator, device: Device, settings: Settings
    ) -> None:
        old = device.seal(senml_payload({ENERGY: 1}, START_S - 20 * 86_400))
        assert judged(concentrator, [old]) == {"accepted": 1}
        settings.RETENTION_DAYS = 10
        assert judged(concentrator, [old, old]) == {"replayed": 2}


def test_a_refused_frame_sent_again_keeps_its_kind(
    concentrator: Concentrator, other_concentrator: Concentrator, device: Device
) -> None:
    judged(concentrator, [device.frame(0, 250, counter=1)])
    skewed = device.seal(senml_payload({ENERGY: 1}, int(NOW.timestamp()) + 301))
    refused = {
        "reading_conflict": device.frame(0, 251, counter=2),
        "counter_reused": device.frame(9, 1, counter=1),
        "payload_invalid": device.seal(b"\xff", counter=4),
        "too_old": device.seal(senml_payload({ENERGY: 1}, START_S - 2000 * 86_400), counter=5),
        "identity_mismatch": device.seal(senml_payload({"urn:dev:mac:00:1": 1}, START_S), counter=6),
        "clock_skew": skewed,
        "malformed": b"garbage",
        "tag_invalid": damaged(device.frame(10, counter=8)),
    }
    frames = list(refused.values())
    first = judged(concentrator, frames)
    assert first == dict.fromkeys(refused, 1)
    assert judged(other_concentrator, frames) == first
    later = judged(other_concentrator, [*frames, b"x"], NOW + timedelta(hours=1))
    del first["clock_skew"]  # it kept its counter
    assert later == {**first, "malformed": 2, "accepted": 1}
    assert readings_of(device) == {0: 250}


def test_events_become_meter_events_once(concentrator: Concentrator, device: Device) -> None:
    opened = device.seal(senml_payload({"0-0:96.11.1": 40}, START_S + 7, unit="count"))
    uplink = verified(concentrator, [opened, opened])
    assert outcome(uplink) == {"accepted": 1, "duplicate": 1}
    event = MeterEvent.objects.get(meter=device.meter)
    assert (event.value, event.uplink_id, event.received_at) == (40, uplink.pk, NOW)
    assert event.captured_at.timestamp() == START_S + 7
    assert not Reading.objects.filter(meter=device.meter).exists()

    again, other = (device.seal(senml_payload({"0-0:96.11.1": code}, START_S + 7, unit="count")) for code in (40, 41))
    assert judged(concentrator, [again, other]) == {"accepted": 2}
    assert list(MeterEvent.objects.order_by("id").values_list("value", flat=True)) == [40, 41]


def test_registers_with_scalers_keep_exact_steps(concentrator: Concentrator, device: Device) -> None:
    volts = device.seal(senml_payload({"1-0:32.7.0": 230}, START_S, unit="V"))
    too_fine = device.seal(senml_payload({"1-0:32.7.0": 0.25}, START_S + 1, unit="V"))  # type: ignore[dict-item]
    assert judged(concentrator, [volts, too_fine]) == {"accepted": 1, "registry_mismatch": 1}
    assert Reading.objects.get(meter=device.meter).value == 2300


@pytest.mark.parametrize("alg", [10, 11])
def test_both_algorithms(concentrator: Concentrator, alg: int) -> None:
    device = commission(1, concentrator, alg)[0]
    other = Device(device.meter, device.key, alg=21 - alg)
    assert judged(concentrator, [device.frame(0), other.frame(1)]) == {"accepted": 1, "algorithm_mismatch": 1}


def test_derived_keys(concentrator: Concentrator) -> None:
    fleet_octets = secrets.token_bytes(32)
    fleet_key = provisioning.create_fleet_key("a fleet", fleet_octets)
    meters = MeterFactory.create_batch(2)
    provisioning.provision_devices([bytes(meter.system_title) for meter in meters], fleet_key=fleet_key)
    devices = [Device(meter, derived_device_key(fleet_octets, bytes(meter.system_title), 1)) for meter in meters]
    wrong_epoch = Device(meters[0], derived_device_key(fleet_octets, devices[0].title, 2))
    frames = [*(device.frame(0) for device in devices), wrong_epoch.frame(1, counter=7)]
    assert judged(concentrator, frames) == {"accepted": 2, "tag_invalid": 1}


def test_every_refused_frame_leaves_its_evidence(concentrator: Concentrator, device: Device) -> None:
    judged(concentrator, [device.frame(0, counter=0)])
    stranger = Device(MeterFactory.build(), bytes(32))
    later = NOW + timedelta(minutes=2)
    frames = {
        FailureKind.MALFORMED: b"\xd0",
        FailureKind.UNKNOWN_DEVICE: stranger.frame(0, counter=77),
        FailureKind.UNKNOWN_EPOCH: Device(device.meter, device.key, epoch=9).frame(0, counter=78),
        FailureKind.ALGORITHM_MISMATCH: Device(device.meter, device.key, alg=11).frame(0, counter=79),
        FailureKind.TAG_INVALID: Device(device.meter, bytes(32)).frame(0, counter=80),
        FailureKind.COUNTER_REUSED: device.frame(5, counter=0),
        FailureKind.PAYLOAD_INVALID: device.seal(b"", counter=1),
        FailureKind.READING_CONFLICT: device.frame(0, 9, counter=2),
        FailureKind.CLOCK_SKEW: device.frame(2000, counter=3),
        FailureKind.TOO_OLD: device.frame(-200_000, counter=4),
    }
    uplink = verified(concentrator, list(frames.values()), later)

    assert outcome(uplink) == {kind.value: 1 for kind in frames}
    assert tallies(concentrator) == {kind.value: 1 for kind in frames}
    for index, ((kind, octets), row) in enumerate(zip(frames.items(), evidence(uplink), strict=True)):
        assert (row.frame_index, row.kind, bytes(row.frame)) == (index, kind, octets)
        assert (row.concentrator, row.received_at, row.severity) == (concentrator, later, kind.severity)
        assert row.detail
        if kind is FailureKind.MALFORMED:
            assert (row.kid, row.invocation_counter, row.meter) == (None, None, None)
            continue
        claimed = stranger if kind is FailureKind.UNKNOWN_DEVICE else device
        epoch = 9 if kind is FailureKind.UNKNOWN_EPOCH else 1
        assert row.kid is not None
        assert bytes(row.kid) == make_kid(claimed.title, epoch)
        assert row.invocation_counter == (0 if kind is FailureKind.COUNTER_REUSED else row.invocation_counter)
        assert row.meter == (None if claimed is stranger else device.meter)
    assert [row.invocation_counter for row in evidence(uplink)] == [None, 77, 78, 79, 80, 0, 1, 2, 3, 4]


def test_one_odd_frame_costs_no_other(concentrator: Concentrator, device: Device) -> None:
    frames = [device.frame(0), b"", b"\x00" * 2000, device.seal(b""), device.frame(1)]
    assert judged(concentrator, frames) == {"accepted": 2, "malformed": 2, "payload_invalid": 1}
    assert readings_of(device) == {0: 100, 1: 100}


def test_the_ends_of_what_is_stored(concentrator: Concentrator, device: Device) -> None:
    Register.objects.update(minimum=None, maximum=None)
    extremes = [2**63 - 1, -(2**63)]
    frames = [
        device.seal(senml_payload({INTERVAL: value}, START_S + n * HALF_HOUR_S)) for n, value in enumerate(extremes)
    ]
    highest = device.frame(3, counter=2**40 - 1)
    assert judged(concentrator, [*frames, highest]) == {"accepted": 3}
    assert judged(concentrator, [device.seal(usual(3), counter=2**40 - 1)]) == {"duplicate": 1}
    assert totals.compare(*WINDOW) == []


def test_totals_grow_beyond_64_bits(concentrator: Concentrator) -> None:
    Register.objects.update(minimum=None, maximum=None)
    devices = commission(3, concentrator)
    frames = [device.seal(senml_payload({INTERVAL: 2**63 - 1}, START_S)) for device in devices]
    assert judged(concentrator, frames) == {"accepted": 3}
    assert IntervalTotal.objects.get(concentrator=concentrator).value_sum == 3 * (2**63 - 1)
