"""Deletes very many rows in transactions of a bounded size."""

from typing import Any

from django.db import transaction
from django.db.models import QuerySet

BATCH = 1_000


def delete(rows: QuerySet[Any], batch: int = BATCH) -> int:
    """Delete the rows of an ordered queryset, with what hangs on them, and return how many rows of it went.

    Each batch is a transaction, so it is safe to stop at any instruction. Rows that somebody has locked are left out.
    """
    deleted = 0
    while True:
        with transaction.atomic():
            ids = list(rows.select_for_update(skip_locked=True).values_list("pk", flat=True)[:batch])
            rows.model.objects.filter(pk__in=ids).delete()
        deleted += len(ids)
        if len(ids) < batch:
            return deleted
