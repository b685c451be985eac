"""The page of one place: its present and past meters, and the readings across exchanges."""

from datetime import datetime
from typing import Any

from django.shortcuts import get_object_or_404
from django.urls import reverse
from django.utils.functional import cached_property

from ami_headend.console.formatting import label, link, moment
from ami_headend.console.groups import group_links
from ami_headend.console.load_profile import READ_READINGS, LoadProfilePage, exports, green_button, recent_since
from ami_headend.console.meters import STATUS_COLOURS
from ami_headend.console.periods import midnight
from ami_headend.console.register_differences import open_differences
from ami_headend.web.tables import Column, HtmlTable, columns_of, table
from meters.group_models import Via
from meters.models import Installation, MeterStatus, Place
from meters.registry import access_record, groups, place_readings


class PlacePage(LoadProfilePage):
    """One place: a metering point, whichever meter hangs there."""

    route = "places/<int:pk>/"
    name = "place"
    title = "Place"
    icon = "home_pin"
    back = ("admin:places", "All places")
    permission_required = ("meters.view_place",)
    template_name = "console/place/page.html"

    @cached_property
    def place(self) -> Place:
        """Return the place of the address, or 404."""
        return get_object_or_404(Place, pk=self.kwargs["pk"])

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        context = super().get_context_data(**kwargs)
        now, hung = context["now"], place_readings.installations(self.place)
        access_record.note(self.request, meters=[row.meter_id for row in hung], place=self.place.pk)
        can = self.request.user.has_perm
        context |= {
            "place": self.place,
            "title": f"Place {self.place}",
            "groups": group_links((group, [Via.METER]) for group in groups.of_place(self.place.pk)),
            "meters": self._meters(hung, with_exports=can(READ_READINGS), now=now),
        }
        return context | (self._readings(hung, now) if can(READ_READINGS) and hung else {})

    def _readings(self, hung: list[Installation], now: datetime) -> dict[str, Any]:
        """Return the context of readings: the chart of the period, its gaps, and recent days."""
        shown, register = self.shown, self.register
        context = self.load_profile(
            place_readings.load_curve(hung, register, shown.start, shown.end),
            place_readings.load_curve(hung, register, recent_since(now), now),
            place_readings.expected(hung, midnight(self.first_day(now)), now, now),
            place_readings.gaps(hung, register, shown.start, shown.end, now),
            now,
        )
        here = [row.meter_id for row in hung if row.installed_at < shown.end and (row.removed_at or now) > shown.start]
        context |= open_differences(here, register, shown.start, shown.end)
        return context | {"exports": [green_button(self.place, shown.start, shown.end)]}

    def _meters(self, hung: list[Installation], now: datetime, *, with_exports: bool) -> HtmlTable:
        columns = columns_of("meter", "-status", "from", "to")
        if with_exports:
            columns.append(Column("readings", is_minor=True))
        can = self.request.user.has_perm("meters.view_meter")
        rows: list[list[Any]] = []
        for row in hung:
            status = MeterStatus(row.meter.status)
            cells = [
                link(reverse("admin:meter", args=[row.meter_id]), row.meter) if can else str(row.meter),
                label(status.label, STATUS_COLOURS.get(status, "")),
                moment(row.installed_at),
                "hangs here" if row.removed_at is None else moment(row.removed_at),
            ]
            if with_exports:
                (name, url), *_ = exports(row.meter, row.installed_at, row.removed_at or now, self.register)
                cells.append(link(url, name))
            rows.append(cells)
        return table(columns, rows)
