"""A frame that does not fit what is registered waits with its counter free, and counts once that is corrected."""

from datetime import datetime, timedelta
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.test import Client
from django.urls import reverse

from concentrators.commands import capture_period
from concentrators.commands.capture_period import IntervalError, LengthChange
from concentrators.ingest import length_corrections, reverification_queue
from concentrators.ingest.decisions import Verdicts
from concentrators.ingest.length_corrections import LengthRequest
from concentrators.ingest.reverification import verify_again
from concentrators.models import Concentrator, ExpectedStep, IntervalTotal, Reverification, Uplink
from concentrators.totals import expected, totals
from keyvault.audit.chain import Actor
from keyvault.device_keys import provisioning
from keyvault.device_keys.provisioning import NewKey
from keyvault.master_key import MasterKeyError
from keyvault.models import AuditRecord
from meters.models import EarlierLength, Meter, Reading, Register
from meters.readings.gaps import gap_report
from meters.registry.interval_lengths import LengthSpan
from tests.builders import pack, senml_payload
from tests.concentrators.fleet import (
    ENERGY,
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
    tallies,
    verified,
)
from tests.concentrators.ingest.test_reverification import again, consistent

pytestmark = pytest.mark.django_db

QUARTER = timedelta(minutes=15)
NEW = "1-0:5.8.0"
ACTOR = Actor("someone", "tests")


@pytest.fixture
def device(concentrator: Concentrator) -> Device:
    """A meter that is registered with 60 minutes, and measures in 15."""
    (device,) = commission(1, concentrator)
    Meter.objects.filter(pk=device.meter.pk).update(interval_minutes=60, commissioned_at=START)
    device.meter.refresh_from_db()
    return device


def quarters(device: Device, count: int = 8, wh: int = 100) -> list[bytes]:
    return [device.seal(senml_payload({INTERVAL: wh + n}, START_S + n * 900)) for n in range(count)]


def judged_by_itself(uplink: Uplink) -> dict[str, int]:
    """What is left of an uplink's verdicts once the schedule has looked."""
    while reverification_queue.work():
        pass
    assert not Reverification.objects.exists()
    uplink.refresh_from_db()
    consistent(uplink)
    return outcome(uplink)


