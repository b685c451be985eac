"""The life of an alert: one for each rule and subject, told once, told again, snoozed, ended, begun again."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import DatabaseError, IntegrityError, transaction
from django.utils import timezone
from pytest_django import Settings

from ami_headend.alerts import evaluation, handling, queries, reminders_store, retention, tasks
from ami_headend.alerts.conditions import SEARCHES, Search
from ami_headend.alerts.conditions.finding import Finding, Findings
from ami_headend.alerts.handling import HandlingError
from ami_headend.alerts.models import Alert, Channel, Condition, Conversation, Delivery, Rule, Step, SubjectKind
from tests.alerts.conftest import evaluated, only, told
from tests.concentrators.statements import counting

pytestmark = pytest.mark.django_db

MINUTE = timedelta(minutes=1)
QUIET = 240 * MINUTE


class World:
    """Which meters are silent; what the condition finds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.silent: list[int] = []
        self.fails = False
        monkeypatch.setitem(SEARCHES, Condition.SILENT_METER, Search(self.find, 60))

    def find(self, rule: Rule, open_ids: Any, now: datetime) -> Findings:
        if self.fails:
            raise DatabaseError("the database fell over\nand more of it")
        listed = sorted(self.silent, key=lambda one: (one not in open_ids, one))
        found = [Finding(SubjectKind.METER, one, f"SN-{one}", f"silent at {now:%H:%M}") for one in listed]
        return Findings(len(self.silent), found)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


@pytest.fixture
def rule(db: None) -> Rule:
    return only(Condition.SILENT_METER, quiet_minutes=240)


@pytest.fixture
def channel(db: None) -> Channel:
    return Channel.objects.create(name="duty", kind="webhook", address="https://duty.example/")


def history(alert: Alert) -> list[str]:
    return list(alert.steps.order_by("pk").values_list("step", flat=True))


def test_one_alert_for_each_subject_however_often_it_is_found(world: World, rule: Rule, channel: Channel) -> None:
    world.silent = [1, 2]
    now = timezone.now()
    first = evaluated(rule, now)
    assert [alert.subject for alert in first] == ["SN-1", "SN-2"]
    assert told() == ["alert.opened"] * 2
    again = evaluated(rule, now + MINUTE)
    assert [alert.pk for alert in again] == [alert.pk for alert in first]
    assert (again[0].opened_at, again[0].seen_at) == (now, now + MINUTE)
    assert told() == []
    twin = again[0]
    twin.pk = None
    with pytest.raises(IntegrityError), transaction.atomic():
        twin.save(force_insert=True)


def test_it_ends_by_itself_and_that_is_told(world: World, rule: Rule, channel: Channel) -> None:
    world.silent = [1, 2]
    now = timezone.now()
    (one, _two) = evaluated(rule, now)
    told()
    world.silent = [2]
    assert [alert.subject_id for alert in evaluated(rule, now + MINUTE)] == [2]
    one.refresh_from_db()
    assert one.resolved_at == now + MINUTE
    assert history(one) == [Step.OPENED, Step.RESOLVED]
    assert told() == ["alert.resolved"]


def test_it_is_told_again_after_the_quiet_time_until_acknowledged(world: World, rule: Rule, channel: Channel) -> None:
    world.silent = [1]
    now = timezone.now()
    (alert,) = evaluated(rule, now)
    told()
    evaluated(rule, now + QUIET - MINUTE)
    assert told() == []
    evaluated(rule, now + QUIET)
    assert told() == ["alert.reminded"]
    assert handling.acknowledge([alert.pk], "ann", "on my way", now + QUIET) == 1
    assert handling.acknowledge([alert.pk], "bob", "", now + QUIET) == 0
    evaluated(rule, now + 3 * QUIET)
    assert told() == []
    alert.refresh_from_db()
    assert alert.acknowledged_by == "ann"
    assert history(alert) == [Step.OPENED, Step.REMINDED, Step.ACKNOWLEDGED]


