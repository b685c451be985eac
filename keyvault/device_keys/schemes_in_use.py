"""Which scheme protects the readings of a device now: that of its active key.

The one definition, for SQL and querysets of other modules.
"""

from django.db.models import CharField, Exists, OuterRef, QuerySet, Subquery

from ami_headend.core.sql import fetch_rows
from keyvault.models import DeviceKey, KeyState

_ACTIVE = "k.epoch > 0 AND k.state = 'active'"
# Joins ``u`` (scheme) of the device of system title ``{title}``: one row, NULL if it has no active key.
OF = f"""LEFT JOIN LATERAL (
    SELECT k.scheme FROM keyvault_devicekey k WHERE k.system_title = {{title}} AND {_ACTIVE}) AS u ON true"""
# Whether a device is of a scheme, which is the parameter.
IS = f"{{title}} IN (SELECT k.system_title FROM keyvault_devicekey k WHERE k.scheme = %s AND {_ACTIVE})"


def of(title: str) -> Subquery:
    """For a queryset: the scheme of the device whose system title is in a column; None without an active key."""
    return Subquery(_active(title).values("scheme"), output_field=CharField(null=True))


def are(title: str, scheme: str) -> Exists:
    """For a queryset: whether the device whose system title is in a column is of a scheme."""
    return Exists(_active(title).filter(scheme=scheme))


def counts() -> dict[str, int]:
    """Count devices by scheme; reads every key."""
    return dict(
        fetch_rows(f"SELECT k.scheme, count(*) FROM keyvault_devicekey k WHERE {_ACTIVE} GROUP BY 1 ORDER BY 1")
    )


def _active(title: str) -> QuerySet[DeviceKey]:
    return DeviceKey.objects.filter(system_title=OuterRef(title), epoch__gt=0, state=KeyState.ACTIVE).order_by()
