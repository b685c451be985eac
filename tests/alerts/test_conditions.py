"""What each condition finds, when it ends, and that none of them asks more statements of a larger fleet."""

import secrets
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from django.apps import apps
from django.db import connection
from django.utils import timezone
from pytest_django import Settings

from ami_headend.alerts import defaults, evaluation, silence
from ami_headend.alerts.conditions import SEARCHES
from ami_headend.alerts.conditions.finding import SUBJECTS_MAX
from ami_headend.alerts.defaults import RULES
from ami_headend.alerts.forms import RuleForm
from ami_headend.alerts.models import Alert, Condition, Rule, StoredMark
from ami_headend.alerts.parameters import PARAMETERS
from ami_headend.console import overview_panels
from ami_headend.console.concentrators import health_label
from ami_headend.console.fleet_queries import METERS_HEARD
from ami_headend.metrics import snapshots
from concentrators.commands import rollouts
from concentrators.failures.kinds import FailureKind
from concentrators.fleet.assignments import exchange
from concentrators.fleet.selection import Selection
from concentrators.ingest import reverification
from concentrators.models import (
    Assignment,
    Concentrator,
    IntegrityFailure,
    ReportedSum,
    RotationWave,
    Uplink,
    WaveState,
)
from concentrators.totals import reported_sums
from keyvault import backups
from keyvault.audit import chain
from keyvault.audit.chain import Actor
from keyvault.device_keys import agreement_keys, epochs, provisioning
from keyvault.device_keys.provisioning import NewKey
from keyvault.enrolment import authorities
from keyvault.enrolment.authorities import PublicAuthority
from keyvault.master_key import rewrap
from keyvault.models import AuditRecord, AwaitedEnrolment, DeviceKey, InvocationCounter, KeyState, MasterKeyRotation
from meters.models import Meter, MeterEvent, Place
from meters.readings.obis import FRAUD_LOG, STANDARD_LOG
from meters.registry import lifecycle
from tests.alerts.conftest import evaluated, only
from tests.builders import senml_payload
from tests.concentrators import fleet
from tests.concentrators.dlms_devices import dlms_meter, key_set
from tests.concentrators.statements import counting
from tests.concentrators.test_hop_reports import Holder
from tests.concentrators.test_hop_reports import meters as hop_meters
from tests.factories import ConcentratorFactory
from tests.keyvault import agreeing

pytestmark = pytest.mark.django_db

OFFICER = Actor("officer", "192.0.2.7")
DAY = timedelta(days=1)
LONG_AGO = -10 * 48  # an interval ten days before the usual ones


def damaged(frame: bytes) -> bytes:
    return frame[:-1] + bytes([frame[-1] ^ 1])


def test_every_condition_is_looked_for_and_has_its_parameters() -> None:
    assert set(SEARCHES) == set(PARAMETERS) == set(Condition)


def test_the_defaults_stand_and_look_at_everything() -> None:
    assert {rule[0] for rule in RULES} == set(Rule.objects.filter(is_enabled=True).values_list("name", flat=True))
    assert set(Rule.objects.values_list("condition", flat=True)) == set(Condition)


def test_a_quiet_head_end_has_no_alert() -> None:
    concentrator = ConcentratorFactory.create()
    devices = fleet.commission(3, concentrator)
    fleet.verified(concentrator, [device.frame(0) for device in devices], timezone.now())
    for rule in Rule.objects.all():
        Rule.objects.update(is_enabled=True)
        assert evaluated(rule) == [], rule


