"""Celery tasks that keep answers for pages and metrics fresh."""

from celery import shared_task
from django.utils import timezone

from ami_headend import cached_answers
from ami_headend.core.tasklimits import LONG


@shared_task
def look_at_components() -> None:
    """Check the health of every component. The time of the check also shows that schedule and workers run."""
    from ami_headend.health import components  # noqa: PLC0415 - as below

    components.look()


@shared_task(**LONG)
def renew_kept_answers() -> None:
    """Renew costly answers before anybody waits for them."""
    # Here, for they load pages, which no other process of workers and no schedule needs.
    from ami_headend.console.keys import questions  # noqa: PLC0415
    from ami_headend.console.overview_panels import QUESTIONS  # noqa: PLC0415
    from ami_headend.console.traffic_queries import OPEN_FAILURES  # noqa: PLC0415
    from ami_headend.metrics import snapshots  # noqa: PLC0415

    cached_answers.renew([*QUESTIONS, OPEN_FAILURES, *questions.RENEWED, *snapshots.QUESTIONS.values()], timezone.now())
