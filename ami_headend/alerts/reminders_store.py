"""Conversations in the database: ``reminders.settle`` decides, this module loads and stores.

Locks are taken in one order: channel, alerts by id, conversations by id, deliveries. The caller has locked the alerts.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from django.db import transaction
from django.db.models import Exists, OuterRef, Q

from ami_headend.alerts import notices
from ami_headend.alerts.models import Alert, AlertStep, Channel, ChannelKind, Conversation, Delivery, Step
from ami_headend.alerts.reminders import Facts, MessageType, PendingMessage, ReceiverState, Settlement, Word, settle
from ami_headend.core import clock

REPLACED = "no longer true: another message replaces it, or none"
LEASE = timedelta(minutes=2)  # longer than any exchange; the message of a worker that died is free again after it

_UNDELIVERED = Q(delivered_at=None, given_up_at=None)
_BATCH = 200


class _Row(NamedTuple):
    """A stored or new conversation with its alert, channel and pending message."""

    conversation: Conversation
    alert: Alert
    channel: Channel
    is_reachable: bool
    pending: Delivery | None


def locked(alerts: Iterable[int]) -> list[Alert]:
    """Return alerts with their rules, locked in the order of their ids."""
    rows = Alert.objects.select_for_update(of=("self",), no_key=True).select_related("rule")
    return list(rows.filter(pk__in=list(alerts)).order_by("pk"))


def settle_all(alerts: Sequence[Alert], now: datetime) -> set[int]:
    """Write, withdraw or put off messages about alerts that the caller has locked.

    Return the channels that have something to send. A fixed number of statements, whatever the number of alerts.
    """
    if not alerts:
        return set()
    rows = _rows(alerts)
    settled = [(row, _settle(row, now)) for row in rows]
    _withdraw([row.pending for row, what in settled if what.withdraw and row.pending is not None], now)
    new: list[Conversation] = []
    changed: list[Conversation] = []
    for row, what in settled:
        is_changed = _note(row.conversation, what)
        if row.conversation.pk is not None and is_changed:
            changed.append(row.conversation)
        elif row.conversation.pk is None and (what.say is not None or what.look_at is not None):
            new.append(row.conversation)
    Conversation.objects.bulk_create(new)
    Conversation.objects.bulk_update(changed, ["word", "subjects", "disturbed_at", "flaps", "look_at"])
    said = [(row, what.say) for row, what in settled if what.say is not None]
    Delivery.objects.bulk_create(_delivery(row, event, now) for row, event in said)
    reminded = {row.alert.pk: row.alert for row, event in said if event == MessageType.REMINDED}
    AlertStep.objects.bulk_create(AlertStep(alert=alert, at=now, step=Step.REMINDED) for alert in reminded.values())
    return {row.channel.pk for row, _ in said}


def settle_due(now: datetime) -> set[int]:
    """Settle the alerts whose conversations are due; return the channels that have messages to send."""
    channels: set[int] = set()
    while True:
        with transaction.atomic():
            due = Conversation.objects.filter(look_at__lte=now).order_by("look_at").values_list("alert", flat=True)
            alerts = locked(set(due[:_BATCH]))
            if not alerts:
                return channels
            channels |= settle_all(alerts, now)


def settle_channel(channel: Channel, now: datetime) -> set[int]:
    """Settle all conversations of a new or changed channel, in the caller's transaction."""
    unsettled = channel.conversations.filter(word__in=(Word.OPEN.value, Word.UNSURE.value)).values("alert")
    ids = Alert.objects.filter(Q(resolved_at=None) | Q(pk__in=unsettled)).values_list("pk", flat=True)
    return settle_all(locked(ids), now)


def awaited() -> Exists:
    """Match alerts about which some receiver has yet to take a message."""
    return Exists(Delivery.objects.filter(_UNDELIVERED, alert=OuterRef("pk")))


