"""Authorities that expire soon: after that, meters with their certificates cannot enrol."""

from datetime import datetime

from django.db.models import QuerySet

from keyvault.models import Authority, AwaitedEnrolment


def expiring(by: datetime, now: datetime) -> QuerySet[Authority]:
    """Return pinned authorities that expire by a time; expired ones only while there are meters that may enrol.

    Certificates are unknown before they enrol a meter, and afterwards their end has no effect.
    """
    soon = Authority.objects.filter(expires_at__lte=by, unpinned_at=None).order_by("expires_at", "pk")
    return soon if AwaitedEnrolment.objects.exists() else soon.filter(expires_at__gt=now)
