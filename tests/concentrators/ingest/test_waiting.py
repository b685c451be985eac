"""What hangs on a passing state of ours waits with its counter free, and is judged again by itself, exactly once."""

import logging
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from concentrators import retention, tasks
from concentrators.ingest import clock_corrections, reverification, reverification_queue
from concentrators.ingest.clock_corrections import ClockEffect, ClockError, ClockRequest
from concentrators.ingest.decisions import Verdicts
from concentrators.ingest.reverification import verify_again
from concentrators.ingest.transaction_retry import TransientError
from concentrators.models import (
    ClockCorrection,
    Concentrator,
    FailureGroup,
    IntegrityFailure,
    IntervalTotal,
    Reverification,
    Uplink,
)
from concentrators.totals import totals
from keyvault import master_key
from keyvault.audit.chain import Actor
from keyvault.master_key import MasterKeyError
from keyvault.models import AuditRecord
from meters.models import Meter, MeterEvent, Reading, Register
from meters.registry import lifecycle
from tests.builders import pack, senml_payload
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
    verified,
)
from tests.concentrators.ingest.test_reverification import again, consistent, give_keys, registered
from tests.damage import damaged

pytestmark = pytest.mark.django_db

NEW = "1-0:5.8.0"
ACTOR = Actor("someone", "tests")


@pytest.fixture
def device(concentrator: Concentrator) -> Device:
    return commission(1, concentrator)[0]


def with_new_register(device: Device, interval: int, wh: int = 100) -> bytes:
    values = {ENERGY: 10_000, INTERVAL: wh, NEW: 7}
    return device.seal(senml_payload(values, START_S + interval * HALF_HOUR_S))


def add_register() -> Register:
    return Register.objects.create(obis_code=NEW, kind="cumulative", unit="Wh", name="Fourth quadrant")


def judged_by_itself(uplink: Uplink) -> dict[str, int]:
    """What is left of an uplink's verdicts once the schedule has looked."""
    while reverification_queue.work():
        pass
    assert not Reverification.objects.exists()
    uplink.refresh_from_db()
    consistent(uplink)
    return outcome(uplink)


