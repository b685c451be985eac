"""Celery tasks: the rotation of the master key."""

import logging

from celery import shared_task
from django.db import InterfaceError, OperationalError
from django.utils import timezone

from keyvault.master_key import MasterKeyError, rewrap

logger = logging.getLogger(__name__)

_SECONDS = 4.0  # then the uplinks that wait behind the task have their turn


@shared_task
def rewrap_master_key(rotation_id: int) -> None:
    """Rewrap for some seconds, and enqueue itself again. If the task is lost, the sweep enqueues it."""
    try:
        more = rewrap.rewrap_for(rotation_id, _SECONDS)
    except (OperationalError, InterfaceError, MasterKeyError) as error:
        logger.warning("the rotation of the master key pauses: %s", error)
        return
    if more:
        rewrap_master_key.delay(rotation_id)


@shared_task
def sweep_master_key_rotation() -> None:
    """Enqueue a rotation that nobody works on."""
    rotation = rewrap.claim_overdue(timezone.now())
    if rotation is not None:
        rewrap_master_key.delay(rotation.pk)
        logger.warning("the rotation to master key version %s is taken up again", rotation.to_version)