def test_a_flapping_alert_is_one_and_its_last_word_is_true(world: World, rule: Rule, channel: Channel) -> None:
    """It was told once as open and three times as over, and stayed so while it was open."""
    now = timezone.now()
    words = []
    for minute in range(7):
        world.silent = [1] if minute % 2 == 0 else []
        evaluated(rule, now + minute * MINUTE)
        reminders_store.settle_due(now + minute * MINUTE)
        words.append(told())
    alert = Alert.objects.get()
    assert history(alert) == [Step.OPENED, *[Step.RESOLVED, Step.REOPENED] * 3]
    assert words == [["alert.opened"], ["alert.resolved"], [], [], [], [], ["alert.opened"]]
    world.silent = []
    evaluated(rule, now + 7 * MINUTE)
    assert told() == ["alert.resolved"]
    world.silent = [1]
    evaluated(rule, now + 8 * MINUTE)
    assert Conversation.objects.get().look_at == now + 26 * MINUTE  # after 5 minutes, then after 20, 80, 240
    evaluated(rule, now + 25 * MINUTE)
    assert told() == []
    reminders_store.settle_due(now + 26 * MINUTE)
    assert told() == ["alert.opened"]
    evaluated(rule, now + 26 * MINUTE + QUIET)
    assert told() == ["alert.reminded"]


def test_a_second_outage_of_more_within_the_quiet_time_is_told(world: World, rule: Rule, channel: Channel) -> None:
    """63 were told to nobody: an alert for 25 had been told within the quiet time."""
    now = timezone.now()
    world.silent = list(range(25))
    evaluated(rule, now)
    assert told() == ["alert.opened"]
    world.silent = []
    evaluated(rule, now + MINUTE)
    assert told() == ["alert.resolved"]
    world.silent = list(range(63))
    (alert,) = evaluated(rule, now + 2 * MINUTE)
    assert (alert.subject, alert.subjects) == ("63 meters", 63)
    assert told() == []
    reminders_store.settle_due(now + 5 * MINUTE)
    assert told() == ["alert.opened"]
    assert Delivery.objects.latest("pk").body["data"]["subject"]["name"] == "63 meters"


def test_what_grows_to_twice_as_many_is_told_though_acknowledged(world: World, rule: Rule, channel: Channel) -> None:
    now = timezone.now()
    world.silent = list(range(25))
    (alert,) = evaluated(rule, now)
    told()
    handling.acknowledge([alert.pk], "ann", "", now)
    world.silent = list(range(49))
    evaluated(rule, now + 10 * MINUTE)
    assert told() == []
    world.silent = list(range(50))
    evaluated(rule, now + 11 * MINUTE)
    assert told() == ["alert.reminded"]
    evaluated(rule, now + 3 * QUIET)
    assert told() == []


def test_what_begins_again_after_its_quiet_time_is_another(world: World, rule: Rule, channel: Channel) -> None:
    now = timezone.now()
    world.silent = [1]
    evaluated(rule, now)
    told()
    world.silent = []
    evaluated(rule, now + MINUTE)
    told()
    world.silent = [1]
    evaluated(rule, now + 3 * QUIET)
    assert Alert.objects.count() == 2
    assert told() == ["alert.opened"]


def test_what_begins_again_is_acknowledged_anew(world: World, rule: Rule) -> None:
    now = timezone.now()
    world.silent = [1]
    (alert,) = evaluated(rule, now)
    handling.acknowledge([alert.pk], "ann", "", now)
    world.silent = []
    evaluated(rule, now + MINUTE)
    world.silent = [1]
    (again,) = evaluated(rule, now + 2 * MINUTE)
    assert again.pk == alert.pk
    assert again.acknowledged_at is None


