"""Tokens of programs: made, rotated, revoked, found. A secret is returned once; each act is audited and journaled.

The journal keeps a token's whole row, so that after a restore of an older dump what was revoked stays revoked.
"""

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import Q, QuerySet

from ami_headend.api_tokens.models import ApiToken
from ami_headend.core import bearer, clock
from ami_headend.core.names import tidy
from ami_headend.web.scopes import Scope
from keyvault import approvals, journal
from keyvault.audit import chain
from keyvault.audit.chain import Actor
from meters.group_models import FleetGroup

OVERLAP = timedelta(days=1)  # the usual time in which both secrets are good
OVERLAP_MAX = timedelta(days=30)
_USE_NOTED_EVERY = timedelta(minutes=1)


class TokenError(Exception):
    """A token cannot be made, rotated or revoked as asked. Nothing was changed; the message says why."""


class UnknownTokenError(TokenError):
    """No token has this number, or it is revoked."""


class Made(NamedTuple):
    """A token, and its secret in the clear, which nobody can show again."""

    token: ApiToken
    secret: str


def listed() -> QuerySet[ApiToken]:
    """Return the tokens without digests, those that were revoked last."""
    return ApiToken.objects.defer("digest", "previous_digest").order_by("-revoked_at", "name", "pk")


def expiring(until: datetime) -> QuerySet[ApiToken]:
    """Return tokens that are not revoked and whose secret is not valid after a time, the first to expire first."""
    return ApiToken.objects.filter(revoked_at=None, expires_at__lt=until).order_by("expires_at", "pk")


def make(
    actor: Actor,
    name: str,
    scopes: Sequence[str],
    days: int,
    now: datetime,
    groups: Collection[FleetGroup] | None = None,
) -> Made:
    """Make a token that is valid for some days, for all meters or those of groups.

    TokenError, AuditError or MasterKeyError: none was made.
    """
    if groups is not None and not groups:
        raise TokenError("name a group, or none for all meters")
    unknown = sorted(set(scopes) - set(Scope))
    if unknown or not scopes:
        wrong = f"there is no scope {', '.join(unknown)}" if unknown else "a token needs a scope"
        raise TokenError(f"{wrong}: choose of {', '.join(Scope)}")
    if not tidy(name):
        raise TokenError("a token needs a name: that of its program")
    secret = _new_secret()
    token = ApiToken(
        name=name,
        scopes=[scope for scope in Scope if scope in scopes],
        group_ids=None if groups is None else sorted(group.pk for group in groups),
        digest=bearer.digest(secret),
        created_at=now,
        created_by=actor.name[:150],
        maker=approvals.account_of(actor),
        issued_at=now,
        expires_at=now + _validity(days),
    )
    try:
        token.full_clean()
    except ValidationError as error:
        raise TokenError(" ".join(error.messages).rstrip(".")) from None
    with transaction.atomic():
        token.save()
        _write(token)
        subject: dict[str, Any] = {
            "token": token.name,
            "id": token.pk,
            "scopes": token.scopes,
            "until": token.expires_at.isoformat(),
        }
        if groups is not None:
            subject["groups"] = sorted(map(str, groups))
        chain.record(actor, "api_token.make", subject)
    return Made(token, secret)


def rotate(actor: Actor, pk: int, days: int, overlap: timedelta, now: datetime) -> Made:
    """Give a token a new secret, valid for some days; its present one is good for ``overlap`` longer.

    A still older secret is refused at once. Whoever rotates sees the new secret, and stands behind what is done with
    it; the account before stands behind the present one. TokenError, AuditError or MasterKeyError: nothing was changed.
    """
    if not timedelta() <= overlap <= OVERLAP_MAX:
        raise TokenError(f"the present secret can be good for up to {OVERLAP_MAX.days} days more, no longer")
    validity, secret = _validity(days), _new_secret()
    with transaction.atomic():
        token = _locked(pk)
        token.previous_digest, token.previous_until = token.digest, min(token.expires_at, now + overlap)
        token.previous_used_at = None
        token.previous_maker, token.maker = token.maker, approvals.account_of(actor) or token.maker
        token.digest, token.issued_at, token.expires_at = bearer.digest(secret), now, now + validity
        previous = ("previous_digest", "previous_until", "previous_used_at", "previous_maker")
        token.save(update_fields=["digest", "issued_at", "expires_at", "maker", *previous])
        _write(token)
        until = {"until": token.expires_at.isoformat(), "previous_until": token.previous_until.isoformat()}
        chain.record(actor, "api_token.rotate", {"token": token.name, "id": token.pk, **until})
    return Made(token, secret)


def revoke(actor: Actor, pk: int, now: datetime) -> ApiToken:
    """Refuse a token from now on, for good. TokenError, AuditError or MasterKeyError: nothing was changed."""
    with transaction.atomic():
        token = _locked(pk)
        token.revoked_at = now
        token.save(update_fields=["revoked_at"])
        _write(token)
        chain.record(actor, "api_token.revoke", {"token": token.name, "id": token.pk})
    return token


def find(secret: str) -> tuple[ApiToken, bool] | None:
    """Return the token of a secret, valid or not, and whether it is the previous secret; None if there is none."""
    if not secret.startswith(bearer.PROGRAM) or not bearer.is_whole(secret):
        return None
    octets = bearer.digest(secret)
    token = ApiToken.objects.filter(Q(digest=octets) | Q(previous_digest=octets)).first()
    return None if token is None else (token, bytes(token.digest) != octets)


def note_use(token: ApiToken, address: str, now: datetime, *, is_previous: bool) -> None:
    """Record when and from where a token was used, at most once a minute."""
    last = token.previous_used_at if is_previous else token.last_used_at
    if not clock.has_rested(last, _USE_NOTED_EVERY, now):
        return
    used = {"last_used_at": now, "last_used_from": address}
    ApiToken.objects.filter(pk=token.pk).update(**used, **({"previous_used_at": now} if is_previous else {}))


def _new_secret() -> str:
    return bearer.with_checksum(bearer.new(bearer.PROGRAM, settings.CELL))


def _validity(days: int) -> timedelta:
    if not 1 <= days <= settings.API_TOKEN_DAYS_MAX:
        raise TokenError(f"a token is valid for 1 to {settings.API_TOKEN_DAYS_MAX} days (API_TOKEN_DAYS_MAX)")
    return timedelta(days=days)


def _locked(pk: int) -> ApiToken:
    token = ApiToken.objects.select_for_update().filter(pk=pk, revoked_at=None).first()
    if token is None:
        raise UnknownTokenError(f"there is no token {pk}, or it has been revoked already")
    return token


def _write(token: ApiToken) -> None:
    """Write the row to the journal: numbers of seconds for times, and no secret."""
    times = [token.created_at, token.issued_at, token.expires_at, token.previous_until, token.revoked_at]
    previous = None if token.previous_digest is None else bytes(token.previous_digest)
    said = [token.pk, token.name, token.created_by, token.scopes, bytes(token.digest), previous]
    seconds = [None if at is None else at.timestamp() for at in times]
    makers = [token.maker_id]
    if token.previous_maker_id not in (None, token.maker_id):  # code of before knows one maker alone
        makers.append(token.previous_maker_id)
    journal.append("api_token", [*said, *seconds, token.group_ids, *makers])
