"""Celery tasks of metrics."""

from celery import shared_task

from ami_headend.core.tasklimits import LONG
from ami_headend.metrics import counting


@shared_task(**LONG)
def count_uplinks() -> None:
    """Count verified uplinks. If this task is lost, the next one continues."""
    counting.count_all()
