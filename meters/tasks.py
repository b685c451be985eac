"""The scheduled work on readings and events."""

import logging
import time
from datetime import timedelta
from typing import Any

from celery import shared_task
from django.conf import settings
from django.db import OperationalError
from django.utils import timezone

from ami_headend.core.tasklimits import LONG
from meters.archive import files, months, verification
from meters.readings import partitions
from meters.registry import access_record

logger = logging.getLogger(__name__)

_ARCHIVES_FOR_S = 300  # then no other file is begun; the last has as long again before its task is killed


@shared_task(bind=True, max_retries=5, **LONG)
def maintain_partitions(self: Any) -> None:
    """Partitions for the retention window; readings and events from before it go."""
    try:
        done = partitions.maintain()
    except OperationalError as error:
        # Busy behind a long export, or the database is away: both pass.
        raise self.retry(exc=error, countdown=60) from error
    events = partitions.delete_expired_events()
    if done.created or done.dropped or events:
        logger.info("partitions created %s, dropped %s; %d events deleted", done.created, done.dropped, events)


@shared_task(bind=True, max_retries=5, **LONG)
def archive_readings(self: Any) -> None:
    """Move the oldest month that is old enough on its way into the archive, if there is one; the next run goes on."""
    if not files.is_in_use():
        return
    now = timezone.now()
    try:
        forgotten = months.forget_expired(now)
        for month in months.due(now)[:1]:
            if months.archive(month, now, time.monotonic() + _ARCHIVES_FOR_S):
                logger.info("readings of %s archived", month.strftime("%Y-%m"))
    except OperationalError as error:
        # Busy behind a long page, or the database is away: both pass.
        raise self.retry(exc=error, countdown=60) from error
    if forgotten:
        logger.info("archived months deleted, whose retention is over: %s", forgotten)


@shared_task(**LONG)
def verify_archive() -> None:
    """Verify the files of the archived month that was verified longest ago; doctor says what is wrong."""
    if not files.is_in_use():
        return
    try:
        verification.verify_next(timezone.now(), time.monotonic() + _ARCHIVES_FOR_S)
    except files.ArchiveError:
        logger.exception("an archived month could not be verified, or is damaged")


@shared_task
def purge_accesses() -> None:
    """Remove old rows of the record of access to household data."""
    access_record.purge(timezone.now() - timedelta(days=settings.ACCESS_KEEP_DAYS))