def test_put_off_until_later(world: World, rule: Rule, channel: Channel) -> None:
    now = timezone.now()
    world.silent = [1]
    (alert,) = evaluated(rule, now)
    told()
    with pytest.raises(HandlingError, match="in the future"):
        handling.snooze([alert.pk], now, "ann", "", now)
    handling.snooze([alert.pk], now + 60 * MINUTE, "ann", "works on the line", now)
    assert list(queries.open_alerts(now + MINUTE)) == []
    assert list(queries.snoozed_alerts(now + MINUTE)) == [alert]
    evaluated(rule, now + 59 * MINUTE)
    assert told() == []
    evaluated(rule, now + 60 * MINUTE)  # before the quiet time is over: somebody said when
    assert told() == ["alert.reminded"]
    evaluated(rule, now + 61 * MINUTE)
    assert told() == []


def test_what_is_put_off_stays_so_when_it_begins_again(world: World, rule: Rule, channel: Channel) -> None:
    now = timezone.now()
    world.silent = [1]
    (alert,) = evaluated(rule, now)
    handling.snooze([alert.pk], now + 10 * QUIET, "ann", "", now)
    world.silent = []
    evaluated(rule, now + MINUTE)
    told()
    world.silent = [1]
    (later,) = evaluated(rule, now + 2 * QUIET)
    assert later.pk != alert.pk
    assert later.snoozed_until == now + 10 * QUIET
    assert told() == []
    assert handling.wake([later.pk], "ann", now + 2 * QUIET) == 1
    evaluated(rule, now + 2 * QUIET)
    assert told() == ["alert.opened"]


def test_very_many_are_one(world: World, rule: Rule, channel: Channel) -> None:
    now = timezone.now()
    world.silent = [7, 9]
    evaluated(rule, now)
    world.silent = list(range(1_000))
    alerts = evaluated(rule, now + MINUTE)
    assert [(alert.subject_kind, alert.subject_id) for alert in alerts] == [("meter", 7), ("meter", 9), ("fleet", 0)]
    assert alerts[-1].summary == "1,000 meters at once, among them SN-7, SN-9, SN-0"
    assert told() == ["alert.opened"] * 3
    gathered = alerts[-1].gathered
    assert (gathered.kind, sorted(gathered.ids)) == ("meter", world.silent)
    world.silent = list(range(12, 24))
    (many,) = evaluated(rule, now + 2 * MINUTE)  # around the limit it does not go back and forth
    assert (many.pk, many.subject, many.subjects) == (alerts[-1].pk, "12 meters", 12)
    world.silent = [9, 11]
    assert [alert.subject_id for alert in evaluated(rule, now + 3 * MINUTE)] == [9, 11]


def test_a_rule_that_fails_leaves_its_alerts_and_the_others(world: World, rule: Rule) -> None:
    other = Rule.objects.get(condition=Condition.QUEUE_LAG)
    Rule.objects.filter(pk=other.pk).update(is_enabled=True)
    world.silent = [1]
    evaluated(rule)
    world.fails = True
    Rule.objects.update(evaluated_at=None)
    evaluation.evaluate(timezone.now())
    rule.refresh_from_db()
    other.refresh_from_db()
    assert rule.last_error == "DatabaseError: the database fell over"
    assert Alert.objects.get().resolved_at is None
    assert other.evaluated_at is not None
    world.fails = False
    evaluated(rule)


def test_a_rule_rests_as_its_condition_says_and_in_proportion_to_its_cost(world: World, rule: Rule) -> None:
    now = timezone.now()
    evaluated(rule, now)
    assert not evaluation.is_due(rule, now + timedelta(seconds=59))
    assert evaluation.is_due(rule, now + timedelta(seconds=60))
    rule.took_ms = 30_000
    assert not evaluation.is_due(rule, now + timedelta(seconds=599))
    assert evaluation.is_due(rule, now + timedelta(seconds=600))


