"""Celery's doors to metrics."""

from celery import shared_task
from django.utils import timezone

from ami_headend.core.tasklimits import LONG
from ami_headend.metrics import counting, snapshots


@shared_task(**LONG)
def count_uplinks() -> None:
    """Count what was verified. Losing this task costs nothing: the next one counts on."""
    counting.count()


@shared_task(**LONG)
def take_snapshots() -> None:
    """Take the costly figures anew that have rested."""
    snapshots.take(timezone.now())
