"""An alert's messages, whatever happens in any order: what receivers took last is the truth, or a message is due.

The rules, the store and the lease are the real ones; the network is a list for each receiver, and the clock is turned
by hand. Attempts fail, answers are lost, workers die before and after the receiver took the message, or come back late.
"""

import itertools
import math
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import pytest
from django.db import transaction
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from ami_headend.alerts import channels, delivery, evaluation, handling, reminders_store, rules
from ami_headend.alerts.conditions import SEARCHES, Search
from ami_headend.alerts.conditions.finding import Finding, Findings
from ami_headend.alerts.models import Alert, Channel, Condition, Conversation, Delivery, Rule, SubjectKind
from ami_headend.alerts.reminders import MessageType, Word
from ami_headend.core.webhook_exchange import WebhookError
from keyvault.audit.chain import Actor
from tests.alerts.conftest import only

pytestmark = pytest.mark.django_db

ANN = Actor("ann", "192.0.2.7")
MINUTE = timedelta(minutes=1)
START = datetime(2026, 11, 29, 6, tzinfo=UTC)
MANY = 3  # so many subjects at once have an alert each
LOST = WebhookError("no answer", is_down=False)


class Taken(NamedTuple):
    """What a receiver took: a message's id, its event, and of how many subjects."""

    message: int
    event: MessageType
    subjects: int