class TestUnknownRegister:
    def test_it_waits_until_the_register_is_added_and_counts_once(
        self, concentrator: Concentrator, other_concentrator: Concentrator, device: Device
    ) -> None:
        frames = [device.frame(0), with_new_register(device, 1, 250), device.frame(2)]
        uplink = verified(concentrator, frames)
        assert outcome(uplink) == {"accepted": 2, "unknown_register": 1}
        assert uplink.waiting_frames == {"unknown_register": [1]}
        assert evidence(uplink)[0].detail == f"no register '{NEW}' is known"
        copy = verified(other_concentrator, frames[1:2])
        assert outcome(copy) == {"unknown_register": 1}
        assert 1 not in readings_of(device)

        add_register()
        assert judged_by_itself(uplink) == {"accepted": 3}
        assert readings_of(device) == {0: 100, 1: 250, 2: 100}
        assert readings_of(device, NEW) == {1: 7}
        total = IntervalTotal.objects.get(concentrator=concentrator, interval_start=START + timedelta(minutes=30))
        assert (int(total.value_sum), total.meters_counted) == (250, 1)
        assert totals.compare(*WINDOW) == []
        copy.refresh_from_db()
        assert outcome(copy) == {"duplicate": 1}
        assert tallies(concentrator) == tallies(other_concentrator) == {}
        assert judged(concentrator, frames[1:]) == {"duplicate": 2}
        assert verify_again(uplink.pk) == Verdicts()
        assert (device.counter().highest, list(device.counter().gaps)) == (2, [])

    def test_it_waits_on_untouched_while_another_register_comes(
        self, concentrator: Concentrator, device: Device
    ) -> None:
        uplink = verified(concentrator, [with_new_register(device, 1)])
        before = evidence(uplink)
        Register.objects.create(obis_code="1-0:6.8.0", kind="cumulative", unit="Wh", name="another")
        assert judged_by_itself(uplink) == {"unknown_register": 1}
        assert evidence(uplink) == before
        assert tallies(concentrator) == {"unknown_register": 1}

    def test_an_administrator_adds_it(self, concentrator: Concentrator, device: Device, admin_client: Client) -> None:
        uplink = verified(concentrator, [with_new_register(device, 1)])
        given = {
            "obis_code": NEW,
            "kind": "cumulative",
            "unit": "Wh",
            "scaler": 0,
            "name": "new",
            "minimum": "",
            "maximum": "",
        }
        assert admin_client.post(reverse("admin:meters_register_add"), given).status_code == 302
        tasks.verify_waiting_again()
        uplink.refresh_from_db()
        assert outcome(uplink) == {"accepted": 1}

    def test_the_command_adds_it(self, concentrator: Concentrator, device: Device) -> None:
        uplink = verified(concentrator, [with_new_register(device, 1)])
        out = StringIO()
        call_command("register", "add", NEW, "--kind", "cumulative", "--unit", "Wh", "--name", "new", stdout=out)
        assert (
            out.getvalue()
            == f"{NEW} new is in the catalogue. Frames that wait for it are judged again by the workers.\n"
        )
        assert judged_by_itself(uplink) == {"accepted": 1}
        with pytest.raises(CommandError, match="there is a register"):
            call_command("register", "add", NEW, "--kind", "cumulative", "--unit", "Wh", "--name", "new")
        with pytest.raises(CommandError, match="OBIS"):
            call_command("register", "add", "1.8.0", "--kind", "cumulative", "--unit", "Wh", "--name", "new")

    def test_what_is_wrong_for_good_is_told_first(self, concentrator: Concentrator, device: Device) -> None:
        foreign = f"urn:dev:mac:{'00' * 8}:{ENERGY}"
        frames = [
            device.seal(senml_payload({NEW: 1, ENERGY: 1, foreign: 1}, START_S)),
            device.seal(senml_payload({INTERVAL: 1, NEW: 1}, START_S + 7)),
            device.seal(senml_payload({INTERVAL: 1, foreign: 1}, START_S + 60)),
            device.seal(senml_payload({NEW: 1}, START_S - 5000 * 86_400)),
        ]
        expected = {"identity_mismatch": 2, "payload_invalid": 1, "too_old": 1}
        assert judged(concentrator, frames) == expected

    def test_another_frame_takes_the_counter_meanwhile(self, concentrator: Concentrator, device: Device) -> None:
        payload = senml_payload({INTERVAL: 9, NEW: 7}, START_S)
        uplink = verified(concentrator, [device.seal(payload, counter=5), device.frame(0, counter=5)])
        assert outcome(uplink) == {"unknown_register": 1, "accepted": 1}
        add_register()
        assert judged_by_itself(uplink) == {"counter_reused": 1, "accepted": 1}

    def test_a_counter_that_is_taken_is_no_reason_to_wait(self, concentrator: Concentrator, device: Device) -> None:
        judged(concentrator, [device.frame(0, counter=5)])
        frame = device.seal(senml_payload({NEW: 7}, START_S), counter=5)
        assert judged(concentrator, [frame]) == {"counter_reused": 1}

    def test_its_octets_are_kept_as_long_as_for_a_key(
        self, concentrator: Concentrator, device: Device, settings: object
    ) -> None:
        verified(concentrator, [with_new_register(device, 1)])
        assert retention.delete_bodies(NOW + timedelta(days=179)) == 0
        assert retention.delete_bodies(NOW + timedelta(days=181)) == 1


