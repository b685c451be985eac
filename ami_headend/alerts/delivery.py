"""Sends messages, with growing pauses between attempts, until a receiver takes them or they are out of date.

A worker claims a message with a lease and commits, sends it outside any transaction, and then stores the outcome. So a
receiver holds up no lock, and the message of a worker that dies is free again when its lease ends. A message goes out
at least once; receivers recognise it by its id. Each channel sends one message at a time.
"""

import logging
import smtplib
import time
from datetime import datetime, timedelta

from django.db import Error, transaction
from django.db.models import Q, QuerySet
from django.utils import timezone

from ami_headend.alerts import deadline_mails, emails, reminders_store, webhooks
from ami_headend.alerts.deadline_mails import DayGoneError
from ami_headend.alerts.emails import MailError
from ami_headend.alerts.models import Channel, ChannelKind, Conversation, Delivery
from ami_headend.alerts.reminders import MessageType, taken
from ami_headend.core import batches, clock
from ami_headend.core.backoff import longest, pause
from ami_headend.core.database_errors import Trouble, close_spoilt_connections, trouble_of
from ami_headend.core.refused_addresses import RefusedAddressError
from ami_headend.core.text import counted, one_line
from ami_headend.core.webhook_exchange import WebhookError
from keyvault.master_key import MasterKeyError
from keyvault.webhook_signatures import SigningError

logger = logging.getLogger(__name__)

_GIVE_UP_AFTER = {MessageType.TEST: timedelta(hours=24), MessageType.DEADLINE: deadline_mails.TOLD_WITHIN}
KEPT = timedelta(days=90)
_FIRST, _MOST = timedelta(seconds=15), timedelta(hours=1)
_AGAIN_S, _OUTLASTS_S = 2.0, 60.0  # less than a task may take, and than the lease
_FAILURES = (
    WebhookError,
    RefusedAddressError,
    SigningError,
    MasterKeyError,
    MailError,
    DayGoneError,
    smtplib.SMTPException,
    OSError,
)


def write_due(now: datetime) -> list[int]:
    """Write the messages that have become due; return the channels that have something to send."""
    reminders_store.settle_due(now)
    deadline_mails.write_due(now)
    return overdue_channels(now)


def overdue_channels(now: datetime) -> list[int]:
    """Return channels with messages that are due: their task was lost, or an attempt failed."""
    return sorted(_due(now).filter(channel__isnull=False).values_list("channel", flat=True).distinct())


def deliver_for(channel_id: int, seconds: float) -> bool:
    """Send the due messages of a channel for some seconds. Return whether this caller has more to send."""
    end = time.monotonic() + seconds
    while (delivery := claim(channel_id, timezone.now())) is not None:
        error = _send(delivery)
        _store_in_time(delivery, error)
        if time.monotonic() > end:
            return True
    return False


def purge(now: datetime) -> int:
    """Delete messages that were delivered or given up long ago; return their number."""
    old = Delivery.objects.filter(due_at__lt=now - KEPT).exclude(delivered_at=None, given_up_at=None)
    return batches.delete(old.order_by("due_at", "pk"))


@transaction.atomic
def claim(channel_id: int, now: datetime) -> Delivery | None:
    """Claim the oldest due message that is still true; None if there is none or another worker serves this channel.

    The claim is committed before anything is sent. A message that another worker claimed and did not send within the
    lease is claimed again.
    """
    rows = Channel.objects.select_for_update(skip_locked=True, no_key=True)
    channel = rows.filter(pk=channel_id).first()
    if channel is None or any(
        reminders_store.is_under_way(one, now)
        for one in Delivery.objects.filter(channel=channel, leased_at__gt=now - reminders_store.LEASE)
    ):
        return None
    while (delivery := _due(now).filter(channel=channel).order_by("pk").first()) is not None:
        if delivery.alert_id is not None:  # the alert may have changed, or the channel may have been switched off
            reminders_store.settle_all(reminders_store.locked([delivery.alert_id]), now)
            delivery = _due(now).filter(pk=delivery.pk).first()
            if delivery is None:
                continue
        delivery.channel = channel
        delivery.leased_at = now
        delivery.attempts += 1
        delivery.save(update_fields=["leased_at", "attempts"])
        return delivery
    return None


def _store_in_time(delivery: Delivery, error: Exception | None) -> None:
    """Store the outcome of a claimed message, if need be when the database is back.

    Another primary takes over in half a minute. Until the lease ends nothing else goes to this receiver, not even that
    the primary was lost.
    """
    end = time.monotonic() + _OUTLASTS_S
    while True:
        try:
            store(delivery, error, timezone.now())
        except Error as lost:
            trouble = trouble_of(lost)
            if trouble not in (Trouble.AWAY, Trouble.READ_ONLY) or time.monotonic() > end:
                raise
            close_spoilt_connections(trouble)
            time.sleep(_AGAIN_S)
        else:
            return


