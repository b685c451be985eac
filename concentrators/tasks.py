"""Celery's doors: ids in, one domain function called, retry decided."""

import logging

from celery import shared_task
from django.utils import timezone

from concentrators import uplinks, verification

logger = logging.getLogger(__name__)


@shared_task(
    autoretry_for=(verification.TransientError,),
    max_retries=6,
    retry_backoff=1,
    retry_backoff_max=60,
)
def verify_uplink(uplink_id: int) -> None:
    """Verify one uplink. Losing this task costs only time: the sweep enqueues it again."""
    verification.verify(uplink_id)


@shared_task
def sweep_uplinks() -> None:
    """Enqueue again what is not verified and overdue."""
    overdue = uplinks.claim_overdue(timezone.now())
    for uplink_id in overdue:
        verify_uplink.delay(uplink_id)
    if overdue:
        logger.warning("%d overdue uplinks enqueued again", len(overdue))


@shared_task
def purge_uplinks() -> None:
    """Let the octets of old uplinks go."""
    purged = uplinks.purge(timezone.now())
    if purged:
        logger.info("octets of %d uplinks purged", purged)
