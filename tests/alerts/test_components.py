"""Alerts of components, and web hosts that stand in for workers."""

from datetime import datetime, timedelta

import pytest
from django.utils import timezone
from pytest_django import Settings

from ami_headend.alerts import standing_in
from ami_headend.alerts.models import Alert, Channel, ChannelKind, Condition, Delivery, Rule, SubjectKind
from ami_headend.alerts.parameters import ESSENTIAL, RESERVES
from ami_headend.alerts.standing_in import StandIn
from ami_headend.health import components, doctor
from ami_headend.health.results import CheckResult
from ami_headend.models import KeptAnswer
from tests.alerts.conftest import evaluated, only

pytestmark = pytest.mark.django_db

MINUTE = timedelta(minutes=1)
NOW = datetime.fromisoformat("2026-03-01T12:00:00+00:00")


def found(monkeypatch: pytest.MonkeyPatch, **failing: str) -> None:
    """Somebody looks, and finds all well but these."""
    results = [
        CheckResult(name, name not in failing, failing.get(name, "well")) for name in ("broker", "standbys", "siem")
    ]
    monkeypatch.setattr(doctor, "examine", lambda: results)
    components.look()


def test_each_component_that_is_not_well_for_long_has_its_alert(monkeypatch: pytest.MonkeyPatch) -> None:
    rule = only(Condition.COMPONENT_DOWN, selector=ESSENTIAL)
    found(monkeypatch, broker="Redis accepts nothing", standbys="1 of 2 follow", siem="100 events wait")
    assert evaluated(rule, NOW) == []
    assert evaluated(rule, NOW + MINUTE) == []
    [alert] = evaluated(rule, NOW + 2 * MINUTE)
    assert (alert.subject_kind, alert.subject) == (SubjectKind.COMPONENT, "broker")
    assert alert.summary == "Redis accepts nothing"
    found(monkeypatch)
    assert evaluated(rule, NOW + 3 * MINUTE) == []
    found(monkeypatch, broker="Redis accepts nothing")
    assert evaluated(rule, NOW + 4 * MINUTE) == []  # it counts anew


def test_those_that_are_only_a_reserve_have_a_rule_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    rule = only(Condition.COMPONENT_DOWN, selector=RESERVES, period_minutes=0)
    found(monkeypatch, broker="Redis accepts nothing", standbys="1 of 2 follow", siem="100 events wait")
    assert [alert.subject for alert in evaluated(rule)] == ["standbys"]


def test_several_are_several_alerts_that_end_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    rule = only(Condition.COMPONENT_DOWN, selector=RESERVES, period_minutes=0)
    results = [CheckResult(name, False, "no") for name in ("hosts", "standbys")]
    monkeypatch.setattr(doctor, "examine", lambda: results)
    components.look()
    assert [alert.subject for alert in evaluated(rule)] == ["hosts", "standbys"]
    del results[0]
    components.look()
    assert [alert.subject for alert in evaluated(rule)] == ["standbys"]


def test_that_nobody_looks_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    rule = only(Condition.COMPONENT_DOWN, selector=ESSENTIAL, period_minutes=0)
    assert [alert.subject for alert in evaluated(rule)] == ["schedule and workers"]
    found(monkeypatch)
    assert evaluated(rule) == []
    KeptAnswer.objects.update(taken_at=timezone.now() - 5 * MINUTE)
    assert [alert.subject for alert in evaluated(rule)] == ["schedule and workers"]


def test_when_a_web_host_is_to_evaluate(settings: Settings) -> None:
    settings.ALERT_STAND_IN_AFTER_S, settings.ALERT_EVALUATE_EVERY_S = 120, 30
    assert standing_in.is_due(None, None, NOW)
    assert not standing_in.is_due(NOW - MINUTE, None, NOW)
    assert standing_in.is_due(NOW - 2 * MINUTE, None, NOW)
    assert standing_in.is_due(NOW - MINUTE, NOW - MINUTE, NOW)  # it goes on at the usual pace
    assert not standing_in.is_due(NOW - MINUTE / 4, NOW - MINUTE / 4, NOW)
    assert not standing_in.is_due(NOW - MINUTE, NOW - 2 * MINUTE, NOW)  # somebody else does it again


def test_a_web_host_stands_in_and_gives_way(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> None:
    settings.EMAIL_URL = "smtp://mail.example"
    rule = only(Condition.COMPONENT_DOWN, selector=ESSENTIAL, period_minutes=0)
    channel = Channel.objects.create(
        name="duty", kind=ChannelKind.EMAIL, address="duty@example.org", least_severity=rule.severity
    )
    monkeypatch.setattr(doctor, "examine", lambda: [CheckResult("workers", False, "none is running")])
    web = StandIn()
    now = timezone.now()
    Rule.objects.update(evaluated_at=now - MINUTE)
    web.step(now)
    assert not Alert.objects.exists()
    Rule.objects.update(evaluated_at=now - 3 * MINUTE)
    web.step(now)
    assert [alert.subject for alert in Alert.objects.all()] == ["workers"]
    assert Delivery.objects.get(channel=channel).delivered_at is not None
    monkeypatch.setattr(doctor, "examine", lambda: [CheckResult("workers", True, "two")])
    web.step(now + MINUTE)
    assert Alert.objects.get().resolved_at is not None
    Rule.objects.update(evaluated_at=now + 1.5 * MINUTE)  # by a worker
    monkeypatch.setattr(standing_in, "stand_in", lambda now: pytest.fail("a worker is there again"))
    web.step(now + 2 * MINUTE)


def test_without_rules_nobody_stands_in(monkeypatch: pytest.MonkeyPatch) -> None:
    Rule.objects.update(is_enabled=False)
    monkeypatch.setattr(standing_in, "stand_in", lambda now: pytest.fail("there is nothing to evaluate"))
    StandIn().step(timezone.now())
