"""Summaries of concentrators and of one meter for commands: assignments, last frames, key status."""

from collections import Counter
from datetime import datetime
from typing import Any, NamedTuple

from django.db.models import Count, Q

from concentrators.fleet import health
from concentrators.fleet.assignments import holding
from concentrators.models import Concentrator, ConcentratorToken
from keyvault.device_keys import inventory
from meters.models import Installation, Meter


class ConcentratorRow(NamedTuple):
    """A concentrator with its present meters, its valid tokens, and its last uplink."""

    name: str
    is_active: bool
    moved_to: str  # a cell; empty: it is of this one
    meters: int
    valid_tokens: int
    posted_at: datetime | None


def concentrators(now: datetime) -> list[ConcentratorRow]:
    """Return all concentrators by name, in four queries."""
    usable = ConcentratorToken.objects.filter(Q(expires_at=None) | Q(expires_at__gt=now), revoked_at=None)
    meters, tokens = (
        Counter(dict(rows.order_by().values_list("concentrator").annotate(n=Count("pk"))))
        for rows in (holding(now), usable)
    )
    cells = dict(Concentrator.objects.exclude(moved_to="").values_list("pk", "moved_to").order_by("pk"))
    return [
        ConcentratorRow(one.name, one.is_active, cells.get(one.id, ""), meters[one.id], tokens[one.id], one.posted_at)
        for one in health.of_concentrators(now, now)
    ]


def meter(found: Meter, now: datetime) -> dict[str, Any]:
    """Describe a meter in text and times: its data, place, concentrator and keys. No key octets."""
    installation = Installation.objects.filter(meter=found, removed_at=None).select_related("place").first()
    place = installation.place if installation else None
    assigned = holding(now).filter(meter=found).select_related("concentrator").first()
    keys = inventory.of_device(bytes(found.system_title))
    heard_at, heard_via = max(
        ((key["heard_at"], key["heard_via"]) for key in keys if key["heard_at"]), default=(None, 0)
    )
    via = Concentrator.objects.filter(pk=heard_via).first()
    for key in keys:
        del key["heard_via"]
    return {
        "serial_number": found.serial_number,
        "system_title": bytes(found.system_title).hex(),
        "name": found.name,
        "status": found.status,
        "laboratory": found.is_laboratory,
        "interval_minutes": found.interval_minutes,
        "commissioned_at": found.commissioned_at,
        "retired_at": found.retired_at,
        "place": place and place.name,
        "address": place and place.address,
        "customer_reference": place and place.customer_reference,
        "concentrator": assigned and assigned.concentrator.name,
        "heard_at": heard_at,
        "heard_via": via and via.name,
        "keys": keys,
    }
