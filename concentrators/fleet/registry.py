"""The registry of concentrators and their tokens. Each act of a person is audited.

Acts are journaled too, so that after a restore revoked tokens stay revoked.
"""

from collections.abc import Collection
from datetime import datetime

from django.db import transaction
from django.utils import timezone

from concentrators.commands import concentrator_titles
from concentrators.fleet import tokens
from concentrators.models import Concentrator, ConcentratorToken
from keyvault import journal
from keyvault.audit import chain
from keyvault.audit.chain import Actor

_COLUMNS = {"name", "system_title", "is_active", "moved_to"}


def save(concentrator: Concentrator, changed: Collection[str] = ()) -> None:
    """Register a concentrator, or store the columns ``changed`` of one that stands: its name, its title, where it went
    or whether it may post. All others are as they are stored by now, here too. JournalError, or DoesNotExist if it was
    deleted meanwhile: nothing changed.

    If the title is new, its meters are told it.
    """
    with transaction.atomic():
        has_new_title = concentrator.pk is not None and _store(concentrator, changed)
        if concentrator.pk is None:
            concentrator.save()
        if has_new_title:
            concentrator_titles.tell_all_of(concentrator, timezone.now())
        title = concentrator.system_title
        said = [concentrator.pk, concentrator.name, concentrator.is_active, None if title is None else bytes(title)]
        journal.append("concentrator", [*said, concentrator.moved_to] if concentrator.moved_to else said)


def _store(concentrator: Concentrator, changed: Collection[str]) -> bool:
    """Store columns of a concentrator under its lock, and read the others; return whether its title is a new one."""
    standing = Concentrator.objects.select_for_update(no_key=True).get(pk=concentrator.pk)
    before = standing.system_title
    for name in _COLUMNS - {*changed}:
        setattr(concentrator, name, getattr(standing, name))
    concentrator.save(update_fields=[*changed])
    title = concentrator.system_title
    return title is not None and (before is None or bytes(before) != bytes(title))


def save_as(actor: Actor, concentrator: Concentrator, changed: Collection[str] = ()) -> None:
    """Do the same as ``save``, as a person. AuditError or MasterKeyError: nothing was changed."""
    with transaction.atomic():
        save(concentrator, changed)
        subject = {"concentrator": concentrator.name, "id": concentrator.pk}
        if concentrator.system_title is not None:
            subject["device"] = bytes(concentrator.system_title).hex()
        if concentrator.moved_to:
            subject["cell"] = concentrator.moved_to
        chain.record(actor, "concentrator.save", subject, "registered" if concentrator.is_active else "shut out")


def issue_token(actor: Actor, concentrator: Concentrator, label: str, expires_at: datetime | None) -> str:
    """Issue a token and return it in the clear, only once. AuditError or MasterKeyError: none was issued."""
    with transaction.atomic():
        token = tokens.issue(concentrator, label, expires_at)
        until = None if expires_at is None else expires_at.isoformat()
        chain.record(actor, "token.issue", {"concentrator": concentrator.name, "label": label, "until": until})
    return token


def revoke_token(actor: Actor, token: ConcentratorToken) -> None:
    """Revoke a token for good. AuditError or MasterKeyError: it is unchanged."""
    with transaction.atomic():
        tokens.revoke(token)
        subject = {"concentrator": token.concentrator.name, "label": token.label, "id": token.pk}
        chain.record(actor, "token.revoke", subject)


def rotate_token(actor: Actor, token: ConcentratorToken) -> str:
    """Issue a new token for an old one, in the clear only once; the old one stays valid for tokens.ROTATION_GRACE.

    AuditError or MasterKeyError: none was issued, and the old one is unchanged.
    """
    with transaction.atomic():
        new = tokens.rotate(token)
        subject = {"concentrator": token.concentrator.name, "label": token.label, "id": token.pk}
        chain.record(actor, "token.rotate", subject)
    return new
