"""The list of meters: who is heard, who is silent, and where failures wait to be looked at."""

from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any

from django import forms
from django.urls import reverse
from django.utils import timezone
from django.utils.http import urlencode
from django.utils.safestring import SafeString

from ami_headend.console import registry_queries
from ami_headend.console.failures import failures_url
from ami_headend.console.formatting import NOTHING, ago, clipped, label, link, thousands
from ami_headend.console.lists import ROWS, ConcentratorField, ListPage, choice, text, text_of
from ami_headend.console.registry_queries import MeterRow, MeterSelection
from ami_headend.console.tables import Column, Table, table
from meters.models import MeterStatus
from meters.registry import RegistryError, parse_system_title

HEARD_PERIOD = timedelta(hours=24)
STATUS_COLOURS = {MeterStatus.COMMISSIONED: "success", MeterStatus.SUSPENDED: "warning", MeterStatus.RETIRED: ""}


class MeterFilters(forms.Form):
    """Meters by what they are called, their status, how they are heard, and the concentrator that they belong to."""

    search = text("search", "serial number, name or system title")
    health = choice("health", [("heard", "heard"), ("silent", "silent for 24 h"), ("never", "never heard")])
    status = choice("status", MeterStatus.choices)
    concentrator = ConcentratorField()


def health_label(row: MeterRow, now: Any) -> SafeString:
    """How a meter is doing, in a word."""
    if row.status != MeterStatus.COMMISSIONED:
        return label(MeterStatus(row.status).label, STATUS_COLOURS[MeterStatus(row.status)])
    if row.heard_at is None:
        return label("never heard", "danger")
    return label("heard", "success") if now - row.heard_at < HEARD_PERIOD else label("silent", "warning")


def meters_url(**filters: Any) -> str:
    """The address of the list under filters, as the form writes them."""
    return f"{reverse('admin:meters')}?{urlencode(filters)}"


class MetersPage(ListPage):
    """Meters by serial number."""

    route = "meters/"
    name = "meters"
    title = "Meters"
    icon = "electric_meter"
    permission_required = ("meters.view_meter",)
    template_name = "console/meters/page.html"
    form_class = MeterFilters

    def find(self, filters: dict[str, Any], after: list[str] | None) -> tuple[Table, Sequence[Any] | None]:
        now = timezone.now()
        concentrator = filters["concentrator"]
        title = None
        with suppress(RegistryError):
            title = parse_system_title(filters["search"].strip())
        selection = MeterSelection(
            search=filters["search"].strip(),
            system_title=title,
            status=filters["status"],
            concentrator_id=None if concentrator is None else concentrator.pk,
            heard=filters["health"],
            heard_since=now - HEARD_PERIOD,
            after=text_of(after) if after else "",
        )
        return meters_table(selection, self.request.user)


def meters_table(selection: MeterSelection, user: Any) -> tuple[Table, Sequence[Any] | None]:
    """Meters as a table, each leading to its page, and the key to go on after."""
    now = timezone.now()
    rows, key = registry_queries.meters(selection, ROWS)
    see_failures = user.has_perm("concentrators.view_integrityfailure")
    columns = [
        Column("meter"),
        Column("health"),
        Column("last heard"),
        Column("name", is_minor=True),
        Column("concentrator", is_minor=True),
        Column("interval", is_number=True, is_minor=True),
        Column("open failures", is_number=True, is_minor=True),
    ]
    lines = [
        [
            link(reverse("admin:meter", args=[row.id]), row.serial_number),
            health_label(row, now),
            ago(row.heard_at, now),
            clipped(row.name or NOTHING),
            clipped(row.concentrator or "none"),
            f"{row.interval_minutes} min",
            link(failures_url(meter=row.serial_number, state="open"), thousands(row.open_failures))
            if row.open_failures and see_failures
            else thousands(row.open_failures),
        ]
        for row in rows
    ]
    return table(columns, lines), key