def is_under_way(delivery: Delivery, now: datetime) -> bool:
    """Whether a worker is sending it: it began less than LEASE ago, by a clock that was not set back since."""
    return clock.is_within(delivery.leased_at, LEASE, now)


def receiver_state(conversation: Conversation) -> ReceiverState:
    """Return what the receiver knows."""
    return ReceiverState(Word(conversation.word), conversation.subjects, conversation.disturbed_at, conversation.flaps)


def note(conversation: Conversation, what: ReceiverState) -> None:
    """Set what the receiver knows; not stored."""
    conversation.word, conversation.subjects = what.word.value, what.subjects
    conversation.disturbed_at, conversation.flaps = what.disturbed_at, what.flaps


def quiet_time(alert: Alert) -> timedelta:
    """Return how long a receiver that knows of an alert is not reminded."""
    return timedelta(minutes=max(1, alert.rule.quiet_minutes))


def _rows(alerts: Sequence[Alert]) -> list[_Row]:
    """Return each conversation about the alerts, and each that could begin."""
    of_ids = [alert.pk for alert in alerts]
    stored = Conversation.objects.select_for_update(no_key=True).filter(alert__in=of_ids).order_by("pk")
    standing = {(one.alert_id, one.channel_id, one.recipient): one for one in stored}
    waiting = Delivery.objects.select_for_update(no_key=True).filter(_UNDELIVERED, conversation__isnull=False)
    pending = {one.conversation_id: one for one in waiting.filter(alert__in=of_ids).order_by("pk")}
    channels = {
        channel.pk: channel for channel in Channel.objects.exclude(kind=ChannelKind.DEADLINE)
    }  # read after the rows that refer to them
    by_id = {alert.pk: alert for alert in alerts}
    rows = []
    for (alert_id, channel_id, recipient), one in standing.items():
        channel = channels[channel_id]
        is_reachable = channel.is_enabled and recipient in channel.recipients
        rows.append(_Row(one, by_id[alert_id], channel, is_reachable, pending.get(one.pk)))
    for channel in channels.values():
        if channel.is_enabled:
            rows += [
                _Row(Conversation(alert=alert, channel=channel, recipient=recipient), alert, channel, True, None)
                for alert in alerts
                if alert.resolved_at is None
                for recipient in channel.recipients
                if (alert.pk, channel.pk, recipient) not in standing
            ]
    return rows


def _settle(row: _Row, now: datetime) -> Settlement:
    alert, waiting = row.alert, row.pending
    facts = Facts(
        is_open=alert.resolved_at is None,
        subjects=alert.subjects,
        is_acknowledged=alert.acknowledged_at is not None,
        snoozed_until=alert.snoozed_until,
        is_reachable=row.is_reachable,
        is_wanted=row.channel.least_severity <= alert.severity,
    )
    pending = None
    if waiting is not None:
        pending = PendingMessage(
            MessageType(waiting.event), waiting.body["data"]["subjects"], waiting.attempts, is_under_way(waiting, now)
        )
    return settle(receiver_state(row.conversation), pending, facts, quiet_time(alert), now)


def _note(conversation: Conversation, what: Settlement) -> bool:
    """Set the settled state; return whether anything changed."""
    is_changed = (receiver_state(conversation), conversation.look_at) != (what.receiver, what.look_at)
    note(conversation, what.receiver)
    conversation.look_at = what.look_at
    return is_changed


def _withdraw(deliveries: Sequence[Delivery], now: datetime) -> None:
    ids = [one.pk for one in deliveries]
    if ids:
        Delivery.objects.filter(pk__in=ids).update(given_up_at=now, last_error=REPLACED)


def _delivery(row: _Row, event: MessageType, now: datetime) -> Delivery:
    return Delivery(
        channel=row.channel,
        channel_name=row.channel.name,
        recipient=row.conversation.recipient,
        alert=row.alert,
        conversation=row.conversation,
        event=event.value,
        body=notices.body(row.alert, event, now),
        created_at=now,
        due_at=now,
    )
