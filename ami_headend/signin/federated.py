"""Accounts of people who sign in at the OpenID provider: whose account it is, and which roles their claims give.

An account belongs to an issuer and subject, never to a name or address, which may be given to somebody else. Roles are
those of the claims at each sign-in, no more; without one nobody gets in.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from django.conf import settings
from django.contrib.auth.models import Group, User
from django.contrib.auth.validators import UnicodeUsernameValidator
from django.core.exceptions import ValidationError
from django.db import transaction

from ami_headend.signin import provider_logouts, secondfactor
from ami_headend.signin.logout_claims import LoggedOut
from ami_headend.signin.models import FederatedIdentity, Session
from ami_headend.signin.roles import RIGHTS
from keyvault.audit import chain
from keyvault.audit.chain import Actor

logger = logging.getLogger(__name__)

_NAME_CHARACTERS = 150
_SUBJECT_CHARACTERS = 255  # OpenID Connect Core section 2
_SHOWN = 10


class RefusedError(Exception):
    """Whoever signed in at the provider does not get in here; the message says why. ``account``: whose name it is."""

    def __init__(self, why: str, account: str = "") -> None:
        super().__init__(why)
        self.account = account


def values_of(claims: Mapping[str, Any], path: str) -> list[str]:
    """Return the texts of a claim, where a dot leads into an object; a single text is a list of one. Pure."""
    found: Any = claims
    for name in [path] if path in claims else path.split("."):
        found = found.get(name) if isinstance(found, Mapping) else None
    return [value for value in (found if isinstance(found, list) else [found]) if isinstance(value, str)]


def roles_of(claims: Mapping[str, Any]) -> set[str]:
    """Return the roles that claims give by OIDC_ROLES."""
    given = values_of(claims, settings.OIDC_ROLES_CLAIM)
    return {settings.OIDC_ROLES[value] for value in given if settings.OIDC_ROLES.get(value) in RIGHTS}


def account_of(claims: Mapping[str, Any], address: str, now: datetime) -> User:
    """Return the account of verified claims, with the roles that they give; it is made at the first sign-in.

    RefusedError: nobody gets in. AuditError or MasterKeyError: a change could not be recorded, and nothing was changed.
    """
    subject, roles = str(claims["sub"])[: _SUBJECT_CHARACTERS + 1], roles_of(claims)
    identity = _identity(subject)
    if not roles:
        if identity is not None:
            _shut_out(identity.user, address)
        raise RefusedError(_no_role(claims), identity.user.get_username() if identity else "")
    with transaction.atomic():
        identity = identity or _made(claims, subject, address, now)
        user = User.objects.select_for_update().get(pk=identity.user_id)
        _check(user, claims)
        _give(user, roles, address)
        FederatedIdentity.objects.filter(pk=identity.pk).update(signed_in_at=now)
    return user


def is_same(user: User, claims: Mapping[str, Any]) -> bool:
    """Whether verified claims are of the person whose account it is."""
    identity = _identity(str(claims["sub"]))
    return identity is not None and identity.user_id == user.pk


def link(actor: Actor, user: User, subject: str, now: datetime) -> None:
    """Let whoever is this subject at the provider sign in to an account that is there; audited.

    RefusedError if either belongs to somebody else already; AuditError or MasterKeyError: nothing was changed.
    """
    if user.is_superuser:
        raise RefusedError("A superuser signs in with a password alone.")
    if not 0 < len(subject) <= _SUBJECT_CHARACTERS:
        raise RefusedError(f"A subject has 1 to {_SUBJECT_CHARACTERS} characters.")
    with transaction.atomic():
        User.objects.select_for_update().get(pk=user.pk)
        if FederatedIdentity.objects.filter(user=user).exists():
            raise RefusedError(f"{user} is linked already: unlink it first.")
        if (other := _identity(subject)) is not None:
            raise RefusedError(f"{subject} is {other.user} already: unlink that account first.")
        FederatedIdentity.objects.create(user=user, issuer=settings.OIDC_ISSUER, subject=subject, linked_at=now)
        told = {"name": user.get_username(), "issuer": settings.OIDC_ISSUER, "subject": subject}
        chain.record(actor, "user.link", told)


def unlink(actor: Actor, user: User) -> bool:
    """Let nobody at a provider sign in to the account any more, and end its sessions; audited. False: nobody could."""
    with transaction.atomic():
        removed = FederatedIdentity.objects.filter(user=user).delete()[0]
        if removed:
            Session.objects.filter(account=user).delete()
            chain.record(actor, "user.unlink", {"name": user.get_username()})
    return bool(removed)


def log_out(found: LoggedOut, address: str, now: datetime) -> int:
    """End the sessions of whoever signed out at the provider, and return how many; audited. A token counts once.

    Those of the session there; of the subject also those without one that is known. All of the subject if no session
    is named. AuditError or MasterKeyError: none was ended.
    """
    rows = Session.objects.filter(issuer=settings.OIDC_ISSUER)
    if found.session:
        rows = rows.filter(provider_session__in=[found.session, ""] if found.subject else [found.session])
    if found.subject:
        identity = _identity(found.subject)
        rows = rows.filter(account=None if identity is None else identity.user_id)
    rows = rows.exclude(account=None).select_related("account").order_by("pk")
    with transaction.atomic():
        if not provider_logouts.note(found, now):
            return 0
        ended = list(rows.select_for_update(of=("self",)))
        Session.objects.filter(pk__in=[row.pk for row in ended]).delete()
        for name, number in sorted(Counter(str(row.account) for row in ended).items()):
            chain.record(Actor("OpenID provider", address), "user.log_out", {"name": name, "sessions": number})
    return len(ended)


def _identity(subject: str) -> FederatedIdentity | None:
    known = FederatedIdentity.objects.filter(issuer=settings.OIDC_ISSUER, subject=subject)
    return known.select_related("user").first()


def _made(claims: Mapping[str, Any], subject: str, address: str, now: datetime) -> FederatedIdentity:
    name = User.normalize_username(next(iter(values_of(claims, settings.OIDC_ACCOUNT_CLAIM)), ""))
    try:
        UnicodeUsernameValidator()(name)
    except ValidationError:
        name = ""
    if not 0 < len(name) <= _NAME_CHARACTERS or len(subject) > _SUBJECT_CHARACTERS:
        raise RefusedError(
            f"The provider gives no name that an account can have: the claim {settings.OIDC_ACCOUNT_CLAIM} needs 1 to "
            f"{_NAME_CHARACTERS} letters, digits and @ . + - _. An administrator of the provider can set it."
        )
    if User.objects.filter(username__iexact=name).exists():
        raise RefusedError(
            f"There is an account {name} already, and it is not known to be yours. An administrator can link it: "
            f"manage.py single_sign_on link {name} SUBJECT."
        )
    user = User(username=name, is_staff=True)
    user.set_unusable_password()
    user.save()
    told = {"name": name, "issuer": settings.OIDC_ISSUER, "subject": subject}
    chain.record(Actor(name, address), "user.federate", told)
    return FederatedIdentity.objects.create(user=user, issuer=settings.OIDC_ISSUER, subject=subject, linked_at=now)


def _check(user: User, claims: Mapping[str, Any]) -> None:
    name = user.get_username()
    if not user.is_active or not user.is_staff:
        raise RefusedError(f"The account {name} is blocked here. Ask an administrator.", name)
    if user.is_superuser:
        raise RefusedError(f"{name} is a superuser, who signs in with a password alone.", name)


def check_second_factor(user: User, claims: Mapping[str, Any]) -> None:
    """RefusedError if the account needs a second factor and the provider does not say that there was one."""
    wanted = settings.OIDC_SECOND_FACTOR
    said = {*values_of(claims, "acr"), *values_of(claims, "amr")}
    if wanted and secondfactor.is_required(user) and said.isdisjoint(wanted):
        name = user.get_username()
        raise RefusedError(f"{name} needs a second factor, and the provider does not say that you gave one.", name)


def _give(user: User, roles: Iterable[str], address: str) -> None:
    """Give an account exactly these of the four roles; other groups stay. Audited if anything changes."""
    present = set(user.groups.filter(name__in=RIGHTS).values_list("name", flat=True))
    wanted = set(roles)
    if present == wanted:
        return
    user.groups.remove(*Group.objects.filter(name__in=present - wanted))
    user.groups.add(*Group.objects.filter(name__in=wanted - present))
    told = {"name": user.get_username(), "before": sorted(present), "now": sorted(wanted)}
    chain.record(Actor(user.get_username(), address), "user.roles", told)


def _shut_out(user: User, address: str) -> None:
    """Take the roles of an account that the provider gives none any more, and end its sessions; audited."""
    with transaction.atomic():
        _give(user, (), address)
        Session.objects.filter(account=user).delete()


def _no_role(claims: Mapping[str, Any]) -> str:
    given = values_of(claims, settings.OIDC_ROLES_CLAIM)
    more = f" and {len(given) - _SHOWN} more" if len(given) > _SHOWN else ""
    said = f"gives {', '.join(given[:_SHOWN])}{more}" if given else "is empty"
    return (
        f"You are signed in at the provider, and have no role here: the claim {settings.OIDC_ROLES_CLAIM} {said}, "
        "which stands for no role. Ask whoever manages your groups."
    )
