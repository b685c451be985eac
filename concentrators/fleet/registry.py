"""The registry of concentrators and their tokens. Each act of a person is audited.

Acts are journaled too, so that after a restore revoked tokens stay revoked.
"""

from datetime import datetime

from django.db import transaction
from django.utils import timezone

from concentrators.commands import concentrator_titles
from concentrators.fleet import tokens
from concentrators.models import Concentrator, ConcentratorToken
from keyvault import journal
from keyvault.audit import chain
from keyvault.audit.chain import Actor


def save(concentrator: Concentrator) -> None:
    """Register a concentrator, or change its name, its title or whether it may post. JournalError: nothing changed.

    If the title is new, its meters are told it.
    """
    title = concentrator.system_title
    with transaction.atomic():
        is_new = title is not None and _stands_without(concentrator, bytes(title))
        concentrator.save()
        if is_new:
            concentrator_titles.tell_all_of(concentrator, timezone.now())
        said = [concentrator.pk, concentrator.name, concentrator.is_active, None if title is None else bytes(title)]
        journal.append("concentrator", [*said, concentrator.moved_to] if concentrator.moved_to else said)


def _stands_without(concentrator: Concentrator, title: bytes) -> bool:
    """Whether the stored concentrator has another title, or none."""
    standing = Concentrator.objects.filter(pk=concentrator.pk).first() if concentrator.pk is not None else None
    return standing is not None and (standing.system_title is None or bytes(standing.system_title) != title)


def save_as(actor: Actor, concentrator: Concentrator) -> None:
    """Do the same as ``save``, as a person. AuditError or MasterKeyError: nothing was changed."""
    with transaction.atomic():
        save(concentrator)
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
