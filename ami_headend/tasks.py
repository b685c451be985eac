"""Celery tasks that keep answers for pages and metrics fresh."""

from celery import shared_task
from django.utils import timezone

from ami_headend import cached_answers
from ami_headend.console import components
from ami_headend.console.keys import questions
from ami_headend.console.overview_panels import QUESTIONS
from ami_headend.console.traffic_queries import OPEN_FAILURES
from ami_headend.core.tasklimits import LONG
from ami_headend.metrics import snapshots


@shared_task
def look_at_components() -> None:
    """Check the health of every component. The time of the check also shows that schedule and workers run."""
    components.look(timezone.now())


@shared_task(**LONG)
def renew_kept_answers() -> None:
    """Renew costly answers before anybody waits for them."""
    cached_answers.renew([*QUESTIONS, OPEN_FAILURES, *questions.RENEWED, *snapshots.QUESTIONS.values()], timezone.now())
