"""Rows that people change: nobody deletes them meanwhile."""

from django.db.models import Model


def hold(row: Model) -> None:
    """Lock a row that is about to be stored or deleted, until the transaction ends; its DoesNotExist if it went.

    Django would insert a row again that went, or delete none, and an audit record would tell of it. Doors answer the
    error (``database_errors.is_lost_race``).
    """
    type(row)._base_manager.select_for_update(no_key=True).values_list("pk").get(pk=row.pk)  # noqa: SLF001
