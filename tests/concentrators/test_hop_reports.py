"""Meters of scheme hop, through the database: reports, sums, and what the head-end adds up itself."""

import itertools
import secrets
from datetime import timedelta

import cbor2
import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from concentrators.fleet import concentrator_keys, hop_key_sets
from concentrators.fleet.assignments import assign
from concentrators.ingest import reverification
from concentrators.models import (
    Assignment,
    Concentrator,
    ReportedSum,
    Reverification,
    UncomparedSum,
    Uplink,
)
from concentrators.simulator.hop_concentrator import HopConcentrator
from concentrators.simulator.keys import Key
from concentrators.totals import reported_sums, totals
from keyvault.audit.chain import Actor
from keyvault.cose.kdf import uplink_key
from keyvault.cose.sealing import DirectionCipher, TagInvalidError
from keyvault.cose.structures import make_kid
from keyvault.device_keys import key_rows, provisioning
from keyvault.device_keys.provisioning import NewKey
from keyvault.models import DeviceKey, KeyState
from meters.models import Meter, MeterEvent, MeterStatus, Reading, Register
from tests.builders import pack, senml_payload
from tests.concentrators.fleet import (
    HALF_HOUR_S,
    INTERVAL,
    NOW,
    START,
    START_S,
    WINDOW,
    Device,
    evidence,
    judged,
    outcome,
    readings_of,
    usual,
    verified,
)
from tests.concentrators.scheme_devices import of_mac
from tests.concentrators.statements import Statements
from tests.factories import ConcentratorFactory, MeterFactory

pytestmark = pytest.mark.django_db
TITLE = bytes.fromhex("0024befffe00c001")


class Holder:
    """A concentrator with a key of its own, as it knows it."""

    def __init__(self, title: bytes = TITLE) -> None:
        self.row: Concentrator = ConcentratorFactory.create(system_title=title)
        self.title, self.key, self.epoch = title, secrets.token_bytes(32), 1
        self._counters = itertools.count()
        provisioning.provision_stored([NewKey(title, 1, self.key, 10, "concentrator")])

    def seal(self, payload: bytes, counter: int | None = None) -> bytes:
        cipher = DirectionCipher(uplink_key(self.key, self.title, self.epoch, 10), 10)
        number = next(self._counters) if counter is None else counter
        return cipher.seal(make_kid(self.title, self.epoch), number, payload)

    def report(self, device: Device, interval: int = 0, wh: int = 100) -> bytes:
        time_s = START_S + interval * HALF_HOUR_S
        base = f"urn:dev:mac:{device.title.hex()}:"
        return self.seal(pack({-2: base, -1: 26, -3: time_s, 0: INTERVAL, 1: "Wh", 2: wh}))

    def sums(self, value: int, meters: int, interval: int = 0) -> bytes:
        row = [INTERVAL, 30, START_S + interval * HALF_HOUR_S, value, meters]
        return self.seal(cbor2.dumps(["sums", row], canonical=True))


@pytest.fixture
def holder() -> Holder:
    return Holder()


def meters(holder: Holder, count: int, scheme: str = "hop") -> list[Device]:
    """Meters of a scheme, assigned to the concentrator for ever."""
    devices = [Device(meter, secrets.token_bytes(32)) for meter in MeterFactory.create_batch(count)]
    alg = 4 if scheme == "mac" else 10
    provisioning.provision_stored([NewKey(device.title, 1, device.key, alg, scheme) for device in devices])
    Assignment.objects.bulk_create(
        Assignment(meter=one.meter, concentrator=holder.row, valid_from=NOW - timedelta(days=4000)) for one in devices
    )
    return devices


def test_a_report_becomes_the_meters_reading_once_and_counts(holder: Holder) -> None:
    (device,) = meters(holder, 1)
    frame = holder.report(device, wh=250)
    assert judged(holder.row, [frame]) == {"accepted": 1}
    assert judged(holder.row, [frame, holder.report(device, 1)]) == {"duplicate": 1, "accepted": 1}
    assert readings_of(device) == {0: 250, 1: 100}
    assert set(Reading.objects.filter(meter=device.meter).values_list("scheme", flat=True)) == {3}
    assert totals.compare(*WINDOW) == []
    assert (device.counter().heard_at, device.counter().heard_via) == (NOW, holder.row.pk)
    judged(holder.row, [holder.report(device, 2)], NOW - timedelta(hours=1))
    assert device.counter().heard_at == NOW  # never back