class TestFailures:
    def test_a_counter_used_twice_is_the_meters(self) -> None:
        rule = only(Condition.KIND_SEEN, selector="counter_reused")
        concentrator = ConcentratorFactory.create()
        clone, other = fleet.commission(2, concentrator)
        frames = [clone.frame(0, counter=5), other.frame(0), clone.frame(0, wh=7, counter=5)]
        assert fleet.judged(concentrator, frames, timezone.now()) == {"accepted": 2, "counter_reused": 1}
        (alert,) = evaluated(rule)
        assert (alert.subject_kind, alert.subject_id) == ("meter", clone.meter.pk)
        assert alert.subject == clone.meter.serial_number
        assert alert.severity == 30
        assert "counter reused: once, the last received" in alert.summary

    def test_it_is_seen_however_long_ago_the_uplink_was_received(self) -> None:
        rule = only(Condition.KIND_SEEN, selector="counter_reused")
        concentrator = ConcentratorFactory.create()
        (clone,) = fleet.commission(1, concentrator)
        frames = [clone.frame(LONG_AGO, counter=5), clone.frame(LONG_AGO, wh=7, counter=5)]
        verdicts = fleet.judged(concentrator, frames, timezone.now() - 9 * DAY)
        assert verdicts == {"accepted": 1, "counter_reused": 1}
        assert len(evaluated(rule)) == 1

    def test_it_ends_when_none_was_stored_for_the_period(self) -> None:
        rule = only(Condition.KIND_SEEN, selector="counter_reused", period_minutes=60)
        concentrator = ConcentratorFactory.create()
        (clone,) = fleet.commission(1, concentrator)
        fleet.judged(concentrator, [clone.frame(0, counter=5), clone.frame(0, wh=7, counter=5)])
        now = timezone.now()
        assert len(evaluated(rule, now)) == 1
        assert len(evaluated(rule, now + timedelta(minutes=59))) == 1
        assert evaluated(rule, now + timedelta(minutes=61)) == []

    def test_one_that_comes_to_light_when_a_key_is_known_counts(self) -> None:
        rule = only(Condition.KIND_SEEN, selector="counter_reused")
        concentrator = ConcentratorFactory.create()
        (device,) = fleet.commission(1, concentrator)
        key = DeviceKey.objects.filter(system_title=device.title)
        rows = list(key.values())
        InvocationCounter.objects.filter(key__in=key).delete()
        key.delete()
        uplink = fleet.verified(concentrator, [device.frame(0, counter=5), device.frame(0, wh=7, counter=5)])
        assert evaluated(rule) == []
        DeviceKey.objects.create(**rows[0])
        InvocationCounter.objects.create(key_id=rows[0]["id"])
        reverification.verify_again(uplink.pk)
        assert len(evaluated(rule)) == 1

    def test_a_flood_of_forged_frames_is_the_concentrators(self) -> None:
        rule = only(Condition.KIND_SEEN, selector="tag_invalid", threshold=5)
        concentrator = ConcentratorFactory.create()
        (victim,) = fleet.commission(1, concentrator)
        forged = [damaged(victim.frame(n)) for n in range(5)]
        fleet.judged(concentrator, forged[:4])
        assert evaluated(rule) == []
        fleet.judged(concentrator, forged[4:])
        (alert,) = evaluated(rule)
        assert (alert.subject_kind, alert.subject_id) == ("concentrator", concentrator.pk)

    def test_what_a_concentrator_says_of_others_meters_is_its_own(self) -> None:
        rule = only(Condition.KIND_SEEN, selector="identity_mismatch")
        holder = Holder()
        (others,) = hop_meters(Holder(b"\1" * 8), 1)
        assert fleet.judged(holder.row, [holder.report(others)]) == {"identity_mismatch": 1}
        (alert,) = evaluated(rule)
        assert (alert.subject_kind, alert.subject_id) == ("concentrator", holder.row.pk)
        assert alert.subject == holder.row.name
        assert "names another meter: once" in alert.summary

    def test_what_failed_before_there_were_alerts_raises_none(self) -> None:
        rule = only(Condition.KIND_SEEN, selector="tag_invalid", threshold=1)
        concentrator = ConcentratorFactory.create()
        (victim,) = fleet.commission(1, concentrator)
        fleet.judged(concentrator, [damaged(victim.frame(0))])
        StoredMark.objects.all().delete()
        defaults.make_first_mark(apps, type("Editor", (), {"connection": connection}))
        assert evaluated(rule) == []
        fleet.judged(concentrator, [damaged(victim.frame(1))])
        assert len(evaluated(rule)) == 1

    def test_too_large_a_share_of_refused_frames(self) -> None:
        rule = only(Condition.FAILURE_RATE)
        good, bad, small = (ConcentratorFactory.create() for _ in range(3))
        for concentrator, refused, accepted in ((good, 1, 19), (bad, 4, 26), (small, 5, 0)):
            (device,) = fleet.commission(1, concentrator)
            frames = [device.frame(n) for n in range(accepted)] + [damaged(device.frame(99)) for _ in range(refused)]
            fleet.judged(concentrator, frames)
        (alert,) = evaluated(rule)
        assert alert.subject_id == bad.pk
        assert alert.summary == "4 of 30 frames rejected (13.3 %)"
        assert evaluated(rule, timezone.now() + timedelta(minutes=61)) == []


