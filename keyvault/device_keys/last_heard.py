"""When a device was last heard: when a frame under any of its keys was accepted, and which concentrator brought it.

The one definition, for SQL and querysets of other modules. Rejected frames do not count.
"""

from datetime import timedelta

from django.db.models import DateTimeField, Max, OuterRef, Subquery
from django.db.models.functions import Greatest

from keyvault.models import InvocationCounter, Session

PERIOD = timedelta(hours=24)  # after this time without an accepted frame pages and metrics call a device silent

# Every counter of keys (key_id, heard_at, heard_via): their own, and those of their sessions.
COUNTERS = """(SELECT key_id, heard_at, heard_via FROM keyvault_invocationcounter
    UNION ALL SELECT key_id, heard_at, heard_via FROM keyvault_session)"""
_OF_DEVICES = f"keyvault_devicekey k JOIN {COUNTERS} n ON n.key_id = k.id"
# Joins ``h`` (heard_at, heard_via) of the device of system title ``{title}``: one row, of nulls where it never was.
LAST = f"""LEFT JOIN LATERAL (
    SELECT n.heard_at, n.heard_via FROM {_OF_DEVICES} WHERE k.system_title = {{title}} AND k.epoch > 0
    ORDER BY n.heard_at DESC NULLS LAST LIMIT 1) AS h ON true"""
# The same of one key, by the column that has its id.
LAST_OF_KEY = f"""LEFT JOIN LATERAL (
    SELECT n.heard_at, n.heard_via FROM {COUNTERS} n WHERE n.key_id = {{key}}
    ORDER BY n.heard_at DESC NULLS LAST LIMIT 1) AS h ON true"""
# The same of every device that has keys (system_title, heard_at), for statements that look at all of them.
OF_ALL = f"(SELECT k.system_title, max(n.heard_at) AS heard_at FROM {_OF_DEVICES} WHERE k.epoch > 0 GROUP BY 1)"
# The highest counter of a key, for a row ``c`` of keyvault_invocationcounter: that of its newest session if it has
# any, else the key's own. -1: none was taken.
HIGHEST = """coalesce(
    (SELECT s.highest FROM keyvault_session s WHERE s.key_id = c.key_id ORDER BY s.context DESC LIMIT 1), c.highest)"""
# Whether a device was heard since a time, which is the parameter.
SINCE = f"EXISTS (SELECT 1 FROM {_OF_DEVICES} WHERE k.system_title = {{title}} AND k.epoch > 0 AND n.heard_at >= %s)"


def last_at(title: str) -> Greatest:
    """For a queryset: when the device was last heard whose system title is in a column."""
    return _latest("key__system_title", title, key__epoch__gt=0)


def last_of_key(key: str) -> Greatest:
    """For a queryset: when a device was last heard under the key whose id is in a column."""
    return _latest("key", key)


def _latest(column: str, outer: str, **only: int) -> Greatest:
    """Return the latest time of a key's own counter and its sessions; NULL if there is none."""
    both = [
        model.objects.filter(**{column: OuterRef(outer)}, **only)
        .order_by()
        .values(column)
        .annotate(last=Max("heard_at"))
        .values("last")
        for model in (InvocationCounter, Session)
    ]
    return Greatest(*(Subquery(each) for each in both), output_field=DateTimeField())
