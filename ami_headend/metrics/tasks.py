"""Celery's doors to metrics."""

from celery import shared_task

from ami_headend.core.tasklimits import LONG
from ami_headend.metrics import counting


@shared_task(**LONG)
def count_uplinks() -> None:
    """Count what was verified. Losing this task costs nothing: the next one counts on."""
    counting.count()
