"""Celery task that ships security events."""

from celery import shared_task

from ami_headend.core.tasklimits import LONG
from ami_headend.siem import shipping

_SECONDS = 20.0


@shared_task(**LONG)
def ship_security_events() -> None:
    """Send the security events that wait. If this task is lost, the next one goes on where the last one stopped."""
    shipping.ship_for(_SECONDS)
