"""Bearer tokens of concentrators: 256 random bits, shown once, stored as SHA-256."""

from datetime import datetime, timedelta

from django.conf import settings
from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from ami_headend.core import bearer
from ami_headend.core.sql import fetch_rows
from concentrators.models import Concentrator, ConcentratorToken
from keyvault import journal

_LAST_USE_EVERY = timedelta(minutes=1)
ROTATION_GRACE = timedelta(days=1)  # a replaced token stays valid this long, so that the concentrator can change over


def issue(concentrator: Concentrator, label: str = "", expires_at: datetime | None = None) -> str:
    """Make a token and return it in the clear, only once; only its digest is stored. Journaled."""
    token = bearer.new(bearer.CONCENTRATOR, settings.CELL)
    with transaction.atomic():
        row = ConcentratorToken.objects.create(
            concentrator=concentrator, digest=bearer.digest(token), label=label, expires_at=expires_at
        )
        until = None if expires_at is None else int(expires_at.timestamp())
        issued_to = [concentrator.pk, concentrator.name]
        journal.append("token_issued", [*issued_to, row.pk, row.digest, label, int(row.created_at.timestamp()), until])
    return token


def revoke(token: ConcentratorToken) -> None:
    """Revoke a token for good; the first time of revocation stays. Journaled."""
    now = timezone.now()
    with transaction.atomic():
        if ConcentratorToken.objects.filter(pk=token.pk, revoked_at=None).update(revoked_at=now):
            journal.append("token_revoked", [bytes(token.digest), int(now.timestamp())])


def rotate(token: ConcentratorToken) -> str:
    """Make a token that replaces another: the old one is refused after ROTATION_GRACE. Journaled.

    Return the new one in the clear, only once. It has the old one's label and does not expire. After a restore of an
    older dump, the old one is refused at once.
    """
    until = timezone.now() + ROTATION_GRACE
    with transaction.atomic():
        new = issue(token.concentrator, token.label)
        valid = ConcentratorToken.objects.filter(pk=token.pk, revoked_at=None)
        if valid.filter(Q(expires_at=None) | Q(expires_at__gt=until)).update(expires_at=until):
            journal.append("token_revoked", [bytes(token.digest), int(until.timestamp())])
    return new


def state(token: ConcentratorToken, now: datetime) -> str:
    """Whether a token is ``valid``, ``expired`` or ``revoked``."""
    if token.revoked_at is not None:
        return "revoked"
    return "expired" if token.expires_at is not None and token.expires_at <= now else "valid"


def find(token: str, now: datetime) -> ConcentratorToken | None:
    """Return the valid row (with its concentrator) of a token in the clear, or None. Record its use, to the minute.

    Every request of a concentrator begins here: one prepared statement, since the ORM takes four times as long.
    """
    octets = bearer.digest(token)
    rows = fetch_rows(
        """SELECT t.id, t.label, t.created_at, t.expires_at, t.last_used_at, c.id, c.name, c.created_at,
                  c.uplinks_to_lose
           FROM concentrators_concentratortoken t JOIN concentrators_concentrator c ON c.id = t.concentrator_id
           WHERE t.digest = %s AND t.revoked_at IS NULL AND (t.expires_at IS NULL OR t.expires_at > %s)
                 AND c.is_active""",
        octets,
        now,
    )
    if not rows:
        return None
    pk, label, created_at, expires_at, last_used_at, *of_concentrator = rows[0]
    concentrator_id, name, registered_at, to_lose = of_concentrator
    if last_used_at is None or now - last_used_at > _LAST_USE_EVERY:
        ConcentratorToken.objects.filter(pk=pk).update(last_used_at=now)
    return ConcentratorToken(
        pk=pk,
        concentrator=Concentrator(pk=concentrator_id, name=name, created_at=registered_at, uplinks_to_lose=to_lose),
        digest=octets,
        label=label,
        created_at=created_at,
        expires_at=expires_at,
        last_used_at=last_used_at,
    )