class History(RuleBasedStateMachine):
    """Acts of the world, of workers, of receivers and of people, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.transaction = transaction.atomic()
        self.transaction.__enter__()
        self.now = START
        self.silent: set[int] = set()
        self.took: dict[tuple[int, int, str], list[Taken]] = defaultdict(list)
        self.is_certain: dict[tuple[int, int, str], bool] = defaultdict(lambda: True)
        self.late: list[Delivery] = []
        self.snoozes: dict[int, int] = defaultdict(int)

    @initialize(quiet=st.sampled_from([3, 20, 240, 720]))
    def found(self, quiet: int) -> None:
        SEARCHES[Condition.SILENT_METER] = Search(self._find, 60)
        self.rule = only(Condition.SILENT_METER, quiet_minutes=quiet, severity=20)
        for name, kind, address, severity in (
            ("duty", "webhook", "https://duty.example/", 20),
            ("critical", "webhook", "https://critical.example/", 30),
            ("post", "email", "ann@a.example, bob@b.example", 10),
        ):
            channel = Channel(name=name, kind=kind, address=address, least_severity=severity)
            channels.save(channel, ANN, self.now)

    def _find(self, rule: Rule, open_ids: Any, now: datetime) -> Findings:
        listed = sorted(self.silent, key=lambda one: (one not in open_ids, one))
        return Findings(len(listed), [Finding(SubjectKind.METER, one, f"SN-{one}", "silent") for one in listed])

    # --- the world -------------------------------------------------------------------------------

    @rule(silent=st.sampled_from([set(), {1}]) | st.sets(st.integers(1, 9)))
    def falls_silent(self, silent: set[int]) -> None:
        self.silent = silent
        self.evaluates()

    @rule(times=st.integers(2, 5))
    def flaps(self, times: int) -> None:
        for number in range(times):
            self.falls_silent({1} if number % 2 == 0 else set())
            self.passes_time(1)

    @rule(minutes=st.sampled_from([1, 2, 5, 21, 90, 300, 1_000]))
    def passes_time(self, minutes: int) -> None:
        self.now += minutes * MINUTE

    @rule()
    def evaluates(self) -> None:
        Rule.objects.filter(pk=self.rule.pk).update(evaluated_at=None)
        evaluation.evaluate(self.now)
        self.rule.refresh_from_db()
        assert self.rule.last_error == ""

    @rule()
    def sweeps(self) -> None:
        reminders_store.settle_due(self.now)

    # --- workers and receivers -------------------------------------------------------------------

    @rule(
        channel=st.sampled_from(["duty", "critical", "post"]),
        outcome=st.sampled_from(
            ["takes", "takes", "refuses", "answer is lost", "dies before", "dies after", "is late"]
        ),
    )
    def delivers(self, channel: str, outcome: str) -> None:
        claimed = delivery.claim(Channel.objects.get(name=channel).pk, self.now)
        if claimed is None:
            return
        assert claimed.alert is not None
        truth = Word.OVER if claimed.alert.resolved_at else Word.OPEN
        assert MessageType(claimed.event).word == truth, "a message was sent that was not true any more"
        who = _who(claimed)
        self.is_certain[who] &= outcome == "takes"
        if outcome in ("takes", "answer is lost", "dies after", "is late"):
            self.took[who].append(Taken(claimed.pk, MessageType(claimed.event), claimed.body["data"]["subjects"]))
        if outcome == "takes":
            delivery.store(claimed, None, self.now)
        elif outcome in ("refuses", "answer is lost"):
            delivery.store(claimed, LOST, self.now)
        elif outcome == "is late":
            self.late.append(claimed)

    @precondition(lambda self: self.late)
    @rule()
    def stores_late(self) -> None:
        delivery.store(self.late.pop(0), None, self.now)

    # --- people ----------------------------------------------------------------------------------

    @rule(
        data=st.data(), act=st.sampled_from(["acknowledge", "snooze", "wake"]), minutes=st.sampled_from([4, 60, 1_400])
    )
    def handles(self, data: st.DataObject, act: str, minutes: int) -> None:
        ids = list(Alert.objects.filter(resolved_at=None).order_by("pk").values_list("pk", flat=True))
        if not ids:
            return
        chosen = [data.draw(st.sampled_from(ids))]
        if act == "acknowledge":
            handling.acknowledge(chosen, "ann", "", self.now)
        elif act == "snooze":
            handling.snooze(chosen, self.now + minutes * MINUTE, "ann", "", self.now)
            self.snoozes[chosen[0]] += 1
        else:
            handling.wake(chosen, "ann", self.now)

    @rule(name=st.sampled_from(["duty", "critical", "post"]))
    def switches_channel(self, name: str) -> None:
        channel = Channel.objects.get(name=name)
        channel.is_enabled = not channel.is_enabled
        channels.save(channel, ANN, self.now)

    @rule(address=st.sampled_from(["ann@a.example", "ann@a.example, bob@b.example", "bob@b.example, eve@c.example"]))
    def changes_addresses(self, address: str) -> None:
        channel = Channel.objects.get(name="post")
        channel.address = address
        channels.save(channel, ANN, self.now)

    @rule(severity=st.sampled_from([20, 30]))
    def changes_severity(self, severity: int) -> None:
        self.rule.severity = severity
        rules.save(self.rule, ANN, self.now)

    @rule()
    def switches_rule(self) -> None:
        self.rule.is_enabled = not self.rule.is_enabled
        rules.save(self.rule, ANN, self.now)

    # --- what holds ------------------------------------------------------------------------------

    @invariant()
    def what_is_not_told_is_due(self) -> None:
        waiting = Delivery.objects.filter(delivered_at=None, given_up_at=None)
        due = {_who(one) for one in waiting} | {_who(one) for one in Conversation.objects.exclude(look_at=None)}
        for alert, channel, who in self._hearing():
            if not self._is_told(alert, channel, who):
                assert who in due, f"{who} of {alert} was told {self._last(who)}"

    @invariant()
    def no_more_is_said_than_the_quiet_time_allows(self) -> None:
        quiet = self.rule.quiet_minutes * MINUTE if hasattr(self, "rule") else MINUTE
        allowed = 2 + math.ceil(math.log(max(1, quiet / timedelta(minutes=5)), 4))
        written: dict[tuple[int, int, str], list[datetime]] = defaultdict(list)
        for one in Delivery.objects.exclude(event__in=(MessageType.RESOLVED.value, MessageType.TEST.value)).order_by(
            "pk"
        ):
            written[_who(one)].append(one.created_at)
        for who, times in written.items():
            for at in times:
                within = sum(at <= other < at + quiet for other in times)
                assert within <= allowed + self.snoozes[who[0]], f"{who}: {times}"

    @invariant()
    def messages_alternate(self) -> None:
        for who, took in self.took.items():
            if not self.is_certain[who]:
                continue
            assert len({one.message for one in took}) == len(took)
            for before, after in itertools.pairwise(one.event for one in took):
                assert (after == MessageType.OPENED) == (before == MessageType.RESOLVED), took

    def teardown(self) -> None:
        try:
            if hasattr(self, "rule"):
                self._comes_to_rest()
        finally:
            transaction.set_rollback(True)
            self.transaction.__exit__(None, None, None)

    def _comes_to_rest(self) -> None:
        """Nothing changes any more, and everybody answers: then everybody knows the truth, and nothing waits."""
        while self.late:
            self.stores_late()
        for _ in range(4):
            self.passes_time(1_500)
            self.evaluates()
            self.sweeps()
            while any(self._delivered(channel) for channel in Channel.objects.all()):
                pass
        assert not Delivery.objects.filter(delivered_at=None, given_up_at=None).exists()
        for alert, channel, who in self._hearing():
            assert self._is_told(alert, channel, who), f"{who} of {alert} was told {self._last(who)}"
            last = self._last(who)
            if last is not None and alert.resolved_at is None:
                assert alert.subjects < 2 * last.subjects

    def _delivered(self, channel: Channel) -> bool:
        claimed = delivery.claim(channel.pk, self.now)
        if claimed is None:
            return False
        self.took[_who(claimed)].append(Taken(claimed.pk, MessageType(claimed.event), claimed.body["data"]["subjects"]))
        delivery.store(claimed, None, self.now)
        return True

    def _hearing(self) -> list[tuple[Alert, Channel, tuple[int, int, str]]]:
        """Each alert with each receiver that is to hear of it."""
        enabled = list(Channel.objects.filter(is_enabled=True))
        return [
            (alert, channel, (alert.pk, channel.pk, recipient))
            for alert in Alert.objects.select_related("rule")
            for channel in enabled
            for recipient in channel.recipients
        ]

    def _last(self, who: tuple[int, int, str]) -> Taken | None:
        return self.took[who][-1] if self.took[who] else None

    def _is_told(self, alert: Alert, channel: Channel, who: tuple[int, int, str]) -> bool:
        """Whether the receiver's last word is the truth, or it has none and is to have none."""
        last = self._last(who)
        if alert.resolved_at is not None:
            return last is None or last.event == MessageType.RESOLVED
        if channel.least_severity > alert.severity or (last is not None and last.event != MessageType.RESOLVED):
            return True
        return last is None and alert.acknowledged_at is not None