class TestImplausible:
    def test_a_value_out_of_bounds_waits_until_they_are_widened(
        self, concentrator: Concentrator, device: Device
    ) -> None:
        good = device.frame(0)
        lowest = device.seal(senml_payload({INTERVAL: -(2**63)}, START_S + HALF_HOUR_S))
        high = device.seal(senml_payload({ENERGY: 1, INTERVAL: 10**9}, START_S + 2 * HALF_HOUR_S))
        uplink = verified(concentrator, [good, lowest, high])  # the worker has learned the usual pack by then
        assert outcome(uplink) == {"accepted": 1, "implausible": 2}
        assert evidence(uplink)[1].detail == f"{INTERVAL} says 1000000000; the register takes 0 to 999999999"
        call_command("register", "bounds", INTERVAL, "--maximum", str(10**9), "--minimum", "0", stdout=StringIO())
        assert judged_by_itself(uplink) == {"accepted": 2, "implausible": 1}
        assert readings_of(device) == {0: 100, 2: 10**9}

    def test_narrower_bounds_hold_for_the_usual_pack_at_once(self, concentrator: Concentrator, device: Device) -> None:
        judged(concentrator, [device.frame(0, 70_000)])
        Register.objects.filter(obis_code=INTERVAL).update(maximum=69_999)
        assert judged(concentrator, [device.frame(1, 70_000), device.frame(2, 69_999)]) == {
            "implausible": 1,
            "accepted": 1,
        }

    def test_what_stands_already_is_a_duplicate_whatever_the_bounds_say_now(
        self, concentrator: Concentrator, other_concentrator: Concentrator, device: Device
    ) -> None:
        frame = device.frame(0, 70_000)
        judged(concentrator, [frame])
        Register.objects.filter(obis_code=INTERVAL).update(maximum=1)
        assert judged(other_concentrator, [frame]) == {"duplicate": 1}

    def test_an_administrator_sets_them(self, admin_client: Client) -> None:
        register = Register.objects.get(obis_code=INTERVAL)
        page = reverse("admin:meters_register_change", args=[register.pk])
        given = {"name": register.name, "minimum": "5", "maximum": "4"}
        assert "above the highest" in admin_client.post(page, given).content.decode()
        assert admin_client.post(page, given | {"maximum": "50"}).status_code == 302
        register.refresh_from_db()
        assert (register.minimum, register.maximum) == (5, 50)


