"""Sending what is to be delivered: tried again later each time, until it is taken or a day has passed.

One message of a channel is under way at a time, its row locked in the transaction that notes the outcome: a worker that
dies gives it back. So a message goes out at least once; receivers know one again by its ``webhook-id``.
"""

import logging
import random
import smtplib
import time
from datetime import datetime, timedelta

from celery.utils.time import get_exponential_backoff_interval
from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from ami_headend.alerts import emails, webhooks
from ami_headend.alerts.emails import MailError
from ami_headend.alerts.models import ChannelKind, Delivery
from ami_headend.alerts.webhooks import RefusedAddressError, WebhookError
from ami_headend.core import clock
from keyvault.masterkey import MasterKeyError
from keyvault.signing import SigningError
from keyvault.sql import fetch_rows

logger = logging.getLogger(__name__)

GIVE_UP_AFTER = timedelta(hours=24)
KEPT = timedelta(days=90)
_FIRST_S, _MOST_S = 15, 3_600
_SPREAD = 1.2
_LOCK = 0x616D6907  # with the channel's id
_FAILURES = (
    WebhookError,
    RefusedAddressError,
    SigningError,
    MasterKeyError,
    MailError,
    smtplib.SMTPException,
    OSError,
)


def overdue_channels(now: datetime) -> list[int]:
    """Channels with messages that are due: their task was lost, or an attempt failed."""
    waiting = Delivery.objects.filter(_is_due(now), delivered_at=None, given_up_at=None)
    return sorted(waiting.values_list("channel", flat=True).distinct())


def deliver_for(channel_id: int, seconds: float) -> bool:
    """Send what a channel has due, for some seconds. Gives whether more is left for this caller."""
    end = time.monotonic() + seconds
    while _deliver_next(channel_id, timezone.now()):
        if time.monotonic() > end:
            return True
    return False


def _is_due(now: datetime) -> Q:
    """Also what nobody can have put off for so long: the clock was ahead then."""
    return Q(due_at__lte=now) | Q(due_at__gt=clock.latest_due(timedelta(seconds=_MOST_S * _SPREAD), now))


def purge(now: datetime) -> int:
    """Forget messages that were delivered or given up long ago; gives how many."""
    old = Delivery.objects.filter(due_at__lt=now - KEPT).exclude(delivered_at=None, given_up_at=None)
    return old.delete()[0]


@transaction.atomic
def _deliver_next(channel_id: int, now: datetime) -> bool:
    """Send the oldest message that is due. False where none is, or another worker is at this channel."""
    if not fetch_rows("SELECT pg_try_advisory_xact_lock(%s, %s)", _LOCK, channel_id)[0][0]:
        return False
    waiting = Delivery.objects.filter(_is_due(now), channel=channel_id, delivered_at=None, given_up_at=None)
    delivery = waiting.select_for_update(of=("self",)).select_related("channel").order_by("pk").first()
    if delivery is None:
        return False
    if not delivery.channel.is_enabled and delivery.event != "test":
        delivery.given_up_at, delivery.last_error = now, "the channel was switched off"
        delivery.save(update_fields=["given_up_at", "last_error"])
        return True
    delivery.attempts += 1
    try:
        _send(delivery, now)
    except _FAILURES as error:
        _note_failure(delivery, error, now)
    else:
        delivery.delivered_at, delivery.last_error = now, ""
    delivery.save(update_fields=["attempts", "delivered_at", "given_up_at", "due_at", "last_error"])
    return True


def _send(delivery: Delivery, now: datetime) -> None:
    if delivery.channel.kind == ChannelKind.WEBHOOK:
        webhooks.post(delivery.channel, delivery.pk, delivery.body, now)
    else:
        emails.send(delivery.channel, delivery.body)


def _note_failure(delivery: Delivery, error: Exception, now: datetime) -> None:
    """Put a message off, or give it up; where the receiver is down, all that waits for it is put off with it."""
    delivery.last_error = f"{error}"[:250]
    if now - delivery.created_at >= GIVE_UP_AFTER:
        delivery.given_up_at = now
        logger.error("%s is given up after %d attempts: %s", delivery, delivery.attempts, delivery.last_error)
        return
    wait_s = get_exponential_backoff_interval(_FIRST_S, min(delivery.attempts - 1, 16), _MOST_S)
    delivery.due_at = now + timedelta(seconds=wait_s * random.uniform(0.8, _SPREAD))  # noqa: S311 - spreads, hides nothing
    logger.warning("%s was not taken, attempt %d: %s", delivery, delivery.attempts, delivery.last_error)
    if not isinstance(error, WebhookError) or error.is_down:
        behind = Delivery.objects.filter(
            channel=delivery.channel_id, delivered_at=None, given_up_at=None, due_at__lt=delivery.due_at
        )
        behind.exclude(pk=delivery.pk).update(due_at=delivery.due_at)
