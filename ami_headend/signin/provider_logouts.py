"""Logouts that the OpenID provider told of, kept for a day.

So each token counts once (OpenID Connect Back-Channel Logout 1.0 section 2.6), and a sign-in that was under way at the
provider when its user signed out there begins no session here.
"""

from datetime import datetime

from django.conf import settings
from django.db.models import Max, Q

from ami_headend.core import batches, locks
from ami_headend.signin.logout_claims import LoggedOut
from ami_headend.signin.models import ProviderLogout


def last() -> int:
    """Return the number of the last logout; 0 if there is none."""
    return ProviderLogout.objects.aggregate(last=Max("pk"))["last"] or 0


def note(found: LoggedOut, now: datetime) -> bool:
    """Keep a logout, and return whether its token is new. Until the transaction ends no sign-in begins a session."""
    locks.take(locks.PROVIDER_LOGOUTS)
    _, is_new = ProviderLogout.objects.get_or_create(
        issuer=settings.OIDC_ISSUER,
        token_id=found.token_id,
        defaults={"subject": found.subject, "session": found.session, "told_at": now},
    )
    return is_new


def ended(subject: str, session: str, since: int) -> bool:
    """Whether a session of the provider is over, or its subject signed out there after the logout ``since``.

    Until the transaction ends no further logout is taken, so the caller stores its session in it.
    """
    locks.share(locks.PROVIDER_LOGOUTS)
    of_subject = Q(subject=subject, pk__gt=since) & (Q() if not session else Q(session__in=["", session]))
    of_session = Q(session=session, subject__in=["", subject]) if session else Q(pk__in=[])
    return ProviderLogout.objects.filter(of_subject | of_session, issuer=settings.OIDC_ISSUER).exists()


def purge(before: datetime) -> int:
    """Forget logouts that were told of before a time; return how many."""
    return batches.delete(ProviderLogout.objects.filter(told_at__lt=before).order_by("pk"))
