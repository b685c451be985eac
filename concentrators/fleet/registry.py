"""Who may post: concentrators let in or shut out, and their tokens; each act of a person is audited.

Journaled, so that a restore shuts out again who was.
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
    """Register a concentrator, or change its name, system title or whether it is let in. JournalError: as before.

    Its meters are told a title that is new.
    """
    title = concentrator.system_title
    with transaction.atomic():
        is_new = title is not None and _stands_without(concentrator, bytes(title))
        concentrator.save()
        if is_new:
            concentrator_titles.tell_all_of(concentrator, timezone.now())
        said = [concentrator.pk, concentrator.name, concentrator.is_active, None if title is None else bytes(title)]
        journal.append("concentrator", said)


def _stands_without(concentrator: Concentrator, title: bytes) -> bool:
    """Whether a concentrator stands that has another title, or none."""
    standing = Concentrator.objects.filter(pk=concentrator.pk).first() if concentrator.pk is not None else None
    return standing is not None and (standing.system_title is None or bytes(standing.system_title) != title)


def save_as(actor: Actor, concentrator: Concentrator) -> None:
    """As ``save``, by a person. AuditError or MasterKeyError where it cannot be recorded: nothing was changed."""
    with transaction.atomic():
        save(concentrator)
        subject = {"concentrator": concentrator.name, "id": concentrator.pk}
        if concentrator.system_title is not None:
            subject["device"] = bytes(concentrator.system_title).hex()
        chain.record(actor, "concentrator.save", subject, "let in" if concentrator.is_active else "shut out")


def issue_token(actor: Actor, concentrator: Concentrator, label: str, expires_at: datetime | None) -> str:
    """Make a token and give it in the clear, this once. AuditError or MasterKeyError: none was made."""
    with transaction.atomic():
        token = tokens.issue(concentrator, label, expires_at)
        until = None if expires_at is None else expires_at.isoformat()
        chain.record(actor, "token.issue", {"concentrator": concentrator.name, "label": label, "until": until})
    return token


def revoke_token(actor: Actor, token: ConcentratorToken) -> None:
    """Refuse a token from now on, for good. AuditError or MasterKeyError: it stays as it was."""
    with transaction.atomic():
        tokens.revoke(token)
        subject = {"concentrator": token.concentrator.name, "label": token.label, "id": token.pk}
        chain.record(actor, "token.revoke", subject)


def rotate_token(actor: Actor, token: ConcentratorToken) -> str:
    """A token in place of another, in the clear this once; the old one stays valid for tokens.ROTATION_GRACE.

    AuditError or MasterKeyError: none was made, and the old one stays as it was.
    """
    with transaction.atomic():
        new = tokens.rotate(token)
        subject = {"concentrator": token.concentrator.name, "label": token.label, "id": token.pk}
        chain.record(actor, "token.rotate", subject)
    return new