def stored(device: Device) -> list[tuple[int, int, int]]:
    """Minute since START, length and value of the meter's intervals."""
    rows = Reading.objects.filter(meter=device.meter, interval_minutes__gt=0).order_by("captured_at")
    return [(int((row.captured_at - START).total_seconds() // 60), row.interval_minutes, row.value) for row in rows]


class TestVerdict:
    @pytest.mark.parametrize(
        ("payload", "detail"),
        [
            (senml_payload({ENERGY: 1}, START_S, unit="varh"), "counts 'Wh'"),
            (senml_payload({ENERGY: 0.5}, START_S), "whole number of steps"),  # type: ignore[dict-item]
            (senml_payload({ENERGY: 1, INTERVAL: 1}, START_S + 900), "no multiple of 60 minutes"),
        ],
        ids=["unit", "step", "grid"],
    )
    def test_it_waits_with_its_counter(
        self, concentrator: Concentrator, device: Device, payload: bytes, detail: str
    ) -> None:
        uplink = verified(concentrator, [device.seal(payload, counter=3), device.frame(0, counter=4)])
        assert outcome(uplink) == {"registry_mismatch": 1, "accepted": 1}
        assert uplink.waiting_frames == {"registry_mismatch": [0]}
        assert detail in evidence(uplink)[0].detail
        assert [(gap.lower, gap.upper) for gap in device.counter().gaps] == [(0, 4)]
        before = evidence(uplink)
        assert again(uplink) == {"registry_mismatch": 1, "accepted": 1}
        assert evidence(uplink) == before
        assert tallies(concentrator) == {"registry_mismatch": 1}

    def test_what_is_wrong_for_good_is_told_first(self, concentrator: Concentrator, device: Device) -> None:
        foreign = f"urn:dev:mac:{'00' * 8}:{ENERGY}"
        twice = pack(*[{-1: 26, 0: INTERVAL, 1: "Wh", 2: n, 6: START_S + 900} for n in (1, 2)])
        frames = [
            device.seal(senml_payload({INTERVAL: 1, foreign: 1}, START_S + 900)),
            device.seal(twice),
            device.seal(senml_payload({INTERVAL: 1}, START_S + 907)),
            device.seal(senml_payload({INTERVAL: 1}, START_S + 900 - 5000 * 86_400)),
            device.seal(senml_payload({INTERVAL: 1, NEW: 1}, START_S + 900)),
        ]
        expected = {"identity_mismatch": 1, "payload_invalid": 2, "too_old": 1, "unknown_register": 1}
        assert judged(concentrator, frames) == expected

    def test_what_stands_already_is_a_duplicate_whatever_is_registered_now(
        self, concentrator: Concentrator, other_concentrator: Concentrator, device: Device
    ) -> None:
        Meter.objects.filter(pk=device.meter.pk).update(interval_minutes=15)
        frames = quarters(device, 2)
        judged(concentrator, frames)
        Meter.objects.filter(pk=device.meter.pk).update(interval_minutes=60)
        assert judged(other_concentrator, frames) == {"duplicate": 2}
        other = device.seal(senml_payload({INTERVAL: 7}, START_S + 900), counter=1)
        assert judged(other_concentrator, [other]) == {"counter_reused": 1}

    def test_what_was_refused_for_good_before_stays_refused(self, concentrator: Concentrator, device: Device) -> None:
        """Its counter was taken by a release that knew no registry_mismatch."""
        frame = quarters(device, 2)[1]
        invalid = device.seal(b"?", counter=1)
        uplink = verified(concentrator, [invalid])
        evidence(uplink)[0].__class__.objects.filter(uplink=uplink).update(frame=frame)
        assert judged(concentrator, [frame]) == {"payload_invalid": 1}


class TestLengthChanges:
    def test_frames_and_their_copies_count_once(
        self, concentrator: Concentrator, other_concentrator: Concentrator, device: Device
    ) -> None:
        frames = quarters(device)
        uplink = verified(concentrator, frames)
        assert outcome(uplink) == {"accepted": 2, "registry_mismatch": 6}
        copy = verified(other_concentrator, frames[1:2])
        assert outcome(copy) == {"registry_mismatch": 1}

        capture_period.change([LengthChange(device.meter.pk, 15, START)], NOW)
        assert judged_by_itself(uplink) == {"accepted": 8}
        assert stored(device) == [(15 * n, 15, 100 + n) for n in range(8)]
        total = IntervalTotal.objects.get(concentrator=concentrator, interval_start=START + QUARTER)
        assert (int(total.value_sum), total.meters_counted) == (101, 1)
        assert totals.compare(*WINDOW) == []
        copy.refresh_from_db()
        assert outcome(copy) == {"duplicate": 1}
        assert tallies(concentrator) == tallies(other_concentrator) == {}
        assert judged(concentrator, frames[1:]) == {"duplicate": 7}
        assert verify_again(uplink.pk) == Verdicts()
        assert (device.counter().highest, list(device.counter().gaps)) == (7, [])

    def test_an_interval_that_seemed_not_to_be_over_is_judged_again_and_what_is_ahead_stays(
        self, concentrator: Concentrator, device: Device
    ) -> None:
        received_at = START + QUARTER
        ahead = device.seal(senml_payload({INTERVAL: 1}, START_S + 3600))
        uplink = verified(concentrator, [*quarters(device, 1), ahead], received_at)
        assert outcome(uplink) == {"clock_skew": 2}
        capture_period.change([LengthChange(device.meter.pk, 15, START)], NOW)
        assert judged_by_itself(uplink) == {"accepted": 1, "clock_skew": 1}
        assert stored(device) == [(0, 15, 100)]
        assert tallies(concentrator) == {"clock_skew": 1}

    def test_it_is_asked_for_by_every_change_of_a_length_and_by_no_other(self, device: Device) -> None:
        Reverification.objects.all().delete()
        meter = Meter.objects.filter(pk=device.meter.pk)
        meter.update(name="other")
        assert not Reverification.objects.exists()
        meter.update(interval_minutes=15)
        assert [row.cause for row in Reverification.objects.all()] == ["length"]
        Reverification.objects.all().delete()
        device.meter.refresh_from_db()
        row = device.meter.earlier_lengths.create(interval_minutes=60, valid_to=START)
        row.delete()
        assert [row.cause for row in Reverification.objects.all()] == ["length", "length"]


def test_a_register_that_is_corrected_has_them_judged_again(concentrator: Concentrator, device: Device) -> None:
    register = Register.objects.create(obis_code=NEW, kind="cumulative", unit="Wh", name="quadrant 1")
    uplink = verified(concentrator, [device.seal(senml_payload({NEW: 7}, START_S, unit="varh"))])
    assert outcome(uplink) == {"registry_mismatch": 1}
    register.unit = "varh"
    register.save()
    assert judged_by_itself(uplink) == {"accepted": 1}


def wish(
    minutes: int = 15, start: datetime | None = None, end: datetime | None = None, reason: str = "seen"
) -> LengthRequest:
    return LengthRequest(minutes, start, end, reason)


class TestLengthCorrection:
    def test_what_was_taken_and_what_waits_is_of_the_right_length(
        self, concentrator: Concentrator, device: Device
    ) -> None:
        uplink = verified(concentrator, quarters(device))
        later = device.seal(senml_payload({INTERVAL: 9}, START_S + 4 * 3600))  # beyond the span
        judged(concentrator, [later])
        end = START + timedelta(hours=2)
        found = length_corrections.correct(device.meter, wish(end=end), ACTOR, NOW)
        assert (found.readings, found.spans) == (2, [LengthSpan(None, end, 15), LengthSpan(end, None, 60)])
        assert judged_by_itself(uplink) == {"accepted": 8}
        assert stored(device) == [*((15 * n, 15, 100 + n) for n in range(8)), (240, 60, 9)]
        assert totals.compare(*WINDOW) == []
        kept = IntervalTotal.objects.order_by("interval_start").values_list("interval_minutes", flat=True)
        assert list(kept) == [*[15] * 8, 60]
        device.meter.refresh_from_db()
        assert device.meter.interval_minutes == 60
        assert list(EarlierLength.objects.values_list("interval_minutes", "valid_from", "valid_to")) == [
            (15, None, end)
        ]
        record = AuditRecord.objects.get(act="meter.correct_length")
        assert (record.subject["meter"], record.subject["readings"], record.subject["reason"]) == (
            device.meter.pk,
            2,
            "seen",
        )

    def test_gaps_and_expected_meters_follow(self, concentrator: Concentrator, device: Device) -> None:
        register = Register.objects.get(obis_code=INTERVAL)
        end = START + timedelta(hours=2)
        assert gap_report(device.meter, register, START, end, NOW).expected == 2
        length_corrections.correct(device.meter, wish(), ACTOR, NOW)
        device.meter.refresh_from_db()
        assert gap_report(device.meter, register, START, end, NOW).expected == 8
        expected.refresh()
        steps = ExpectedStep.objects.filter(concentrator=concentrator)
        assert set(steps.values_list("interval_minutes", flat=True)) == {15}

    def test_workers_that_keep_meters_in_memory_hear_of_it(self, concentrator: Concentrator, device: Device) -> None:
        frames = quarters(device, 4)
        assert judged(concentrator, frames[:1]) == {"accepted": 1}
        length_corrections.correct(device.meter, wish(), ACTOR, NOW)
        assert judged(concentrator, frames[1:]) == {"accepted": 3}

    def test_a_span_between_two_others(self, device: Device) -> None:
        first, last = START + timedelta(hours=2), START + timedelta(hours=5)
        length_corrections.correct(device.meter, wish(15, first, last), ACTOR, NOW)
        middle = START + timedelta(hours=3)
        found = length_corrections.correct(device.meter, wish(60, middle, last), ACTOR, NOW)
        assert found.spans == [LengthSpan(None, first, 60), LengthSpan(first, middle, 15), LengthSpan(middle, None, 60)]
        assert length_corrections.correct(device.meter, wish(60, first, middle), ACTOR, NOW).spans == [
            LengthSpan(None, None, 60)
        ]
        assert not EarlierLength.objects.exists()

    @pytest.mark.parametrize(
        ("given", "reason"),
        [
            (wish(60), "has 60 min in all of that span already"),
            (wish(0), "from 1 to 1440"),
            (wish(15, START + QUARTER), "is not such a time"),
            (wish(15, None, START + QUARTER), "is not such a time"),
            (wish(15, START + timedelta(hours=2), START + timedelta(hours=1)), "ends before it begins"),
            (wish(15, NOW + timedelta(hours=1)), "no time gone by"),
            (wish(15, None, NOW + timedelta(days=1)), "no time gone by"),
            (wish(15, reason=" "), "a reason says"),
            (wish(15, reason="x" * 1001), "a reason says"),
        ],
    )
    def test_what_cannot_be_is_named_and_changes_nothing(
        self, concentrator: Concentrator, device: Device, given: LengthRequest, reason: str
    ) -> None:
        judged(concentrator, quarters(device))
        before = stored(device)
        with pytest.raises(IntervalError, match=reason):
            length_corrections.correct(device.meter, given, ACTOR, NOW)
        assert stored(device) == before
        assert not EarlierLength.objects.exists()
        assert not AuditRecord.objects.filter(act="meter.correct_length").exists()

    def test_readings_that_contradict_it_are_named(self, concentrator: Concentrator, device: Device) -> None:
        length_corrections.correct(device.meter, wish(), ACTOR, NOW)
        judged(concentrator, quarters(device))
        device.meter.refresh_from_db()
        with pytest.raises(IntervalError, match=rf"6 readings .* the first of {START + QUARTER:%Y-%m-%d %H:%M} UTC"):
            length_corrections.correct(device.meter, wish(60), ACTOR, NOW)
        hour = START + timedelta(hours=2)
        assert length_corrections.correct(device.meter, wish(60, hour), ACTOR, NOW).readings == 0

    def test_a_meter_that_is_being_told_another_length(self, device: Device) -> None:
        provisioning.provision_stored([NewKey(device.title, 0)])
        capture_period.enqueue([device.meter], 30, None, "tester", NOW)
        with pytest.raises(IntervalError, match="is being told another length"):
            length_corrections.correct(device.meter, wish(), ACTOR, NOW)
        past = wish(15, None, START + timedelta(hours=1))
        assert length_corrections.correct(device.meter, past, ACTOR, NOW).spans[-1].minutes == 60

    def test_without_the_audit_nothing_is_changed(self, device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*args: object) -> None:
            raise MasterKeyError("gone")

        monkeypatch.setattr("concentrators.ingest.length_corrections.chain.record", fail)
        with pytest.raises(MasterKeyError):
            length_corrections.correct(device.meter, wish(), ACTOR, NOW)
        device.meter.refresh_from_db()
        assert device.meter.interval_minutes == 60

    def test_the_command(self, concentrator: Concentrator, device: Device) -> None:
        uplink = verified(concentrator, quarters(device))
        words = ["correct_length", device.meter.serial_number, "--minutes", "15", "--reason", "registered wrongly"]
        out = StringIO()
        call_command(*words, "--dry-run", stdout=out)
        assert "Would correct 2 readings" in out.getvalue()
        assert not EarlierLength.objects.exists()
        call_command(*words, f"--from={START:%Y-%m-%dT%H:%MZ}", stdout=out)
        assert "is corrected, with 2 readings" in out.getvalue()
        assert judged_by_itself(uplink) == {"accepted": 8}
        with pytest.raises(CommandError, match="already"):
            call_command(*words)
        with pytest.raises(CommandError, match="is not a time"):
            call_command(*words, "--to", "x")
        with pytest.raises(CommandError, match="there is no meter"):
            call_command("correct_length", "nobody", "--minutes", "15", "--reason", "x")

    def test_the_page(self, concentrator: Concentrator, device: Device, admin_client: Client) -> None:
        uplink = verified(concentrator, quarters(device))
        page = reverse("admin:meters_meter_correct_length", args=[device.meter.pk])
        assert "Correct length of meter" in admin_client.get(page).content.decode()
        given = {"interval_minutes": "60", "start_0": "", "start_1": "", "end_0": "", "end_1": "", "reason": "visited"}
        assert "in all of that span already" in admin_client.post(page, given).content.decode()
        assert admin_client.post(page, given | {"interval_minutes": "15"}).status_code == 302
        assert judged_by_itself(uplink) == {"accepted": 8}
        assert AuditRecord.objects.get(act="meter.correct_length").subject["reason"] == "visited"


class TestRegisterCorrection:
    @pytest.fixture
    def register(self) -> Register:
        return Register.objects.create(
            obis_code=NEW, kind="interval", unit="Wh", name="quadrant 1", minimum=-15, maximum=2**62
        )

    def test_frames_that_wait_for_it_count_once(
        self, concentrator: Concentrator, other_concentrator: Concentrator, device: Device, register: Register
    ) -> None:
        other = device.seal(senml_payload({NEW: 7}, START_S, unit="varh"))
        finer = device.seal(senml_payload({NEW: 7.5}, START_S + 60, unit="varh"))  # type: ignore[dict-item]
        uplink = verified(concentrator, [other, finer])
        copy = verified(other_concentrator, [finer])
        assert outcome(uplink) == {"registry_mismatch": 2}
        words = ["correct_register", NEW, "--unit", "varh", "--scaler", "-1", "--reason", "the maker says so"]
        out = StringIO()
        call_command(*words, "--kind", "cumulative", stdout=out)
        assert "in steps of 1e-1 varh" in out.getvalue()
        assert judged_by_itself(uplink) == {"accepted": 2}
        copy.refresh_from_db()
        assert outcome(copy) == {"duplicate": 1}
        rows = Reading.objects.filter(register=register).order_by("captured_at").values_list("value", flat=True)
        assert list(rows) == [70, 75]
        register.refresh_from_db()
        assert (register.minimum, register.maximum) == (-150, None)
        record = AuditRecord.objects.get(act="register.correct")
        assert record.subject["before"] == {"kind": "interval", "unit": "Wh", "scaler": 0}
        assert record.subject["after"] == {"kind": "cumulative", "unit": "varh", "scaler": -1}
        with pytest.raises(CommandError, match="says that already"):
            call_command(*words)
        with pytest.raises(CommandError, match="stands on register"):
            call_command("correct_register", NEW, "--unit", "Wh", "--reason", "x")

    @pytest.mark.parametrize(
        ("words", "reason"),
        [
            ([NEW, "--scaler", "40000", "--reason", "x"], "less than or equal"),
            ([NEW, "--unit", "", "--reason", "x"], "cannot be blank"),
            ([NEW, "--unit", "varh", "--reason", " "], "a reason says"),
            ([INTERVAL, "--kind", "event", "--reason", "x"], "its kind stays"),
            (["1-0:6.8.0", "--unit", "varh", "--reason", "x"], "there is no register"),
        ],
    )
    def test_what_cannot_be_is_named(self, register: Register, words: list[str], reason: str) -> None:
        with pytest.raises(CommandError, match=reason):
            call_command("correct_register", *words)
        register.refresh_from_db()
        assert (register.unit, register.scaler, register.minimum) == ("Wh", 0, -15)

    def test_an_event_keeps_it(self, concentrator: Concentrator, device: Device) -> None:
        judged(concentrator, [device.seal(senml_payload({"0-0:96.11.1": 40}, START_S, unit="count"))])
        with pytest.raises(CommandError, match="stands on register"):
            call_command("correct_register", "0-0:96.11.1", "--unit", "Wh", "--reason", "x")

    def test_the_page(self, register: Register, admin_client: Client) -> None:
        page = reverse("admin:meters_register_correct_entry", args=[register.pk])
        assert "Correct register" in admin_client.get(page).content.decode()
        given = {"kind": "cumulative", "unit": "Wh", "scaler": "-1", "reason": "a slip"}
        assert admin_client.post(page, given).status_code == 302
        assert "Register 1-0:5.8.0 says that already" in admin_client.post(page, given).content.decode()
        register.refresh_from_db()
        assert (register.kind, register.scaler) == ("cumulative", -1)
