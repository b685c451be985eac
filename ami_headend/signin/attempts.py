"""Failed attempts of django-axes, except those that lie in the future because a clock was ahead."""

from typing import Any

from axes.handlers.database import AxesDatabaseHandler
from axes.models import AccessAttempt
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone

from ami_headend.core import clock

_Handler: Any = AxesDatabaseHandler  # axes has no types


class Attempts(_Handler):  # type: ignore[misc]
    """Axes' database handler; a lock-out does not last longer because the clock was ahead when it began."""

    def get_user_attempts(
        self, request: HttpRequest, credentials: dict[str, str] | None = None
    ) -> list["QuerySet[AccessAttempt]"]:
        latest = timezone.now() + clock.DIFFERENCE_MAX
        found: list[QuerySet[AccessAttempt]] = super().get_user_attempts(request, credentials)
        return [attempts.filter(attempt_time__lte=latest) for attempts in found]

    def clean_expired_user_attempts(
        self, request: HttpRequest | None = None, credentials: dict[str, str] | None = None
    ) -> int:
        latest = timezone.now() + clock.DIFFERENCE_MAX
        ahead, _ = AccessAttempt.objects.filter(attempt_time__gt=latest).delete()
        return int(ahead + super().clean_expired_user_attempts(request, credentials))
