"""The list of concentrators: who posts, who lags and who is silent."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from django import forms
from django.urls import reverse
from django.utils import timezone
from django.utils.safestring import SafeString

from ami_headend.console import registry_queries
from ami_headend.console.fleet_queries import silent_after
from ami_headend.console.formatting import ago, label, link, percent, thousands
from ami_headend.console.lists import ROWS, ListPage, choice, text, text_of
from ami_headend.console.meters import meters_url
from ami_headend.console.tables import Column, Table, table

POSTED_PERIOD = timedelta(hours=24)
LAGGING_AFTER = timedelta(minutes=2)
_STATES = {"active": True, "inactive": False}


class ConcentratorFilters(forms.Form):
    """Concentrators by name, and whether they are let in."""

    search = text("search", "a part of its name")
    state = choice("state", [(state, state) for state in _STATES])


def health_label(
    now: datetime,
    heard_at: datetime | None,
    oldest_waiting_at: datetime | None,
    silent_after: timedelta,
    *,
    is_active: bool,
) -> SafeString:
    """How a concentrator is doing, in a word: lagging is ours, the others are its own."""
    if not is_active:
        return label("inactive")
    if heard_at is None:
        return label("never heard", "danger")
    if oldest_waiting_at is not None and now - oldest_waiting_at > LAGGING_AFTER:
        return label("lagging", "warning")
    return label("silent", "danger") if now - heard_at > silent_after else label("posting", "success")


class ConcentratorsPage(ListPage):
    """Concentrators by name, renewed while it is looked at."""

    route = "concentrators/"
    name = "concentrators"
    title = "Concentrators"
    icon = "router"
    permission_required = ("concentrators.view_concentrator",)
    template_name = "console/concentrators/page.html"
    live_template_name = "console/concentrators/live.html"
    live_every_s = 10
    form_class = ConcentratorFilters

    def find(self, filters: dict[str, Any], after: list[str] | None) -> tuple[Table, Sequence[Any] | None]:
        now = timezone.now()
        rows, key = registry_queries.concentrators(
            filters["search"], _STATES.get(filters["state"]), now - POSTED_PERIOD, text_of(after) if after else "", ROWS
        )
        silence = silent_after()
        see_meters = self.request.user.has_perm("meters.view_meter")
        columns = [
            Column("concentrator"),
            Column("health"),
            Column("last heard"),
            Column("meters", is_number=True),
            Column("frames, 24 h", is_number=True, is_minor=True),
            Column("rejected, 24 h", is_number=True, is_minor=True),
            Column("uplinks waiting", is_number=True, is_minor=True),
        ]
        lines = [
            [
                link(reverse("admin:concentrator", args=[row.id]), row.name),
                health_label(now, row.heard_at, row.oldest_waiting_at, silence, is_active=row.is_active),
                ago(row.heard_at, now),
                link(meters_url(concentrator=row.name), thousands(row.meters)) if see_meters else thousands(row.meters),
                thousands(row.frames),
                f"{thousands(row.rejected)} ({percent(row.rejected, row.frames)})" if row.rejected else "0",
                thousands(row.waiting),
            ]
            for row in rows
        ]
        return table(columns, lines), key
