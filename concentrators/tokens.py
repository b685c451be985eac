"""Bearer tokens of concentrators: 256 random bits, shown once, kept as SHA-256."""

import hashlib
import secrets
from datetime import datetime, timedelta

from django.db.models import Q
from django.utils import timezone

from concentrators.models import Concentrator, ConcentratorToken

_PREFIX = "dcu_"  # makes a leaked token easy to find; no part of its 256 bits
_LAST_USE_EVERY = timedelta(minutes=1)


def issue(concentrator: Concentrator, label: str = "", expires_at: datetime | None = None) -> str:
    """Make a token and give it in the clear, this once; only its digest is stored."""
    token = _PREFIX + secrets.token_urlsafe(32)
    ConcentratorToken.objects.create(
        concentrator=concentrator, digest=digest(token), label=label, expires_at=expires_at
    )
    return token


def revoke(token: ConcentratorToken) -> None:
    """Refuse a token from now on; a token stays revoked from the first time."""
    ConcentratorToken.objects.filter(pk=token.pk, revoked_at=None).update(revoked_at=timezone.now())


def find(token: str, now: datetime) -> ConcentratorToken | None:
    """The valid token row (with its concentrator) for a token in the clear, or None. Notes its use, to the minute."""
    row = (
        ConcentratorToken.objects.select_related("concentrator")
        .filter(Q(expires_at=None) | Q(expires_at__gt=now), digest=digest(token), revoked_at=None)
        .filter(concentrator__is_active=True)
        .first()
    )
    if row is not None and (row.last_used_at is None or now - row.last_used_at > _LAST_USE_EVERY):
        ConcentratorToken.objects.filter(pk=row.pk).update(last_used_at=now)
    return row


def digest(token: str) -> bytes:
    """SHA-256 of a token, 32 octets. A token has 256 random bits: no salt or stretching is needed."""
    return hashlib.sha256(token.encode()).digest()