def test_only_channels_that_want_the_severity_are_told(world: World, rule: Rule, channel: Channel) -> None:
    Channel.objects.create(name="critical only", kind="webhook", address="https://a.example/", least_severity=30)
    Channel.objects.create(name="off", kind="webhook", address="https://b.example/", is_enabled=False)
    world.silent = [1]
    Rule.objects.update(evaluated_at=None)
    assert evaluation.evaluate(timezone.now()) == {channel.pk}
    body = Delivery.objects.get().body
    assert body["type"] == "alert.opened"
    assert body["data"]["subject"] == {"kind": "meter", "id": 1, "name": "SN-1"}
    assert body["data"]["severity"] == "warning"
    assert body["data"]["url"] is None


def test_most_urgent_first(world: World, rule: Rule) -> None:
    now = timezone.now()
    world.silent = [1, 2, 3]
    one, two, three = evaluated(rule, now)
    Alert.objects.filter(pk=three.pk).update(severity=30)
    handling.acknowledge([one.pk], "ann", "", now)
    assert [alert.pk for alert in queries.open_alerts(now)] == [three.pk, two.pk, one.pk]
    assert queries.count_by_severity(now) == {30: 1, 20: 2}


def test_a_note_is_kept_and_bad_ones_are_refused(world: World, rule: Rule) -> None:
    world.silent = [1]
    (alert,) = evaluated(rule)
    handling.add_note(alert.pk, "ann", "asked the installer", timezone.now())
    assert alert.steps.get(step=Step.NOTED).note == "asked the installer"
    for text in (" ", "x" * 1001):
        with pytest.raises(HandlingError):
            handling.add_note(alert.pk, "ann", text, timezone.now())


def test_switching_a_rule_off_ends_its_alerts(world: World, rule: Rule, channel: Channel) -> None:
    world.silent = [1]
    (alert,) = evaluated(rule)
    told()
    assert evaluation.end_alerts(rule, timezone.now(), "ann") == {channel.pk}
    step = alert.steps.get(step=Step.RESOLVED)
    assert (step.actor, step.note) == ("ann", "Meter is silent was switched off")


def test_the_statements_do_not_grow_with_what_was_found(world: World, rule: Rule, channel: Channel) -> None:
    def cost(silent: list[int], minute: int) -> int:
        world.silent = silent
        Rule.objects.filter(pk=rule.pk).update(evaluated_at=None)
        with counting() as statements:
            evaluation.evaluate(timezone.now() + minute * MINUTE)
            return len(statements)

    many = list(range(2, 17))
    few = [cost([1], 2), cost([1], 4), cost([1], 250), cost([], 252), cost([1], 254)]
    cost([], 1_000)
    assert [cost(many, 2_000), cost(many, 2_002), cost(many, 2_250), cost([], 2_252), cost(many, 2_254)] == few


def test_what_ended_long_ago_is_forgotten_with_all_that_hangs_on_it(
    world: World, rule: Rule, channel: Channel, settings: Settings
) -> None:
    world.silent = [1, 2, 3, 4]
    now = timezone.now()
    _, unsent, put_off, still_open = evaluated(rule, now)
    told()
    world.silent = [4]
    evaluated(rule, now + MINUTE)
    settings.ALERT_KEEP_DAYS = 30
    later = now + timedelta(days=30) + 2 * MINUTE
    Alert.objects.filter(pk=put_off.pk).update(snoozed_until=later + MINUTE)
    Delivery.objects.exclude(alert=unsent).update(delivered_at=now)
    assert retention.purge(later - 2 * MINUTE) == 0
    assert retention.purge(later) == 1
    assert set(Alert.objects.values_list("pk", flat=True)) == {unsent.pk, put_off.pk, still_open.pk}
    Delivery.objects.update(delivered_at=now)
    tasks.purge_alerts()
    assert retention.purge(later + 2 * MINUTE) == 2
    assert not Delivery.objects.exclude(alert=still_open).exists()
