"""Authorities that vouch no longer before long: then meters that are to enrol with their certificates cannot."""

from datetime import datetime

from django.db.models import QuerySet

from keyvault.models import Authority, AwaitedEnrolment


def expiring(by: datetime, now: datetime) -> QuerySet[Authority]:
    """Pinned authorities that expire by a time; those that have expired by now only while meters may enrol.

    Of certificates nothing is known before they enrol a meter, and afterwards their end means nothing.
    """
    soon = Authority.objects.filter(expires_at__lte=by, unpinned_at=None).order_by("expires_at", "pk")
    return soon if AwaitedEnrolment.objects.exists() else soon.filter(expires_at__gt=now)
