"""The content of messages, as webhooks get it (docs/operations/alerts.md describes it).

Which message is sent, and when, is decided in ``reminders``.
"""

from datetime import datetime
from typing import Any

from django.conf import settings
from django.urls import reverse

from ami_headend.alerts.models import Alert, Channel, Delivery
from ami_headend.alerts.reminders import MessageType
from concentrators.failures.kinds import Severity


def test(channel: Channel, actor: str, now: datetime) -> None:
    """Write a test message to each receiver of a channel. It says that it is a test, and who sent it."""
    content = {
        "type": MessageType.TEST,
        "timestamp": now.isoformat(),
        "data": {"channel": channel.name, "asked_for_by": actor},
    }
    Delivery.objects.bulk_create(
        Delivery(
            channel=channel,
            channel_name=channel.name,
            recipient=recipient,
            event=MessageType.TEST,
            body=content,
            created_at=now,
            due_at=now,
        )
        for recipient in channel.recipients
    )


def body(alert: Alert, event: MessageType, now: datetime) -> dict[str, Any]:
    """Return the message about the present state of an alert."""
    return {
        "type": event,
        "timestamp": now.isoformat(),
        "data": {
            "id": alert.pk,
            "rule": alert.rule.name,
            "condition": alert.rule.condition,
            "severity": Severity(alert.severity).name.lower(),
            "subject": {"kind": alert.subject_kind, "id": alert.subject_id or None, "name": alert.subject},
            "subjects": alert.subjects,
            "summary": alert.summary,
            "opened_at": alert.opened_at.isoformat(),
            "resolved_at": alert.resolved_at.isoformat() if alert.resolved_at else None,
            "url": f"{settings.PUBLIC_URL}{reverse('admin:alert', args=[alert.pk])}" if settings.PUBLIC_URL else None,
        },
    }
