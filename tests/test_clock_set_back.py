"""The clock was two hours ahead, and is right again: all that is scheduled goes on at once, and nothing looks well."""

from datetime import datetime, timedelta

import pytest
from django.utils import timezone

from ami_headend import cached_answers
from ami_headend.alerts import delivery, evaluation, high_water_marks
from ami_headend.alerts.conditions import site
from ami_headend.alerts.models import Channel, Condition, Delivery, Rule, StoredMark
from ami_headend.cached_answers import Question
from ami_headend.console import components, formatting
from ami_headend.health import components as health
from ami_headend.health import doctor
from ami_headend.metrics import collector, snapshots
from ami_headend.models import KeptAnswer
from concentrators.commands import downlink, gap_recovery, rollouts
from concentrators.ingest import uplink_state
from concentrators.models import Command, CommandKind, CommandState, RotationWave, Uplink, WaveMeter
from keyvault.master_key import rewrap
from keyvault.models import MasterKeyRotation, RotationState
from meters.models import Meter
from tests.concentrators.fleet import post
from tests.factories import ConcentratorFactory, MeterFactory

pytestmark = pytest.mark.django_db

AHEAD = timedelta(hours=2)


@pytest.fixture
def now() -> datetime:
    return timezone.now()


def command(meter: Meter, now: datetime, **values: object) -> Command:
    at = {"created_at": now, "next_attempt_at": now, "expires_at": now + timedelta(days=7)}
    return Command.objects.create(
        meter=meter, kind=CommandKind.RESEND, parameters={"from_s": 0, "to_s": 1}, **at | values
    )


def test_every_rule_is_looked_at(now: datetime) -> None:
    rule = Rule.objects.filter(condition=Condition.QUEUE_LAG).get()
    rule.evaluated_at = now + AHEAD
    assert evaluation.is_due(rule, now)


def test_marks_are_set(now: datetime) -> None:
    StoredMark.objects.all().delete()
    high_water_marks.mark(now + AHEAD)
    high_water_marks.mark(now)
    assert sorted(StoredMark.objects.values_list("at", flat=True)) == [now, now + AHEAD]


def test_messages_leave(now: datetime) -> None:
    channel = Channel.objects.create(name="duty", kind="webhook", address="https://duty.example/")
    message = Delivery.objects.create(channel=channel, event="test", body={}, created_at=now, due_at=now + AHEAD)
    assert delivery.overdue_channels(now) == [channel.pk]
    message.due_at = now + timedelta(minutes=70)  # as a failed attempt may put it off
    message.save()
    assert delivery.overdue_channels(now) == []


@pytest.mark.parametrize("received", [timedelta(0), AHEAD])
def test_a_lost_uplink_is_swept(now: datetime, received: timedelta) -> None:
    lost = post(ConcentratorFactory.create(), [b"lost"], now + received)
    Uplink.objects.update(due_at=now + AHEAD + timedelta(minutes=1))
    assert uplink_state.claim_overdue(now) == [lost.pk]
    assert uplink_state.claim_overdue(now) == []  # and is put off like any other


def test_what_failed_often_keeps_its_pause(now: datetime) -> None:
    post(ConcentratorFactory.create(), [b"failing"], now)
    Uplink.objects.update(attempts=8, due_at=now + timedelta(minutes=80))
    assert uplink_state.claim_overdue(now) == []


def test_an_uplink_of_the_future_is_a_finding(now: datetime) -> None:
    post(ConcentratorFactory.create(), [b"waits"], now + timedelta(seconds=3418))
    backlog = next(one for one in doctor.examine() if one.name == "backlog")
    assert not backlog.well
    assert "future" in backlog.found
    clock = doctor._clock_of_all(now)
    assert clock.found == "an uplink was received 3418 s in the future: a clock was ahead, or is behind now"
    for to_do in (backlog.to_do, clock.to_do):
        assert "If they are right, one was ahead when this was stored" in to_do
        assert "Nothing waits for that time" in to_do
    assert "once 1,000 uplinks have come since" in clock.to_do
    found = site.queue_lag(Rule(period_minutes=10), [], now)
    assert "future" in found.listed[0].summary
    lag = next(m for m in collector.DatabaseCollector().collect() if m.name == "ami_headend_queue_lag_seconds")
    assert lag.samples[0].value < -3000


def test_snapshots_are_taken_and_their_age_is_below_zero(now: datetime) -> None:
    figures = list(snapshots.QUESTIONS.values())
    assert len(cached_answers.renew(figures, now + AHEAD)) == len(figures)
    age = next(m for m in collector.DatabaseCollector().collect() if m.name == "ami_headend_snapshot_age_seconds")
    assert {round(sample.value, -2) for sample in age.samples} == {-7200}
    assert len(cached_answers.renew(figures, now)) == len(figures)


def test_kept_answers_are_asked_again(now: datetime) -> None:
    question = Question("n", lambda at: [at.timestamp()], list[float])
    cached_answers.keep(question, now + AHEAD)
    assert cached_answers.renew([question], now) == ["n"]
    cached_answers.keep(question, now + AHEAD)
    assert cached_answers.answers([question], now)["n"].taken_at == now


def test_nobody_looked_in_the_future(now: datetime) -> None:
    Rule.objects.update(evaluated_at=now + AHEAD, last_error="")
    alerts = next(one for one in doctor.examine() if one.name == "alerts")
    assert not alerts.well
    health.look()
    assert components.components()[0].well
    KeptAnswer.objects.filter(name="components").update(taken_at=now + AHEAD)
    assert not components.components()[0].well
    assert "2 h in the future" in formatting.ago(now + AHEAD, now)
    assert formatting.duration(-3418) == "-56 min"


def test_a_rotation_of_the_master_key_goes_on(now: datetime) -> None:
    rotation = MasterKeyRotation(state=RotationState.RUNNING, beat_at=now + AHEAD)
    assert rewrap.is_overdue(rotation, now)


@pytest.mark.parametrize(
    ("state", "attempts", "usual"),
    [(CommandState.QUEUED, 0, 600), (CommandState.OFFERED, 3, 480), (CommandState.DELIVERED, 1, 600)],
)
def test_commands_are_offered(now: datetime, state: CommandState, attempts: int, usual: int) -> None:
    put_off = now + timedelta(seconds=usual)
    row = command(MeterFactory.create(), now, state=state, attempts=attempts, next_attempt_at=put_off)
    assert downlink.offer_at_once(now) == 0
    Command.objects.update(next_attempt_at=put_off + AHEAD)
    assert downlink.offer_at_once(now) == 1
    row.refresh_from_db()
    assert row.next_attempt_at == now


def test_limits_of_an_hour_and_a_day_are_not_used_up(now: datetime) -> None:
    meter = MeterFactory.create()
    given = command(meter, now)
    Command.objects.update(created_at=now + AHEAD)
    _, today = gap_recovery._given([meter.pk], [], now - timedelta(days=1), now)
    assert today[meter.pk] == 0
    wave = RotationWave.objects.create(name="w", rate_per_hour=60, failure_budget=1, algorithm=10, created_by="t")
    WaveMeter.objects.create(wave=wave, meter=meter, command=given)
    assert rollouts._allowed(wave, now) == 1
    Command.objects.update(created_at=now)
    RotationWave.objects.update(rate_per_hour=1)
    wave.refresh_from_db()
    assert rollouts._allowed(wave, now) == 0