class TestEvents:
    def event(self, obis_code: str, value: int = 1) -> Meter:
        concentrator = ConcentratorFactory.create()
        (device,) = fleet.commission(1, concentrator)
        frame = device.seal(senml_payload({obis_code: value}, fleet.START_S, unit="count"))
        assert fleet.judged(concentrator, [frame]) == {"accepted": 1}
        return device.meter

    def test_a_meter_that_was_tampered_with(self) -> None:
        rule = only(Condition.METER_EVENT)
        self.event(STANDARD_LOG)
        meter = self.event(FRAUD_LOG)
        (alert,) = evaluated(rule)
        assert (alert.subject_kind, alert.subject_id) == ("meter", meter.pk)
        assert alert.summary.startswith(f"1 event in the log {FRAUD_LOG}, the last at {fleet.START:%Y-%m-%d %H:%M}")
        assert MeterEvent.objects.count() == 2

    def test_events_by_severity_or_code(self) -> None:
        rule = only(Condition.METER_EVENT)
        rule.selector = "critical"
        rule.save()
        self.event(FRAUD_LOG, 45)  # a cover that is closed again
        opened, unknown = self.event(FRAUD_LOG, 44), self.event(FRAUD_LOG, 7777)
        assert {alert.subject_id for alert in evaluated(rule)} == {opened.pk, unknown.pk}
        rule.selector = f"{FRAUD_LOG}/45"
        rule.save()
        (alert,) = evaluated(rule)
        assert alert.summary.startswith(f"1 event with the code {FRAUD_LOG}/45, the last at")

    def test_outages_are_one_alert_for_a_concentrator(self) -> None:
        by_severity, outage = only(Condition.METER_EVENT), Rule.objects.get(condition=Condition.OUTAGE)
        by_severity.selector, by_severity.is_enabled = "info", True
        by_severity.save()
        concentrator = ConcentratorFactory.create()
        devices = fleet.commission(4, concentrator)
        said = [device.seal(senml_payload({STANDARD_LOG: 1}, fleet.START_S, unit="count")) for device in devices]
        fleet.judged(concentrator, said)
        outage.period_minutes, outage.is_enabled = 30 * 1440, True
        outage.save()
        assert evaluated(by_severity) == []
        (alert,) = evaluated(outage, fleet.NOW)
        assert (alert.subject_kind, alert.subject_id) == ("concentrator", concentrator.pk)
        assert alert.summary.startswith("4 of its 4 meters said that their power went")
        back = [device.seal(senml_payload({STANDARD_LOG: 2}, fleet.START_S + 60, unit="count")) for device in devices]
        fleet.judged(concentrator, back[:2])
        assert evaluated(outage, fleet.NOW) == []

    @pytest.mark.parametrize(
        ("selector", "is_right"),
        [("critical", True), (f"{FRAUD_LOG}/44", True), ("1-0:1.8.0/1", False), ("bad", False)],
    )
    def test_what_a_rule_may_choose(self, selector: str, is_right: bool) -> None:
        rule = Rule.objects.filter(condition=Condition.METER_EVENT)[0]
        given = {name: getattr(rule, name) for name in ("name", "condition", "threshold", "period_minutes", "severity")}
        form = RuleForm({**given, "selector": selector, "quiet_minutes": 60}, instance=rule)
        assert form.is_valid() is is_right, form.errors


