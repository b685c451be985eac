"""Parts of the page of a concentrator that holds keys: its keys, the frames that it dropped, and differing sums."""

from datetime import datetime, timedelta
from typing import Any

from django.http import HttpRequest
from django.urls import reverse

from ami_headend.console.formatting import NOTHING, ago, label, link, moment, thousands
from ami_headend.web.tables import HtmlTable, columns_of, table
from concentrators.fleet import hop_failures
from concentrators.fleet.hop_failures import HopFault
from concentrators.models import Concentrator, HopKeySet
from concentrators.totals import reported_sums
from keyvault import rights
from keyvault.colours import KEY_COLOURS
from keyvault.device_keys import inventory
from meters.models import Meter

_DAYS = 7
_ROWS = 20
_FAULTS = {
    HopFault.TAG_INVALID: "bad tag",
    HopFault.UNTAGGED: "no hop tag",
    HopFault.REPLAYED: "replayed",
}


def blocks(request: HttpRequest, concentrator: Concentrator, now: datetime) -> dict[str, Any]:
    """Return the context of the parts that the account may see; nothing for a concentrator without a system title.

    A fixed number of queries.
    """
    if concentrator.system_title is None:
        return {}
    title = bytes(concentrator.system_title)
    can = request.user.has_perm
    found: dict[str, Any] = {"title_hex": title.hex()}
    if can(rights.SEE_KEYS):
        sealed_at = HopKeySet.objects.filter(pk=concentrator.pk).values_list("sealed_at", flat=True).first()
        found |= {"own_keys": _keys(title, now), "hop_keys_sealed": sealed_at}
    if can("concentrators.view_failuretally"):
        since = now - timedelta(days=_DAYS)
        found["dropped"] = _dropped(hop_failures.reported(since, now, _ROWS, concentrator.pk))
    if can("concentrators.view_intervaltotal"):
        found["sums"] = _sums(reported_sums.differing(concentrator.pk, _ROWS), now)
    return found


def _keys(title: bytes, now: datetime) -> HtmlTable:
    return table(
        columns_of("#epoch", "use", "state", "-algorithm", "last frame"),
        [
            [
                key["epoch"],
                key["use"],
                label(key["state"], KEY_COLOURS.get(key["state"], "")),
                key["algorithm"],
                ago(key["heard_at"], now) if key["heard_at"] else NOTHING,
            ]
            for key in inventory.of_device(title)
        ],
    )


def _dropped(rows: list[hop_failures.HopFailureRow]) -> HtmlTable:
    ids = dict(Meter.objects.filter(serial_number__in={row.meter for row in rows}).values_list("serial_number", "pk"))
    return table(
        columns_of("hour", "meter", "why", "#frames"),
        [
            [
                moment(row.hour),
                link(reverse("admin:meter", args=[ids[row.meter]]), row.meter),
                _FAULTS[HopFault(row.reason)],
                thousands(row.frames),
            ]
            for row in rows
        ],
    )


def _sums(rows: list[reported_sums.DifferingSum], now: datetime) -> HtmlTable:
    return table(
        columns_of("interval", "-register", "#it says", "#of meters", "#we have", "#of meters", "-since"),
        [
            [
                moment(row.interval_start),
                row.obis_code,
                thousands(row.said[0]),
                thousands(row.said[1]),
                thousands(row.own[0]),
                thousands(row.own[1]),
                ago(row.since, now),
            ]
            for row in rows
        ],
    )
