"""What people change of meters, places and registers: stored and recorded in the audit chain, both or neither.

A record never goes. So of places, and of the names that people give to meters, which tell of households, it has no
values, only which fields changed; a place is named by its number.
"""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

from django.db import transaction

from ami_headend.core import rows
from keyvault.audit import chain
from keyvault.audit.chain import Actor
from meters.models import Meter, Place, Register

Row = Meter | Place | Register
_OF_HOUSEHOLDS = {"name", "address", "customer_reference", "latitude", "longitude"}


def add(actor: Actor, row: Row) -> None:
    """Store a new row. AuditError or MasterKeyError: nothing was stored."""
    with transaction.atomic():
        row.save(force_insert=True)
        chain.record(actor, f"{row._meta.model_name}.add", _named(row))


def change(actor: Actor, row: Row, fields: Sequence[str]) -> None:
    """Store these fields of a row, and no other, which may have changed since the row was read.

    AuditError or MasterKeyError, or its DoesNotExist if it was deleted meanwhile: nothing was changed.
    """
    if not fields:
        return
    with transaction.atomic():
        before = type(row).objects.select_for_update(no_key=True).values(*fields).get(pk=row.pk)
        row.save(update_fields=fields)
        told = {name: [_plain(before[name]), _plain(getattr(row, name))] for name in fields if _is_told(row, name)}
        subject = {**_named(row), "fields": sorted(fields), **({"changed": told} if told else {})}
        chain.record(actor, f"{row._meta.model_name}.change", subject)


def remove(actor: Actor, row: Row) -> None:
    """Delete a row. AuditError or MasterKeyError: it is still there; its DoesNotExist if it went before."""
    with transaction.atomic():
        rows.hold(row)
        subject = _named(row)
        row.delete()
        chain.record(actor, f"{row._meta.model_name}.remove", subject)


def note(actor: Actor, act: str, meters: Sequence[Meter], **said: Any) -> None:
    """Record an act on meters, in the transaction that does it. AuditError or MasterKeyError: it must not be done."""
    devices = [bytes(meter.system_title).hex() for meter in meters[: chain.NAMED_MAX]]
    which = {"device": devices[0]} if len(meters) == 1 else {"devices": devices, "count": len(meters)}
    chain.record(actor, f"meter.{act}", {**which, **{name: _plain(value) for name, value in said.items()}})


def _named(row: Row) -> dict[str, Any]:
    if isinstance(row, Meter):
        return {"device": bytes(row.system_title).hex()}
    return {"register": row.obis_code} if isinstance(row, Register) else {"place": row.pk}


def _is_told(row: Row, name: str) -> bool:
    return isinstance(row, Register) or name not in _OF_HOUSEHOLDS


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value) if isinstance(value, Decimal) else value
