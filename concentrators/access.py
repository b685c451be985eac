"""Who may post: concentrators let in or shut out. Journaled, so that a restore shuts out again who was."""

from django.db import transaction

from concentrators.models import Concentrator
from keyvault import journal


def save(concentrator: Concentrator) -> None:
    """Register a concentrator, or change its name or whether it is let in. JournalError: nothing was changed."""
    with transaction.atomic():
        concentrator.save()
        journal.append("concentrator", [concentrator.pk, concentrator.name, concentrator.is_active])
