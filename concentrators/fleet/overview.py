"""What a command shows of concentrators and of one meter: who belongs where, who was heard when, how keys stand."""

from datetime import datetime
from typing import Any, NamedTuple

from ami_headend.core.sql import fetch_rows
from concentrators.models import Concentrator
from keyvault.models import Algorithm
from meters.models import Installation, Meter


class ConcentratorRow(NamedTuple):
    """A concentrator, the meters that are assigned to it now, its tokens that are valid, and its last uplink."""

    name: str
    is_active: bool
    meters: int
    valid_tokens: int
    posted_at: datetime | None


def concentrators(now: datetime) -> list[ConcentratorRow]:
    """All concentrators by name, in one query."""
    rows = fetch_rows(
        """SELECT c.name, c.is_active, coalesce(a.meters, 0), coalesce(t.tokens, 0), u.received_at
           FROM concentrators_concentrator c
           LEFT JOIN (SELECT concentrator_id, count(*) AS meters FROM concentrators_assignment
                      WHERE valid_from <= %s AND (valid_to IS NULL OR valid_to > %s) GROUP BY 1) a
                ON a.concentrator_id = c.id
           LEFT JOIN (SELECT concentrator_id, count(*) AS tokens FROM concentrators_concentratortoken
                      WHERE revoked_at IS NULL AND (expires_at IS NULL OR expires_at > %s) GROUP BY 1) t
                ON t.concentrator_id = c.id
           LEFT JOIN LATERAL (SELECT received_at FROM concentrators_uplink l WHERE l.concentrator_id = c.id
                              ORDER BY received_at DESC LIMIT 1) u ON true
           ORDER BY c.name""",
        now,
        now,
        now,
    )
    return [ConcentratorRow(*row) for row in rows]


def meter(found: Meter, now: datetime) -> dict[str, Any]:
    """A meter as text and times: what it is, where it hangs and belongs, its keys. No octets of keys."""
    installation = Installation.objects.filter(meter=found, removed_at=None).select_related("place").first()
    place = installation.place if installation else None
    assigned = found.assignments.filter(valid_to=None, valid_from__lte=now).select_related("concentrator").first()
    keys = _keys(bytes(found.system_title))
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


def _keys(title: bytes) -> list[dict[str, Any]]:
    """The keys of a device, the newest first."""
    rows = fetch_rows(
        """SELECT k.epoch, k.state, k.algorithm, k.source, k.fingerprint, c.highest, c.heard_at, c.heard_via
           FROM keyvault_devicekey k LEFT JOIN keyvault_invocationcounter c ON c.key_id = k.id
           WHERE k.system_title = %s ORDER BY k.epoch DESC""",
        title,
    )
    return [
        {
            "epoch": epoch,
            "use": "transfer key" if epoch == 0 else "device key",
            "state": state,
            "algorithm": Algorithm(algorithm).label,
            "source": source,
            "fingerprint": None if name is None else name.hex(),
            "counter": None if highest is None or highest < 0 else highest,
            "heard_at": heard_at,
            "heard_via": heard_via,
        }
        for epoch, state, algorithm, source, name, highest, heard_at, heard_via in rows
    ]
