"""Celery tasks that delete old rows."""

from datetime import timedelta
from importlib import import_module

from celery import shared_task
from django.conf import settings
from django.utils import timezone

from ami_headend.core.tasklimits import LONG
from ami_headend.signin import journal, provider_logouts


@shared_task(**LONG)
def purge_sign_ins() -> None:
    """Remove old rows of the journal, logouts of yesterday, and sessions that have ended."""
    journal.purge(timezone.now() - timedelta(days=settings.SIGN_IN_KEEP_DAYS))
    provider_logouts.purge(timezone.now() - timedelta(days=1))
    import_module(settings.SESSION_ENGINE).SessionStore.clear_expired()