def store(delivery: Delivery, error: Exception | None, now: datetime) -> None:
    """Store the outcome of a claimed message, and settle the next message of its receiver."""
    if _store(delivery, error, now) and error is not None and _is_down(error):
        _put_off_behind(delivery.pk)


@transaction.atomic
def _store(delivery: Delivery, error: Exception | None, now: datetime) -> bool:
    """Do what ``store`` says; return whether the message is put off. Locks only rows of its own alert."""
    alerts = reminders_store.locked([delivery.alert_id]) if delivery.alert_id is not None else []
    conversation = None
    if delivery.conversation_id is not None:
        of_id = Conversation.objects.select_for_update(no_key=True).filter(pk=delivery.conversation_id)
        conversation = of_id.first()
    row = Delivery.objects.select_for_update(no_key=True).filter(pk=delivery.pk).first()
    if row is None:
        return False  # deleted with its alert
    is_put_off = False
    is_ours = row.attempts == delivery.attempts  # otherwise the lease ended and another worker has it
    if error is None:
        in_order = row.given_up_at is None and is_ours
        row.delivered_at, row.last_error, row.leased_at = now, "", None
        if conversation is not None:
            subjects = row.body["data"]["subjects"]
            known = taken(
                reminders_store.receiver_state(conversation), MessageType(row.event), subjects, in_order=in_order
            )
            reminders_store.note(conversation, known)
            conversation.save(update_fields=["word", "subjects"])
    elif is_ours:
        row.leased_at = None
        if row.given_up_at is None:
            is_put_off = _note_failure(row, error, now)
    row.save(update_fields=["delivered_at", "given_up_at", "due_at", "leased_at", "last_error"])
    reminders_store.settle_all(alerts, now)
    return is_put_off


@transaction.atomic
def _put_off_behind(pk: int) -> None:
    """Put off everything else that waits for an unreachable receiver as long as the failed message.

    This runs apart from the message itself and skips locked rows: those belong to other alerts, whose workers may wait
    for this one.
    """
    first = Delivery.objects.filter(pk=pk).first()
    if first is None:
        return  # deleted meanwhile
    behind = Delivery.objects.filter(
        channel=first.channel_id, delivered_at=None, given_up_at=None, due_at__lt=first.due_at
    )
    locked = behind.exclude(pk=pk).order_by("pk").select_for_update(skip_locked=True, no_key=True)
    Delivery.objects.filter(pk__in=[row.pk for row in locked]).update(due_at=first.due_at)


def _due(now: datetime) -> QuerySet[Delivery]:
    waiting = Delivery.objects.filter(delivered_at=None, given_up_at=None)
    leased = Q(leased_at__lte=now + clock.DIFFERENCE_MAX, leased_at__gt=now - reminders_store.LEASE)
    return waiting.filter(Q(due_at__lte=now) | Q(due_at__gt=clock.latest_due(longest(_MOST), now))).exclude(leased)


def _send(delivery: Delivery) -> Exception | None:
    """Send a message outside any transaction; return the error, or None if it was taken."""
    channel = delivery.channel
    assert channel is not None  # noqa: S101 - a claimed message has one
    try:
        if delivery.event == MessageType.DEADLINE:
            emails.send_message(deadline_mails.mail(delivery), delivery.recipient, delivery.message_id)
        elif channel.kind == ChannelKind.WEBHOOK:
            webhooks.post(channel, delivery.message_id, delivery.body, timezone.now())
        else:
            emails.send(delivery.recipient, delivery.message_id, delivery.body)
    except _FAILURES as error:
        return error
    return None


def _note_failure(delivery: Delivery, error: Exception, now: datetime) -> bool:
    """Put a message off, or give up a test or a daily mail; return whether it is put off."""
    delivery.last_error = one_line(str(error))[:250]
    give_up_after = _GIVE_UP_AFTER.get(MessageType(delivery.event))
    if give_up_after is not None and now - delivery.created_at >= give_up_after:
        delivery.given_up_at = now
        logger.error(
            "%s is given up after %s: %s", delivery, counted(delivery.attempts, "attempt"), delivery.last_error
        )
        return False
    delivery.due_at = now + pause(delivery.attempts, _FIRST, _MOST)
    logger.warning("%s was not taken, attempt %d: %s", delivery, delivery.attempts, delivery.last_error)
    return True


def _is_down(error: Exception) -> bool:
    """Whether the next message would fail too: the receiver is unreachable, rather than refusing this one."""
    if isinstance(error, WebhookError):
        return error.is_down
    return not isinstance(error, smtplib.SMTPRecipientsRefused)