def test_the_meters_own_frames_bring_events_and_no_reading(holder: Holder) -> None:
    (device,) = meters(holder, 1)
    event = device.seal(senml_payload({"0-0:96.11.1": 40}, START_S, "count"))
    assert judged(holder.row, [event, device.seal(usual(0))]) == {"accepted": 1, "algorithm_mismatch": 1}
    row = MeterEvent.objects.get()
    assert (row.meter, row.scheme) == (device.meter, None)  # it came in a ccm frame, from end to end
    assert device.counter().highest == 1


def test_whom_a_concentrator_may_speak_for(holder: Holder) -> None:
    mine, retired = meters(holder, 2)
    (plain,) = meters(holder, 1, "ccm")
    (others,) = meters(Holder(b"\1" * 8), 1)
    key_rows.set_key_state([retired.row().pk], KeyState.RETIRED)
    uplink = verified(holder.row, [holder.report(one) for one in (mine, retired, plain, others)])
    assert outcome(uplink) == {"accepted": 1, "identity_mismatch": 3}
    # What it says of others is its own failure, and none of theirs.
    assert [row.meter_id for row in evidence(uplink)] == [None, None, None]
    assert {row.concentrator_id for row in evidence(uplink)} == {holder.row.pk}
    again = verified(holder.row, [bytes(refused.frame) for refused in evidence(uplink)])
    assert outcome(again) == {"identity_mismatch": 3}


def test_a_moved_meter_counts_where_it_was_and_where_it_is(holder: Holder) -> None:
    (device,) = meters(holder, 1)
    other = Holder(b"\1" * 8)
    assign([(device.meter.pk, other.row.pk)], START + timedelta(minutes=30))
    late, new = holder.report(device, 0), other.report(device, 1)
    assert judged(holder.row, [late, new]) == {"accepted": 2}
    assert judged(holder.row, [holder.report(device, 2)]) == {"identity_mismatch": 1}


def test_a_new_key_of_the_concentrator_begins_with_its_first_frame(holder: Holder) -> None:
    (device,) = meters(holder, 1)
    key = secrets.token_bytes(32)
    provisioning.provision_pending([NewKey(TITLE, 2, key, 10, "concentrator")], {})
    old = holder.report(device, 0)
    holder.key, holder.epoch = key, 2
    assert judged(holder.row, [holder.report(device, 1), old]) == {"accepted": 2}
    states = DeviceKey.objects.filter(system_title=TITLE).order_by("epoch").values_list("state", flat=True)
    assert list(states) == ["retiring", "active"]


def test_the_number_of_queries_does_not_grow(holder: Holder, statements: Statements) -> None:
    seen = []
    for count in (1, 1, 6):  # the first finds nothing kept
        devices = meters(holder, count)
        frames = [holder.report(one, 1) for one in devices] + [holder.sums(1, n, 1) for n in range(count)]
        before = len(statements)
        assert judged(holder.row, frames) == {"accepted": 2 * count}
        seen.append(len(statements) - before)
    assert seen[1] == seen[2]


