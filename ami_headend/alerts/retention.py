"""Deletes ended alerts, with their history and messages, after ALERT_KEEP_DAYS."""

from datetime import datetime, timedelta

from django.conf import settings
from django.db.models import Q

from ami_headend.alerts.models import Alert
from ami_headend.core import batches


def purge(now: datetime) -> int:
    """Delete alerts that ended ``ALERT_KEEP_DAYS`` ago; return their number. Safe to stop at any instruction.

    An alert that is snoozed until later stays, since it would begin again silently. So does one with an unsent message.
    """
    unsent = Q(deliveries__delivered_at=None, deliveries__given_up_at=None, deliveries__isnull=False)
    waiting = Alert.objects.filter(unsent).values("pk")
    old = (
        Alert.objects.filter(resolved_at__lt=now - timedelta(days=settings.ALERT_KEEP_DAYS))
        .exclude(snoozed_until__gt=now)
        .exclude(pk__in=waiting)
        .order_by("resolved_at", "pk")
    )
    return batches.delete(old)