def _who(one: Delivery | Conversation) -> tuple[int, int, str]:
    assert one.alert_id is not None
    assert one.channel_id is not None
    return one.alert_id, one.channel_id, one.recipient


@pytest.fixture(autouse=True)
def _put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine looks for its own silence; few subjects are very many."""
    monkeypatch.setitem(SEARCHES, Condition.SILENT_METER, SEARCHES[Condition.SILENT_METER])
    monkeypatch.setattr(evaluation, "SUBJECTS_MAX", MANY)


def _run(**more: Any) -> None:
    run_state_machine_as_test(
        History, settings=settings(deadline=None, suppress_health_check=list(HealthCheck), **more)
    )


@pytest.mark.timeout(600)
def test_the_last_word_is_the_truth_or_a_message_is_due() -> None:
    _run(max_examples=8, stateful_step_count=25, derandomize=True)


@pytest.mark.soak
@pytest.mark.timeout(3_600)
def test_the_last_word_is_the_truth_for_long() -> None:
    """Other lives every time."""
    _run(max_examples=150, stateful_step_count=60, database=None)


@pytest.fixture
def history() -> History:
    machine = History()
    machine.found(240)
    return machine


def test_whose_answer_was_lost_is_told_of_the_end(history: History) -> None:
    history.falls_silent({1})
    history.delivers("duty", "answer is lost")
    history.falls_silent(set())
    history.what_is_not_told_is_due()
    history.teardown()


def test_a_worker_that_comes_back_late_leaves_no_wrong_word(history: History) -> None:
    """It had sent the beginning, slept, and stored that only after another had sent the end."""
    history.falls_silent({1})
    history.delivers("duty", "is late")
    history.passes_time(21)
    history.falls_silent(set())
    history.delivers("duty", "takes")
    history.stores_late()
    assert Conversation.objects.get(channel__name="duty").word == Word.UNSURE
    history.teardown()
