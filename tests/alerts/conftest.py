"""A queue that only notes what is put into it, and rules one at a time."""

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from ami_headend.alerts import delivery, evaluation, tasks
from ami_headend.alerts.models import Alert, Channel, Condition, Delivery, Rule, StoredMark
from concentrators.tasks import verify_backlog


@pytest.fixture(autouse=True)
def enqueued(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Ids of channels whose delivery was enqueued; no worker runs here, so nothing reaches the broker."""
    ids: list[int] = []
    monkeypatch.setattr(tasks.deliver, "apply_async", lambda args, **_: ids.append(args[0]))
    monkeypatch.setattr(verify_backlog, "apply_async", lambda *_, **__: None)
    return ids


@pytest.fixture(autouse=True)
def _marked_long_ago(db: None) -> None:
    """There have been alerts for a year: the note that the migration made is not of this minute."""
    first = StoredMark.objects.order_by("at").values_list("pk")[:1]
    StoredMark.objects.filter(pk__in=first).update(at=timezone.now() - timedelta(days=365))


def only(condition: Condition, **changes: Any) -> Rule:
    """The default rule of a condition, with other numbers; all others are switched off."""
    selected = Rule.objects.filter(condition=condition)
    if "selector" in changes:
        selected = selected.filter(selector=changes["selector"])
    rule = selected.get()
    Rule.objects.exclude(pk=rule.pk).update(is_enabled=False)
    for name, value in changes.items():
        setattr(rule, name, value)
    rule.save()
    return rule


def evaluated(rule: Rule, at: Any = None) -> list[Alert]:
    """Evaluates a rule, rested or not; gives its open alerts."""
    Rule.objects.filter(pk=rule.pk).update(evaluated_at=None)
    evaluation.evaluate(at or timezone.now())
    rule.refresh_from_db()
    assert rule.last_error == ""
    return list(Alert.objects.filter(rule=rule, resolved_at=None).order_by("pk"))


def told() -> list[str]:
    """Every receiver takes what there is for it; gives the types of the messages, channel by channel."""
    events = []
    for channel in Channel.objects.order_by("pk"):
        while (waiting := Delivery.objects.filter(channel=channel, delivered_at=None, given_up_at=None)).exists():
            claimed = delivery.claim(channel.pk, waiting.latest("due_at").due_at)
            if claimed is not None:
                delivery.store(claimed, None, claimed.due_at)
                events.append(claimed.event)
    return events