class TestSilence:
    def test_a_concentrator_that_posts_no_more(self) -> None:
        rule = only(Condition.SILENT_CONCENTRATOR)
        now = timezone.now()
        silent, posting, off = (ConcentratorFactory.create() for _ in range(3))
        for concentrator, at in ((silent, now - timedelta(minutes=121)), (posting, now), (off, now - DAY)):
            (device,) = fleet.commission(1, concentrator)
            fleet.post(concentrator, [device.frame(0)], at)
        Concentrator.objects.filter(pk=off.pk).update(is_active=False)
        (alert,) = evaluated(rule, now)
        assert alert.subject_id == silent.pk
        assert alert.summary.startswith("posted nothing since ")
        (device,) = fleet.commission(1, silent)
        fleet.post(silent, [device.frame(1)], now)
        assert evaluated(rule, now) == []

    def test_one_that_never_posted_only_where_it_has_meters(self) -> None:
        rule = only(Condition.SILENT_CONCENTRATOR)
        spare, waiting = (ConcentratorFactory.create() for _ in range(2))
        fleet.commission(1, waiting)
        Concentrator.objects.update(created_at=timezone.now() - DAY)
        (alert,) = evaluated(rule)
        assert alert.subject_id == waiting.pk != spare.pk
        assert "posted nothing ever" in alert.summary

    def test_meters_that_are_not_heard_unless_their_concentrator_is_the_cause(self) -> None:
        rule = only(Condition.SILENT_METER)
        now = timezone.now()
        dead, alive = ConcentratorFactory.create(), ConcentratorFactory.create()
        behind, heard, mute, never = *fleet.commission(1, dead), *fleet.commission(3, alive)
        fleet.verified(dead, [behind.frame(LONG_AGO)], now - 3 * DAY)
        fleet.verified(alive, [mute.frame(LONG_AGO)], now - 3 * DAY)
        fleet.verified(alive, [heard.frame(0)], now)
        Meter.objects.update(commissioned_at=now - 5 * DAY)
        suspended = fleet.commission(1, alive)[0].meter
        Meter.objects.filter(pk=suspended.pk).update(commissioned_at=now - 5 * DAY, status="suspended")
        fresh = fleet.commission(1, alive)[0].meter
        found = {alert.subject_id: alert.summary for alert in evaluated(rule, now)}
        assert set(found) == {mute.meter.pk, never.meter.pk}
        assert fresh.pk not in found
        assert found[mute.meter.pk].startswith("no frame accepted since ")
        assert found[never.meter.pk].startswith("no frame accepted ever")
        assert "refused" not in found[never.meter.pk]
        fleet.verified(alive, [mute.frame(1), never.frame(1)], now)
        assert evaluated(rule, now) == []

    def test_what_came_of_a_silent_meter_and_was_refused_is_said(self) -> None:
        rule = only(Condition.SILENT_METER)
        now = timezone.now()
        concentrator = ConcentratorFactory.create()
        never, once, mute = fleet.commission(3, concentrator)
        Meter.objects.update(commissioned_at=now - 5 * DAY)
        fleet.verified(concentrator, [once.frame(LONG_AGO), mute.frame(LONG_AGO)], now - 3 * DAY)
        fleet.verified(concentrator, [damaged(never.frame(n)) for n in range(6)], now - DAY)
        fleet.verified(concentrator, [damaged(once.frame(3))], now)
        found = {alert.subject_id: alert.summary for alert in evaluated(rule, now)}
        assert "UTC; 6 came and were refused, the last at " in found[never.meter.pk]
        assert found[never.meter.pk].endswith(f"UTC: {FailureKind.TAG_INVALID.label}")
        assert "UTC; some came since and were refused, the last at " in found[once.meter.pk]
        assert "refused" not in found[mute.meter.pk]

    @pytest.mark.parametrize(("minutes", "state"), [(90, "heard"), (130, "silent")])
    def test_alert_console_and_metrics_agree_on_who_is_silent(self, minutes: int, state: str) -> None:
        rule = only(Condition.SILENT_CONCENTRATOR)
        now = timezone.now()
        concentrator = ConcentratorFactory.create()
        (device,) = fleet.commission(1, concentrator)
        fleet.post(concentrator, [device.frame(0)], now - timedelta(minutes=minutes))
        Uplink.objects.update(verified_at=now, accepted=1)
        alerts = evaluated(rule, now)
        [known] = silence.of_concentrators(now)
        assert (len(alerts), known.is_silent) == ((1, True) if state == "silent" else (0, False))
        [figure] = overview_panels.concentrators(None, now)["figures"]
        assert figure.note == ("1 silent for over 2 h" if state == "silent" else "none silent")
        assert ("posting" if state == "heard" else "silent") in health_label(known, now)
        assert snapshots.QUESTIONS["concentrators"].ask(now) == [[state, 1]]

    def test_a_meter_that_was_taken_down_is_not_silent(self) -> None:
        rule = only(Condition.SILENT_METER)
        now = timezone.now()
        concentrator = ConcentratorFactory.create()
        heard, *others = fleet.commission(3, concentrator)
        old, new = (device.meter for device in others)
        fleet.verified(concentrator, [heard.frame(0)], now)
        Meter.objects.update(commissioned_at=now - 5 * DAY)
        place = Place.objects.create(name="house 1")
        lifecycle.install(old, place, now - 4 * DAY)
        assert {alert.subject_id for alert in evaluated(rule, now)} == {old.pk, new.pk}
        exchange(place, old, new, now - 3 * DAY)
        assert [alert.subject_id for alert in evaluated(rule, now)] == [new.pk]
        assert METERS_HEARD.ask(now).expected == 2

    def test_very_many_at_once_are_one_alert_and_those_that_stood_stay(self) -> None:
        rule = only(Condition.SILENT_METER)
        now = timezone.now()
        concentrator = ConcentratorFactory.create()
        devices = fleet.commission(SUBJECTS_MAX + 5, concentrator)
        fleet.verified(concentrator, [device.frame(LONG_AGO) for device in devices], now - 3 * DAY)
        fleet.verified(concentrator, [device.frame(1) for device in devices[3:]], now)
        Meter.objects.update(commissioned_at=now - 5 * DAY)
        assert len(evaluated(rule, now)) == 3
        later = now + 2 * DAY
        (probe,) = fleet.commission(1, concentrator)
        fleet.verified(concentrator, [probe.frame(0)], later)
        alerts = evaluated(rule, later)
        assert [alert.subject_kind for alert in alerts] == ["meter"] * 3 + ["fleet"]
        assert alerts[-1].subject == f"{SUBJECTS_MAX + 5} meters"
        fleet.verified(concentrator, [device.frame(2) for device in devices[:-2]], later)
        assert {alert.subject_id for alert in evaluated(rule, later)} == {device.meter.pk for device in devices[-2:]}


