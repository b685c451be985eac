"""What people do about alerts: acknowledge, snooze, wake, note. One or many at once."""

from collections.abc import Collection
from datetime import datetime

from django.db import transaction

from ami_headend.alerts import reminders_store
from ami_headend.alerts.models import Alert, AlertStep, Step
from ami_headend.core.text import NOTE_LENGTH


class HandlingError(ValueError):
    """The request makes no sense; the message says why. The caller's mistake."""


def acknowledge(ids: Collection[int], actor: str, note: str, now: datetime) -> int:
    """Acknowledge open alerts, so that nobody is reminded of them. Return the number of newly acknowledged ones."""
    return _step(ids, Step.ACKNOWLEDGED, actor, note, now, acknowledged_at=now, acknowledged_by=actor[:150])


def snooze(ids: Collection[int], until: datetime, actor: str, note: str, now: datetime) -> int:
    """Snooze open alerts until ``until``. If they are still open then, or begin again, receivers are reminded."""
    if until <= now:
        raise HandlingError("Alerts can only be snoozed until a time in the future.")
    note = f"until {until:%Y-%m-%d %H:%M} UTC{': ' if note else ''}{note}"
    return _step(ids, Step.SNOOZED, actor, note, now, snoozed_until=until)


def wake(ids: Collection[int], actor: str, now: datetime) -> int:
    """End the snooze of alerts."""
    return _step(ids, Step.WOKEN, actor, "", now, snoozed_until=None)


def add_note(alert_id: int, actor: str, text: str, now: datetime) -> None:
    """Add a note to an alert, open or not."""
    if not text.strip():
        raise HandlingError("A note needs a text.")
    _check(text)
    AlertStep.objects.create(alert_id=alert_id, at=now, step=Step.NOTED, actor=actor[:150], note=text)


@transaction.atomic
def _step(ids: Collection[int], step: Step, actor: str, note: str, now: datetime, **changes: object) -> int:
    _check(note)
    alerts = Alert.objects.select_for_update().filter(pk__in=ids, resolved_at=None).order_by("pk")
    if step == Step.ACKNOWLEDGED:
        alerts = alerts.filter(acknowledged_at=None)
    elif step == Step.WOKEN:
        alerts = alerts.filter(snoozed_until__gt=now)
    found = [alert.pk for alert in alerts]
    Alert.objects.filter(pk__in=found).update(**changes)
    AlertStep.objects.bulk_create(
        AlertStep(alert_id=alert_id, at=now, step=step, actor=actor[:150], note=note) for alert_id in found
    )
    reminders_store.settle_all(reminders_store.locked(found), now)  # the sweep sends the messages
    return len(found)


def _check(note: str) -> None:
    if len(note) > NOTE_LENGTH:
        raise HandlingError(f"A note has at most {NOTE_LENGTH:,} characters; this has {len(note):,}.")