class TestSums:
    def stands(self) -> tuple[int, int, int | None, int | None, bool]:
        row = ReportedSum.objects.get()
        own = None if row.own_sum is None else int(row.own_sum)
        return row.value_sum, row.meters_counted, own, row.own_meters, row.differs_since is not None

    def test_only_those_of_intervals_for_which_it_has_a_meter_are_accepted(self, holder: Holder) -> None:
        places = [["sums", [INTERVAL, minutes, START_S, 10, 1]] for minutes in (1, 60, 30)]
        before = [holder.seal(cbor2.dumps(place, canonical=True)) for place in places]
        assert judged(holder.row, before) == {"identity_mismatch": 3}
        meters(holder, 1)
        frames = [holder.seal(cbor2.dumps(place, canonical=True)) for place in places]
        assert judged(holder.row, frames) == {"accepted": 1, "identity_mismatch": 2}
        assert ReportedSum.objects.get().interval_minutes == 30
        assert judged(holder.row, [frames[2], frames[1]]) == {"duplicate": 1, "identity_mismatch": 1}
        assert judged(holder.row, [before[0]]) == {"identity_mismatch": 1}  # and not reused: it is the same frame

    def test_of_a_frame_all_intervals_count(self, holder: Holder) -> None:
        """Also of one that was accepted before the meter left: then the assignments of now do not matter."""
        (device,) = meters(holder, 1)
        rows = [[INTERVAL, minutes, START_S, 10, 1] for minutes in (30, 60)]
        both, one = (holder.seal(cbor2.dumps(["sums", *some], canonical=True)) for some in (rows, rows[:1]))
        assert judged(holder.row, [both, one]) == {"identity_mismatch": 1, "accepted": 1}
        Assignment.objects.filter(meter=device.meter).delete()
        assert judged(holder.row, [one]) == {"duplicate": 1}

    def test_the_highest_counter_stands_and_another_epochs_goes_before(self, holder: Holder) -> None:
        meters(holder, 1)
        first, second = holder.sums(10, 1), holder.sums(20, 2)
        assert judged(holder.row, [second]) == {"accepted": 1}
        assert judged(holder.row, [first, second]) == {"accepted": 1, "duplicate": 1}
        assert self.stands()[:2] == (20, 2)
        assert judged(holder.row, [first]) == {"duplicate": 1}  # it gave way
        key = secrets.token_bytes(32)
        key_rows.set_key_state(list(DeviceKey.objects.values_list("pk", flat=True)), KeyState.RETIRING)
        provisioning.provision_stored([NewKey(TITLE, 2, key, 10, "concentrator")])
        holder.key, holder.epoch = key, 2
        other = cbor2.dumps(["sums", [INTERVAL, 30, START_S, 30, 3]], canonical=True)
        assert judged(holder.row, [holder.seal(other, 0)]) == {"accepted": 1}
        assert self.stands()[:2] == (30, 3)

    def test_the_same_again_by_a_clock_that_is_behind_is_a_duplicate(self, holder: Holder) -> None:
        (device,) = meters(holder, 1)
        frames = [holder.report(device, 2), holder.sums(100, 1, 2)]
        assert judged(holder.row, frames) == {"accepted": 2}
        assert judged(holder.row, frames[::-1], START) == {"duplicate": 2}

    def test_of_the_meters_that_it_holds_both_figures_agree(self, holder: Holder) -> None:
        hop = meters(holder, 2)
        (plain,) = meters(holder, 1, "ccm")  # its readings are not the concentrator's to see
        frames = [*(holder.report(one) for one in hop), plain.frame(0, 999), holder.sums(200, 2)]
        assert judged(holder.row, frames) == {"accepted": 4}
        assert reported_sums.compare(NOW) == 1
        assert self.stands() == (200, 2, 200, 2, False)
        assert reported_sums.differing(holder.row.pk, 10) == []

    def test_a_difference_stands_until_the_late_reading_comes(self, holder: Holder) -> None:
        first, late = meters(holder, 2)
        judged(holder.row, [holder.report(first), holder.sums(250, 2)])
        reported_sums.compare(NOW)
        assert self.stands() == (250, 2, 100, 1, True)
        (found,) = reported_sums.differing(holder.row.pk, 10)
        assert (found.obis_code, found.interval_start, found.said, found.own) == (INTERVAL, START, (250, 2), (100, 1))
        reported_sums.compare(NOW + timedelta(hours=1))
        assert ReportedSum.objects.get().differs_since == NOW

        judged(holder.row, [holder.report(late, wh=150)])
        reported_sums.compare(NOW)
        assert self.stands() == (250, 2, 250, 2, False)

    def test_a_sum_that_agreed_is_compared_again_when_a_reading_comes(self, holder: Holder) -> None:
        first, late = meters(holder, 2)
        judged(holder.row, [holder.report(first), holder.sums(100, 1)])
        reported_sums.compare(NOW)
        assert reported_sums.compare(NOW) == 0
        judged(holder.row, [holder.report(late)])
        assert UncomparedSum.objects.count() == 1
        reported_sums.compare(NOW)
        assert self.stands() == (100, 1, 200, 2, True)

    def test_a_meter_counts_where_it_was_assigned_when_the_interval_began(self, holder: Holder) -> None:
        stays, moves = meters(holder, 2)
        judged(holder.row, [holder.report(stays), holder.report(moves), holder.sums(200, 2)])
        reported_sums.compare(NOW)
        assert self.stands()[4] is False
        assign([(moves.meter.pk, ConcentratorFactory.create().pk)], START - timedelta(days=1))
        reported_sums.compare(NOW)
        assert self.stands() == (200, 2, 100, 1, True)

    def test_other_totals_leave_nothing_to_compare(self, holder: Holder) -> None:
        judged(holder.row, [holder.report(meters(holder, 1)[0])])
        assert not UncomparedSum.objects.exists()