class TestCompleteness:
    def test_a_concentrator_with_missing_intervals(self) -> None:
        rule = only(Condition.COMPLETENESS, period_minutes=600)
        now = fleet.START + timedelta(hours=12)  # looks at the first 20 intervals
        whole, gappy, none = (ConcentratorFactory.create() for _ in range(3))
        complete = [fleet.commission(2, whole), fleet.commission(2, gappy), fleet.commission(2, none)]
        Meter.objects.update(commissioned_at=fleet.START - DAY)
        for concentrator, devices, count in ((whole, complete[0], 20), (gappy, complete[1], 15)):
            for device in devices:
                fleet.verified(concentrator, [device.frame(n, counter=n) for n in range(count)])
        (alert,) = evaluated(rule, now)
        assert alert.subject_id == gappy.pk
        assert alert.summary.startswith("30 of 40 intervals are there (75.0 %)")
        late = [device.frame(n, counter=n) for device in complete[1] for n in range(15, 20)]
        fleet.verified(gappy, late)
        assert evaluated(rule, now) == []

    def test_only_intervals_that_are_expected(self) -> None:
        rule = only(Condition.COMPLETENESS, period_minutes=600)
        now = fleet.START + timedelta(hours=12)
        concentrator = ConcentratorFactory.create()
        devices = fleet.commission(2, concentrator)
        Meter.objects.update(commissioned_at=fleet.START - DAY)
        Meter.objects.filter(pk=devices[1].meter.pk).update(commissioned_at=fleet.START + timedelta(hours=5))
        frames = [devices[0].frame(n, counter=n) for n in range(20)]
        fleet.verified(concentrator, frames + [devices[1].frame(n, counter=n) for n in range(10, 20)])
        assert evaluated(rule, now) == []
        Assignment.objects.filter(meter=devices[0].meter).update(valid_to=fleet.START)
        assert evaluated(rule, now) == []