class TestRegistry:
    def test_frames_of_a_suspended_meter_wait_until_it_is_resumed(
        self, concentrator: Concentrator, device: Device
    ) -> None:
        lifecycle.suspend(device.meter)
        uplink = verified(concentrator, [device.frame(0), device.frame(1)])
        assert outcome(uplink) == {"device_suspended": 2}
        assert again(uplink) == {"device_suspended": 2}
        lifecycle.resume(device.meter)
        assert judged_by_itself(uplink) == {"accepted": 2}
        assert readings_of(device) == {0: 100, 1: 100}

    def test_frames_of_a_retired_meter_do_not_wait(self, concentrator: Concentrator, device: Device) -> None:
        lifecycle.retire(device.meter, timezone.now())
        uplink = verified(concentrator, [device.frame(0)])
        assert (outcome(uplink), uplink.waiting) == ({"device_suspended": 1}, 0)

    def test_keys_and_meters_that_come(self, concentrator: Concentrator) -> None:
        (known,) = registered(1, concentrator)
        uplink = verified(concentrator, [known.frame(0)])
        give_keys([known])
        assert judged_by_itself(uplink) == {"accepted": 1}
        stranger = Device(Meter(system_title=bytes(range(8)), serial_number="late", commissioned_at=START), bytes(32))
        give_keys([stranger])
        uplink = verified(concentrator, [stranger.frame(0)])
        assert judged_by_itself(uplink) == {"unknown_device": 1}
        stranger.meter.save()
        assert judged_by_itself(uplink) == {"accepted": 1}

    def test_a_change_that_ends_no_waiting_asks_for_nothing(self, device: Device) -> None:
        Reverification.objects.all().delete()
        Meter.objects.update(name="another")
        lifecycle.suspend(device.meter)
        assert not Reverification.objects.exists()

    def test_what_is_parked_is_tried_once_a_day(
        self, concentrator: Concentrator, device: Device, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (device,) = registered(1, concentrator)
        uplink = verified(concentrator, [device.frame(0)])
        Uplink.objects.update(waiting_frames={"parked": [0]}, failures={"parked": 1})
        give_keys([device])
        Reverification.objects.all().delete()
        tasks.request_reverification()
        tasks.request_reverification()
        assert judged_by_itself(uplink) == {"accepted": 1}


class TestQueue:
    def test_without_the_master_key_it_goes_on_later(
        self, concentrator: Concentrator, device: Device, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        uplink = verified(concentrator, [with_new_register(device, 1)])
        add_register()

        def away(*_: object, **__: object) -> None:
            raise TransientError("the token does not answer")

        with monkeypatch.context() as broken:
            broken.setattr(reverification, "verify_again", away)
            for _ in range(5):
                assert reverification_queue.work() is False
        assert Reverification.objects.get(cause="register").tries == 0
        assert judged_by_itself(uplink) == {"accepted": 1}

    def test_an_uplink_that_kills_the_worker_is_passed_over(
        self,
        concentrator: Concentrator,
        device: Device,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        deadly, other = (verified(concentrator, [with_new_register(device, n)]) for n in (1, 2))
        add_register()

        def die(uplink_id: int, **kinds: object) -> Verdicts:
            if uplink_id == deadly.pk:
                raise KeyboardInterrupt
            return verify_again(uplink_id, **kinds)  # type: ignore[arg-type]

        with monkeypatch.context() as broken:
            broken.setattr(reverification, "verify_again", die)
            for _ in range(3):
                with pytest.raises(KeyboardInterrupt):
                    reverification_queue.work()
            assert judged_by_itself(other) == {"accepted": 1}
        assert f"uplink {deadly.pk} is passed over" in caplog.text
        tasks.request_reverification()
        assert judged_by_itself(deadly) == {"accepted": 1}

    def test_what_concerns_known_meters_goes_before_a_flood_of_unknown_ones(
        self, concentrator: Concentrator, device: Device, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        strangers = registered(3, concentrator)
        for stranger in strangers:
            verified(concentrator, [stranger.frame(0)])
        give_keys(strangers[:1])
        uplink = verified(concentrator, [with_new_register(device, 1)])
        add_register()
        order: list[int] = []

        def note(uplink_id: int, **kinds: Any) -> Verdicts:
            order.append(uplink_id)
            return verify_again(uplink_id, **kinds)

        monkeypatch.setattr(reverification, "verify_again", note)
        assert judged_by_itself(uplink) == {"accepted": 1}
        assert order[0] == uplink.pk

    def test_it_stops_after_some_seconds_and_goes_on_where_it_was(
        self, concentrator: Concentrator, device: Device, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        waiting = [verified(concentrator, [with_new_register(device, n)]) for n in range(3)]
        add_register()
        with monkeypatch.context() as short:
            short.setattr(reverification_queue, "_WORK_S", -1.0)
            assert reverification_queue.work() is True
        asked: list[None] = []
        monkeypatch.setattr(reverification_queue, "work", lambda: not asked)
        monkeypatch.setattr(tasks.verify_waiting_again, "delay", lambda: asked.append(None))
        tasks.verify_waiting_again()
        assert asked == [None]
        monkeypatch.undo()
        assert [judged_by_itself(uplink) for uplink in waiting] == [{"accepted": 1}] * 3


class TestClock:
    """Our clock was an hour behind when these came."""

    BEHIND = timedelta(hours=1)

    def slow(self, concentrator: Concentrator, frames: list[bytes], true: object = NOW) -> Uplink:
        assert true == NOW
        return verified(concentrator, frames, NOW - self.BEHIND)

    @pytest.fixture
    def frames(self, device: Device) -> list[bytes]:
        """The last two intervals that were over at NOW, and an event."""
        event = senml_payload({"0-0:96.11.1": 3}, int(NOW.timestamp()) - 60, unit="count")
        return [device.frame(46), device.frame(47), device.seal(event)]

    def wish(self, behind_s: int = 3600, **more: Any) -> ClockRequest:
        start, end = NOW - timedelta(hours=2), NOW - timedelta(minutes=59)
        return ClockRequest(start, end, behind_s, "NTP was off")._replace(**more)

    def test_the_same_frames_are_accepted_once_the_clock_is_right(
        self, concentrator: Concentrator, other_concentrator: Concentrator, frames: list[bytes], device: Device
    ) -> None:
        slow = self.slow(concentrator, frames)
        assert outcome(slow) == {"clock_skew": 3}
        assert judged(other_concentrator, frames) == {"accepted": 3}
        assert readings_of(device) == {46: 100, 47: 100}

    def test_an_act_that_names_the_span_has_them_judged_by_a_corrected_time(
        self, concentrator: Concentrator, frames: list[bytes], device: Device
    ) -> None:
        fast = device.frame(50)  # the meter's own clock: ahead of the right time, too
        slow = self.slow(concentrator, [*frames, fast])
        assert outcome(slow) == {"clock_skew": 4}
        assert again(slow) == {"clock_skew": 4}
        tasks.request_reverification()
        assert judged_by_itself(slow) == {"clock_skew": 4}

        before = {row.frame_index: row.pk for row in evidence(slow)}
        assert clock_corrections.correct(self.wish(), ACTOR, timezone.now()) == ClockEffect(1, 4)
        assert judged_by_itself(slow) == {"accepted": 3, "clock_skew": 1}
        assert (slow.received_at, slow.corrected_at) == (NOW - self.BEHIND, NOW)
        assert readings_of(device) == {46: 100, 47: 100}
        assert IntervalTotal.objects.filter(concentrator=concentrator).count() == 2
        assert MeterEvent.objects.get().received_at == NOW
        assert device.counter().heard_at == NOW
        assert [row.pk for row in evidence(slow)] == [before[3]]
        assert judged(concentrator, frames) == {"duplicate": 3}
        record = AuditRecord.objects.get(act="clock.correct")
        assert (record.actor, record.subject["behind_s"], record.subject["frames"]) == ("someone", 3600, 4)
        assert ClockCorrection.objects.get().note == "NTP was off"

        assert clock_corrections.correct(self.wish(), ACTOR, timezone.now()) == ClockEffect(1, 1)
        assert judged_by_itself(slow) == {"accepted": 3, "clock_skew": 1}

    def test_too_small_a_number_can_be_said_again(self, concentrator: Concentrator, frames: list[bytes]) -> None:
        slow = self.slow(concentrator, frames)
        clock_corrections.correct(self.wish(behind_s=60), ACTOR, timezone.now())
        assert judged_by_itself(slow) == {"clock_skew": 3}
        clock_corrections.correct(self.wish(), ACTOR, timezone.now())
        assert judged_by_itself(slow) == {"accepted": 3}

    def test_uplinks_outside_of_the_span_stay(
        self, concentrator: Concentrator, other_concentrator: Concentrator, device: Device
    ) -> None:
        fast = verified(concentrator, [device.frame(48)], NOW - timedelta(minutes=20))
        earlier = verified(other_concentrator, [device.frame(47)], NOW - timedelta(hours=1))
        slow = verified(concentrator, [device.frame(46)], NOW - timedelta(hours=1))
        assert clock_corrections.correct(self.wish(first_uplink=slow.pk), ACTOR, timezone.now()).uplinks == 1
        assert judged_by_itself(slow) == {"accepted": 1}
        assert judged_by_itself(fast) == judged_by_itself(earlier) == {"clock_skew": 1}

    def test_what_waits_for_something_else_is_judged_by_the_corrected_time_then(
        self, concentrator: Concentrator, device: Device
    ) -> None:
        slow = self.slow(concentrator, [with_new_register(device, 47)])
        assert outcome(slow) == {"unknown_register": 1}
        clock_corrections.correct(self.wish(), ACTOR, timezone.now())
        assert judged_by_itself(slow) == {"unknown_register": 1}
        add_register()
        assert judged_by_itself(slow) == {"accepted": 1}

    def test_a_copy_while_the_clock_is_slow_is_a_duplicate(
        self, concentrator: Concentrator, frames: list[bytes], device: Device
    ) -> None:
        assert judged(concentrator, frames) == {"accepted": 3}
        assert outcome(self.slow(concentrator, [*frames, device.frame(46, counter=0)])) == {"duplicate": 4}

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"behind_s": 0}, "1 to"),
            ({"behind_s": 400 * 86_400}, "1 to"),
            ({"end": NOW - timedelta(hours=3)}, "ends before"),
            ({"note": "  "}, "a note"),
            ({"note": "x" * 1001}, "a note"),
            ({"first_uplink": -1}, "number of an uplink"),
            ({"behind_s": 100_000}, "in the future"),
        ],
    )
    def test_what_cannot_be_right_is_refused(self, change: dict[str, Any], message: str) -> None:
        with pytest.raises(ClockError, match=message):
            clock_corrections.correct(self.wish(**change), ACTOR, timezone.now())
        assert not ClockCorrection.objects.exists()

    def test_nothing_is_corrected_that_cannot_be_audited(
        self, concentrator: Concentrator, frames: list[bytes], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        slow = self.slow(concentrator, frames)

        def away() -> None:
            raise MasterKeyError("the token does not answer")

        monkeypatch.setattr(master_key, "current", away)
        with pytest.raises(MasterKeyError):
            clock_corrections.correct(self.wish(), ACTOR, timezone.now())
        slow.refresh_from_db()
        assert (slow.corrected_at, Reverification.objects.filter(cause="clock").count()) == (None, 0)

    def test_the_command(self, concentrator: Concentrator, frames: list[bytes]) -> None:
        slow = self.slow(concentrator, frames)
        start, end = ((NOW - timedelta(minutes=minutes)).isoformat() for minutes in (120, 59))
        words = ["correct_clock", "--from", start, "--to", end, "--behind", "3600", "--note", "NTP was off"]
        out = StringIO()
        call_command(*words, "--dry-run", stdout=out)
        assert out.getvalue() == "Would correct 1 uplink with 3 frames that were ahead of our clock; nothing changed.\n"
        assert not AuditRecord.objects.exists()
        out = StringIO()
        call_command(*words, stdout=out)
        assert out.getvalue().startswith("1 uplink is corrected; 3 frames that were ahead of our clock are judged")
        assert judged_by_itself(slow) == {"accepted": 3}
        with pytest.raises(CommandError, match="is not a time"):
            call_command("correct_clock", "--from", "x", "--to", end, "--behind", "1", "--note", "x")
        with pytest.raises(CommandError, match="in the future"):
            call_command(*words[:3], "--to", timezone.now().isoformat(), *words[5:])

    def test_the_rest_door(self, concentrator: Concentrator, frames: list[bytes], admin_client: Client) -> None:
        slow = self.slow(concentrator, frames)
        url = "/api/v1/clock-corrections"
        body = {
            "from": (NOW - timedelta(hours=2)).isoformat(),
            "to": (NOW - timedelta(minutes=59)).isoformat(),
            "behind_s": 3600,
            "note": "NTP was off",
        }
        answer = admin_client.post(url, body, content_type="application/json")
        assert (answer.status_code, answer.json()["frames"]) == (201, 3)
        assert judged_by_itself(slow) == {"accepted": 3}
        wrong = admin_client.post(url, body | {"behind_s": 10**6}, content_type="application/json")
        assert (wrong.status_code, "in the future" in wrong.json()["detail"]) == (400, True)
        assert [row["by"] for row in admin_client.get(url).json()] == ["admin"]


class TestIntervalIsOver:
    def test_an_interval_that_is_not_over_waits_as_ahead_of_our_clock(
        self, concentrator: Concentrator, device: Device
    ) -> None:
        over_at = NOW - timedelta(minutes=5)  # 5 minutes of tolerance
        uplink = verified(concentrator, [device.frame(47), device.frame(48)], over_at)
        assert outcome(uplink) == {"accepted": 1, "clock_skew": 1}
        begins, ends = NOW, NOW + timedelta(minutes=30)
        assert evidence(uplink)[0].detail == (
            f"the time {begins:%Y-%m-%dT%H:%M:%SZ} of {INTERVAL} is ahead of ours, {NOW:%Y-%m-%dT%H:%M:%SZ} at most"
            if begins > NOW
            else f"the interval of {INTERVAL} from {begins:%Y-%m-%dT%H:%M:%SZ} ends at {ends:%Y-%m-%dT%H:%M:%SZ}, "
            f"{NOW:%Y-%m-%dT%H:%M:%SZ} at most"
        )

    def test_a_second_too_early(self, concentrator: Concentrator, device: Device) -> None:
        early = NOW - timedelta(minutes=5, seconds=1)
        assert judged(concentrator, [device.frame(47)], early) == {"clock_skew": 1}
        shape = verified(concentrator, [device.frame(46), device.frame(47)], early)  # read by its shape, too
        assert outcome(shape) == {"accepted": 1, "clock_skew": 1}


def test_reasons_name_obis_codes_and_times(concentrator: Concentrator, device: Device) -> None:
    twice = [{-1: 26, -3: START_S, 0: ENERGY, 1: "Wh", 2: 1}, {0: ENERGY, 1: "Wh", 2: 2}]
    judged(concentrator, [device.frame(0, 250)])
    frames = [
        device.frame(0, 251),
        device.seal(senml_payload({INTERVAL: 1}, START_S + 60)),
        device.seal(senml_payload({ENERGY: 1}, START_S - 5000 * 86_400)),
        device.seal(senml_payload({ENERGY: 1}, START_S + 5000 * 86_400)),
        device.seal(pack(*twice)),
    ]
    at = f"{START:%Y-%m-%dT%H:%M:%SZ}"
    minute_later = f"{START + timedelta(minutes=1):%Y-%m-%dT%H:%M:%SZ}"
    long_ago = f"{START - timedelta(days=5000):%Y-%m-%dT%H:%M:%SZ}"
    ahead = f"{START + timedelta(days=5000):%Y-%m-%dT%H:%M:%SZ}"
    latest = f"{NOW + timedelta(minutes=5):%Y-%m-%dT%H:%M:%SZ}"
    assert [row.detail for row in evidence(verified(concentrator, frames))] == [
        f"{INTERVAL} at {at} says 250, the frame 251",
        f"{INTERVAL} begins at {minute_later}, no multiple of 30 minutes",
        f"the time {long_ago} is before what is kept",
        f"the time {ahead} of {ENERGY} is ahead of ours, {latest} at most",
        f"two values of {ENERGY} at {at}",
    ]


class TestEvents:
    """Two events of one log in one second."""

    def event(self, device: Device, *codes: int) -> bytes:
        first = {-1: 26, -3: START_S, 0: ENERGY, 1: "Wh", 2: 10_000}
        return device.seal(pack(first, *({0: "0-0:96.11.1", 1: "count", 2: code} for code in codes)))

    @pytest.mark.parametrize("together", [True, False])
    def test_both_are_kept_and_the_reading_beside_them(
        self, concentrator: Concentrator, other_concentrator: Concentrator, device: Device, together: bool
    ) -> None:
        frames = [self.event(device, 40, 41)] if together else [self.event(device, 40), self.event(device, 41)]
        assert judged(concentrator, frames) == {"accepted": len(frames)}
        assert sorted(MeterEvent.objects.values_list("value", flat=True)) == [40, 41]
        assert Reading.objects.count() == 1
        assert judged(other_concentrator, frames) == {"duplicate": len(frames)}

    def test_an_event_that_is_said_again_is_the_same_one(self, concentrator: Concentrator, device: Device) -> None:
        frames = [self.event(device, 40, 40), self.event(device, 40, 41)]
        assert [judged(concentrator, [frame]) for frame in frames] == [{"accepted": 1}] * 2
        assert judged(concentrator, [self.event(device, 41, 40), self.event(device, 40, 41)]) == {"accepted": 2}
        assert sorted(MeterEvent.objects.values_list("value", flat=True)) == [40, 41]


def test_copies_of_a_refused_frame_are_no_new_failures(
    concentrator: Concentrator, other_concentrator: Concentrator, device: Device
) -> None:
    judged(concentrator, [device.frame(0, 250)])
    frames = [
        device.frame(0, 251),
        damaged(device.frame(5)),
        b"garbage",
        device.seal(b"?"),
        with_new_register(device, 1),
    ]
    first = verified(concentrator, frames)
    again = verified(other_concentrator, [*frames, frames[2]])
    assert outcome(again) == {**outcome(first), "malformed": 2}
    assert {row.is_copy for row in evidence(first)} == {False}
    assert {row.is_copy for row in evidence(again)} == {True}
    groups = FailureGroup.objects.values_list("kind", "failures", "open")
    assert set(groups) == {(kind, 1, 1) for kind in outcome(first)}
    IntegrityFailure.objects.filter(uplink=again).delete()
    assert set(groups.all()) == {(kind, 1, 1) for kind in outcome(first)}
    IntegrityFailure.objects.all().delete()
    assert not groups.all()


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
