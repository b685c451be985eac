"""What is said of an alert, and to whom: a delivery is written for each channel, in the caller's transaction."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from django.conf import settings
from django.urls import reverse

from ami_headend.alerts.models import Alert, Channel, Delivery
from concentrators.verdicts import Severity

OPENED, REMINDED, RESOLVED, TEST = "alert.opened", "alert.reminded", "alert.resolved", "test"


def tell(alerts: Sequence[Alert], event: str, now: datetime) -> set[int]:
    """Write a delivery of an event to each enabled channel that wants the severity; gives those channels' ids.

    Three statements at most, whatever the number of alerts. An end is told without counting as told.
    """
    if not alerts:
        return set()
    channels = list(Channel.objects.filter(is_enabled=True))
    pairs = [(alert, channel) for alert in alerts for channel in channels if channel.least_severity <= alert.severity]
    _write(((channel, alert, event, body(alert, event, now)) for alert, channel in pairs), now)
    if event != RESOLVED:
        for alert in alerts:
            alert.notified_at = now
        Alert.objects.bulk_update(alerts, ["notified_at"])
    return {channel.pk for _, channel in pairs}


def test(channel: Channel, actor: str, now: datetime) -> None:
    """Write a delivery that only says that it is a test, and who asked for it."""
    content = {"type": TEST, "timestamp": now.isoformat(), "data": {"channel": channel.name, "asked_for_by": actor}}
    _write([(channel, None, TEST, content)], now)


def body(alert: Alert, event: str, now: datetime) -> dict[str, Any]:
    """The message as a webhook gets it (docs/operations.md describes it)."""
    return {
        "type": event,
        "timestamp": now.isoformat(),
        "data": {
            "id": alert.pk,
            "rule": alert.rule.name,
            "condition": alert.rule.condition,
            "severity": Severity(alert.severity).name.lower(),
            "subject": {"kind": alert.subject_kind, "id": alert.subject_id or None, "name": alert.subject},
            "summary": alert.summary,
            "opened_at": alert.opened_at.isoformat(),
            "resolved_at": alert.resolved_at.isoformat() if alert.resolved_at else None,
            "url": f"{settings.PUBLIC_URL}{reverse('admin:alert', args=[alert.pk])}" if settings.PUBLIC_URL else None,
        },
    }


def _write(rows: Iterable[tuple[Channel, Alert | None, str, dict[str, Any]]], now: datetime) -> None:
    Delivery.objects.bulk_create(
        Delivery(channel=channel, alert=alert, event=event, body=content, created_at=now, due_at=now)
        for channel, alert, event, content in rows
    )