class TestKeys:
    def test_a_master_key_rotation_that_stands_still(self, settings: Settings, tmp_path: Path) -> None:
        rule = only(Condition.ROTATION_STALLED)
        fleet.commission(1, None)
        rotation = rewrap.begin(None, OFFICER)
        assert evaluated(rule) == []
        later = timezone.now() + timedelta(minutes=61)
        (alert,) = evaluated(rule, later)
        assert alert.subject == f"to version {rotation.to_version}"
        assert "has stalled at 0 of" in alert.summary
        while rewrap.rewrap_batch(rotation.pk):
            pass
        assert MasterKeyRotation.objects.get().state == "finished"
        assert evaluated(rule, later) == []

    def test_waves_that_failures_stopped_or_nobody_steps(self) -> None:
        rule = only(Condition.ROTATION_STALLED)
        devices = fleet.commission(2, None)
        provisioning.provision_stored([NewKey(device.title, 0) for device in devices])
        now = timezone.now()
        wave = rollouts.begin("spring", Selection(everything=True), OFFICER, now, rate_per_hour=100, failure_budget=1)
        assert evaluated(rule, now) == []
        later = now + timedelta(minutes=61)
        assert "no more key commands were queued" in evaluated(rule, later)[0].summary
        RotationWave.objects.filter(pk=wave.pk).update(state=WaveState.STOPPED)
        assert "failure budget is used up" in evaluated(rule, later)[0].summary
        rollouts.cancel(wave.pk, OFFICER, now)
        assert evaluated(rule, later) == []

    def test_keys_that_are_old_or_near_their_budget(self, settings: Settings) -> None:
        rule = only(Condition.KEYS_WORN)
        old, worn, _fine = fleet.commission(3, None)
        DeviceKey.objects.filter(pk=old.row().pk).update(created_at=timezone.now() - 1_096 * DAY)
        InvocationCounter.objects.filter(key=worn.row()).update(highest=settings.KEY_ROTATE_AT_COUNTER)
        assert {alert.subject_id for alert in evaluated(rule)} == {old.meter.pk, worn.meter.pk}

    def test_key_sets_of_dlms_last_for_nearly_all_of_their_counters(self) -> None:
        rule = only(Condition.KEYS_WORN)
        concentrator = ConcentratorFactory.create()
        titles = [bytes.fromhex("02bd") + number.to_bytes(6, "big") for number in range(3)]
        sets = [dlms_meter(title, secrets.token_bytes(32), concentrator) for title in titles]
        for one, highest in zip(sets, (2**32 * 3 // 4 - 1, 2**32 * 3 // 4, 2**32 - 1), strict=True):
            InvocationCounter.objects.filter(key__system_title=one.title).update(highest=highest)
        assert {alert.subject_id for alert in evaluated(rule)} == {one.meter.pk for one in sets[1:]}
        key_set(titles[1], secrets.token_bytes(32), epoch=2, state=KeyState.PENDING)
        assert {alert.subject_id for alert in evaluated(rule)} == {sets[2].meter.pk}

    def test_an_agreement_key_that_is_in_use_after_it_was_replaced(self) -> None:
        rule = only(Condition.AGREEMENT_KEY_IN_USE, period_minutes=60)
        now = timezone.now()
        titles = [bytes.fromhex("02bf") + number.to_bytes(6, "big") for number in range(3)]
        agreeing.provision(agreeing.pairs(titles), agreement_keys.init("hes-1", OFFICER))
        agreement_keys.rotate("hes-1", OFFICER, now)
        assert evaluated(rule, now + timedelta(minutes=59)) == []
        (alert,) = evaluated(rule, now + timedelta(minutes=61))
        assert (alert.subject, alert.subjects) == ("hes-1 version 1", 3)
        epochs.begin(titles)
        pending = DeviceKey.objects.filter(state="pending").values_list("pk", flat=True)
        epochs.activate(list(pending), now)
        assert evaluated(rule, now + timedelta(minutes=62)) == []

    def test_authorities_that_are_about_to_expire(self) -> None:
        rule = only(Condition.AUTHORITY_EXPIRES, period_minutes=1_440)
        now = timezone.now()
        for number, days in enumerate((2, 2, 9, None)):
            until = None if days is None else now + days * DAY
            key = Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32).public_key().public_bytes_raw()
            public = PublicAuthority(b"kid %d" % number, f"authority {number}", key, until)
            authorities.pin(public, OFFICER, now)
        assert evaluated(rule, now + DAY - timedelta(minutes=1)) == []
        alerts = evaluated(rule, now + DAY + timedelta(minutes=1))
        assert sorted(alert.subject for alert in alerts) == ["authority 0", "authority 1"]
        assert "it expires at" in alerts[0].summary
        authorities.allow([bytes.fromhex("0024befffe000001")], OFFICER, now)
        assert len(evaluated(rule, now + 3 * DAY)) == 2
        assert "it expired at" in Alert.objects.all()[0].summary
        AwaitedEnrolment.objects.all().delete()
        assert evaluated(rule, now + 4 * DAY) == []

    def test_an_audit_chain_that_was_changed_or_cut_off(self) -> None:
        rule = only(Condition.AUDIT_BROKEN)
        for _ in range(3):
            chain.record(OFFICER, "test", {})
        assert evaluated(rule) == []
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE keyvault_auditrecord DISABLE TRIGGER USER")
            cursor.execute(
                "DELETE FROM keyvault_auditrecord WHERE number = (SELECT max(number) FROM keyvault_auditrecord)"
            )
        (alert,) = evaluated(rule)
        assert "it was cut off" in alert.summary
        AuditRecord.objects.filter(number=1).update(actor="nobody")
        assert evaluated(rule)[0].pk == alert.pk
        assert "record 1 was changed" in Alert.objects.get().summary

    def test_a_master_key_that_cannot_be_used(self, settings: Settings, tmp_path: Path) -> None:
        rule = only(Condition.MASTER_KEY_DOWN)
        assert evaluated(rule) == []
        there = settings.MASTER_KEY_FILE
        settings.MASTER_KEY_FILE = tmp_path / "gone"
        (alert,) = evaluated(rule)
        assert "gone" in alert.summary
        settings.MASTER_KEY_FILE = there
        assert evaluated(rule) == []


def test_uplinks_that_wait_too_long() -> None:
    rule = only(Condition.QUEUE_LAG)
    concentrator = ConcentratorFactory.create()
    (device,) = fleet.commission(1, concentrator)
    now = timezone.now()
    uplink = fleet.post(concentrator, [device.frame(0)], now - timedelta(minutes=9))
    assert evaluated(rule, now) == []
    (alert,) = evaluated(rule, now + timedelta(minutes=2))
    assert alert.summary == "1 uplink waits for verification, the oldest for 11 minutes"
    Uplink.objects.filter(pk=uplink.pk).update(verified_at=now, accepted=1)
    assert evaluated(rule, now + timedelta(minutes=2)) == []


def test_the_statements_are_the_same_however_much_there_is() -> None:
    def cost(concentrators: int) -> int:
        now = timezone.now()
        for _ in range(concentrators):
            concentrator = ConcentratorFactory.create()
            device, other = fleet.commission(2, concentrator)
            frames = [device.frame(0, counter=5), device.frame(0, wh=7, counter=5), other.frame(0)]
            frames += [damaged(other.frame(n)) for n in range(60)]
            frames += [device.seal(senml_payload({FRAUD_LOG: 1}, fleet.START_S, unit="count"), counter=9)]
            fleet.verified(concentrator, frames, now)
        Alert.objects.all().delete()
        Rule.objects.update(evaluated_at=None, is_enabled=True)
        with counting() as statements:
            evaluation.evaluate(now)
            return len(statements)

    few = cost(1)
    assert Alert.objects.count() == 4
    assert cost(5) == few
    assert Alert.objects.filter(rule__selector="counter_reused").count() == 6
    assert IntegrityFailure.objects.count() > 300


def test_a_backup_that_is_overdue() -> None:
    rule = only(Condition.BACKUP_OVERDUE, period_minutes=60)
    now = timezone.now()
    assert evaluated(rule, now + timedelta(hours=2)) == []  # there is nothing to lose yet
    fleet.commission(1, ConcentratorFactory.create())
    assert evaluated(rule, now) == []
    (alert,) = evaluated(rule, now + timedelta(hours=2))
    assert alert.summary == "there is no backup, and there are keys to lose"
    backup = backups.register("nightly", "here", now + timedelta(days=9), OFFICER, now + timedelta(hours=2))
    assert len(evaluated(rule, now + timedelta(hours=2))) == 1  # it is not whole yet
    backups.finish(backup, bytes(32), 1, OFFICER, now + timedelta(hours=2))
    assert evaluated(rule, now + timedelta(hours=2)) == []
    (alert,) = evaluated(rule, now + timedelta(hours=4))
    assert alert.summary.startswith("the newest backup is of ")


class TestSums:
    def test_a_concentrators_sum_that_is_not_ours_until_it_is(self) -> None:
        rule = only(Condition.AGGREGATE_MISMATCH)
        now = timezone.now()
        holder = Holder()
        (device, late) = hop_meters(holder, 2)
        fleet.verified(holder.row, [holder.report(device), *(holder.sums(250, 2, n) for n in (0, 1))], now)
        reported_sums.compare(now)
        assert evaluated(rule) == []  # what is missing may be on its way
        ReportedSum.objects.update(differs_since=now - timedelta(hours=7))
        (alert,) = evaluated(rule)
        assert alert.subject_id == holder.row.pk
        assert "adds up 250 over 2 meters, we 0 over 0" in alert.summary
        assert "2 sums differ" in alert.summary

        frames = [holder.report(late, 0, 150), holder.report(device, 1, 100), holder.report(late, 1, 150)]
        fleet.verified(holder.row, frames, now)
        reported_sums.compare(now)
        assert evaluated(rule) == []

    def test_of_many_each_is_named_with_one_statement(self) -> None:
        rule = only(Condition.AGGREGATE_MISMATCH)
        now = timezone.now()
        for n in range(3):
            holder = Holder(bytes((n,)) * 8)
            hop_meters(holder, 1)
            fleet.verified(holder.row, [holder.sums(1, 1)], now)
        reported_sums.compare(now)
        ReportedSum.objects.update(differs_since=now - timedelta(hours=7))
        with counting() as statements:
            found = SEARCHES[Condition.AGGREGATE_MISMATCH].find(rule, [], now)
        assert (found.total, len(statements)) == (3, 1)
