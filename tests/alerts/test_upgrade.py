"""A head-end that told of alerts before receivers had conversations goes on with what they were told."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection
from django.utils import timezone
from pytest_django import DjangoDbBlocker

from ami_headend.alerts import conversations
from ami_headend.alerts.models import Alert, Conversation, Delivery
from tests.flows import databases


@pytest.fixture(scope="module", autouse=True)
def own_database(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[None]:
    """A database that nobody else migrates."""
    with django_db_blocker.unblock(), databases.copied():
        yield


@pytest.fixture
def db() -> None:
    """Not pytest-django's: migrations commit."""


def _insert(table: str, **values: Any) -> int:
    names = ", ".join(values)
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO {table} ({names}) VALUES ({', '.join(['%s'] * len(values))}) RETURNING id", [*values.values()]
        )
        return int(cursor.fetchone()[0])


def test_what_was_told_before_is_known_and_what_was_on_its_way_is_written_anew() -> None:
    call_command("migrate", "alerts", "0003_backup_overdue", verbosity=0)
    now = timezone.now()
    with connection.cursor() as cursor:
        cursor.execute("SELECT id FROM alerts_rule WHERE name = 'Meter is silent'")
        rule = cursor.fetchone()[0]
    about = {"rule_id": rule, "severity": 20, "subject_kind": "meter", "summary": "silent", "acknowledged_by": ""}
    about |= {"opened_at": now, "seen_at": now, "notified_at": now}
    told = _insert("alerts_alert", subject_id=1, subject="told", **about)
    over = _insert("alerts_alert", subject_id=2, subject="over", resolved_at=now, **about)
    post = {"kind": "email", "address": "ann@a.example, bob@b.example", "least_severity": 20}
    channel = _insert("alerts_channel", name="post", is_enabled=True, created_at=now, **post)
    sent = {"channel_id": channel, "body": "{}", "created_at": now, "due_at": now, "attempts": 1, "last_error": ""}
    _insert("alerts_delivery", alert_id=told, event="alert.opened", delivered_at=now, **sent)
    _insert("alerts_delivery", alert_id=over, event="alert.resolved", **sent)

    call_command("migrate", verbosity=0)
    known = {(one.alert_id, one.recipient): one.word for one in Conversation.objects.all()}
    assert known == {
        (told, "ann@a.example"): "open",
        (told, "bob@b.example"): "open",
        (over, "ann@a.example"): "unsure",
        (over, "bob@b.example"): "unsure",
    }
    assert set(Delivery.objects.values_list("channel_name", flat=True)) == {"post"}
    conversations.settle_due(now + timedelta(seconds=30))
    waiting = Delivery.objects.filter(delivered_at=None, given_up_at=None)
    assert sorted(waiting.values_list("alert", "event", "recipient")) == [
        (over, "alert.resolved", "ann@a.example"),
        (over, "alert.resolved", "bob@b.example"),
    ]
    assert Alert.objects.count() == 2