class TestWaiting:
    def again(self, uplink: Uplink) -> dict[str, int]:
        """What an uplink's frames end with, once all that may be judged again was."""
        reverification.verify_all_again(reverification.waiting_uplinks())
        uplink.refresh_from_db()
        return outcome(uplink)

    def test_a_report_waits_for_a_register_and_for_its_meters_service(self, holder: Holder) -> None:
        first, second = meters(holder, 2)
        base = f"urn:dev:mac:{first.title.hex()}:"
        unknown = holder.seal(pack({-2: base, -3: START_S, 0: "1-0:9.7.0", 1: "V", 2: 230}))
        Meter.objects.filter(pk=second.meter.pk).update(status=MeterStatus.SUSPENDED)
        uplink = verified(holder.row, [unknown, holder.report(second), holder.report(first)])
        assert outcome(uplink) == {"accepted": 1, "unknown_register": 1, "device_suspended": 1}
        assert self.again(uplink) == {"accepted": 1, "unknown_register": 1, "device_suspended": 1}
        Register.objects.create(obis_code="1-0:9.7.0", kind="instantaneous", unit="V", name="a new one")
        Meter.objects.filter(pk=second.meter.pk).update(status=MeterStatus.COMMISSIONED)
        assert self.again(uplink) == {"accepted": 3}

    def test_reports_wait_for_the_title_of_their_concentrator(self, holder: Holder) -> None:
        (device,) = meters(holder, 1)
        Concentrator.objects.filter(pk=holder.row.pk).update(system_title=None)
        uplink = verified(holder.row, [holder.report(device), holder.sums(100, 1)])
        assert outcome(uplink) == {"unknown_device": 2}
        Reverification.objects.all().delete()
        Concentrator.objects.filter(pk=holder.row.pk).update(system_title=TITLE)
        assert Reverification.objects.get().cause == "meter"
        assert self.again(uplink) == {"accepted": 2}
        assert readings_of(device) == {0: 100}


@pytest.mark.django_db
def test_events_of_a_meter_in_clear_are_marked_as_its_readings_are(admin_client: Client) -> None:
    concentrator = ConcentratorFactory.create()
    device = of_mac(concentrator)
    event = device.seal(senml_payload({"0-0:96.11.1": 40}, START_S, "count"))
    assert judged(concentrator, [event]) == {"accepted": 1}
    asked = {"from": START.isoformat(), "to": NOW.isoformat()}
    (row,) = admin_client.get(reverse("events"), asked).json()["results"]
    assert (row["scheme"], row["caveat"]) == ("mac", "carried in clear")
    table = b"".join(admin_client.get(reverse("events"), {**asked, "format": "csv"}).streaming_content).decode()  # type: ignore[attr-defined]
    assert table.splitlines()[1].endswith('"mac","carried in clear"')
    for page in (reverse("admin:meter", args=[device.meter.pk]), reverse("admin:meters_meterevent_changelist")):
        assert "mac: carried in clear" in admin_client.get(page).content.decode()


@pytest.mark.django_db
def test_the_reference_concentrator_takes_its_next_key_and_proves_it_over_restarts(holder: Holder) -> None:
    row, first, transfer = holder.row, Key(holder.key, 10, 1), Key(secrets.token_bytes(32), 10, 0)
    provisioning.provision_stored([NewKey(TITLE, 0, transfer.octets)])
    meters(holder, 1)
    said = cbor2.dumps(["sums", [INTERVAL, 30, START_S, 10, 1]], canonical=True)
    one = HopConcentrator(TITLE, first, transfer_key=transfer)
    one.take_keys(hop_key_sets.sealed(row.pk, NOW))
    assert judged(row, [one.seal(said)]) == {"accepted": 1}
    officer = Actor("officer", "test")
    assert concentrator_keys.rotate(officer, row) == 2
    command = concentrator_keys.next_key(TITLE, timezone.now())
    assert command is not None
    forged = command[:-1] + bytes((command[-1] ^ 1,))
    with pytest.raises(TagInvalidError):
        one.take_next_key(forged)
    one = HopConcentrator(TITLE, first, one.dump(), transfer_key=transfer)  # without power before it took the command
    assert one.take_next_key(command)
    one = HopConcentrator(TITLE, first, one.dump(), transfer_key=transfer)  # and before it sealed a frame under it
    assert (one.key.epoch, one.counter, one.has_keys) == (2, 0, True)
    assert not one.take_next_key(command)
    one.take_keys(hop_key_sets.sealed(row.pk, NOW))  # still under the old key
    assert judged(row, [one.seal(said)]) == {"accepted": 1}
    states = DeviceKey.objects.filter(system_title=TITLE, epoch__gt=0).order_by("epoch").values_list("state", flat=True)
    assert list(states) == ["retiring", "active"]
    sealed = hop_key_sets.sealed(row.pk, NOW)
    one.take_keys(sealed)
    again = HopConcentrator(TITLE, first, one.dump(), transfer_key=transfer)
    assert (again.key, again.counter) == (one.key, 1)
