"""Celery tasks of alerts. Their queue is separate from that of uplinks, so that no alert waits behind a backlog."""

import logging
from collections.abc import Iterable

from celery import shared_task
from django.utils import timezone

from ami_headend.alerts import delivery, evaluation, retention
from ami_headend.core.broker_errors import BROKER_ERRORS
from ami_headend.core.tasklimits import LONG

logger = logging.getLogger(__name__)

_SECONDS = 10.0  # then a task gives way to others that wait behind it


@shared_task(**LONG)
def evaluate_alerts() -> None:
    """Evaluate the rules that are due, and send their messages."""
    enqueue(evaluation.evaluate(timezone.now()))


@shared_task
def deliver(channel_id: int) -> None:
    """Send the due messages of a channel. If this task is lost, the sweep sends them later."""
    if delivery.deliver_for(channel_id, _SECONDS):
        deliver.delay(channel_id)


@shared_task
def sweep_deliveries() -> None:
    """Write messages that have become due, and enqueue again those that are due and undelivered."""
    enqueue(delivery.write_due(timezone.now()))


@shared_task(**LONG)
def purge_alerts() -> None:
    """Delete messages that were delivered long ago, and alerts that ended long ago."""
    now = timezone.now()
    deliveries, alerts = delivery.purge(now), retention.purge(now)
    if deliveries or alerts:
        logger.info("deleted for age: %d messages of alerts, %d ended alerts", deliveries, alerts)


def enqueue(channel_ids: Iterable[int]) -> None:
    """Let a worker send the committed due messages of channels. Without a broker, the sweep sends them later."""
    for channel_id in channel_ids:
        try:
            deliver.apply_async((channel_id,), retry=False)
        except BROKER_ERRORS as error:
            logger.warning(
                "channel %s is not enqueued (%s); the sweep will send its messages", channel_id, type(error).__name__
            )
            return
