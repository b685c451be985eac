"""The list of places: search by name, address or customer, each with its present meter."""

from collections.abc import Sequence
from typing import Any

from django.db.models import Prefetch
from django.urls import reverse

from ami_headend.console.formatting import NOTHING, clipped, link, moment
from ami_headend.console.lists import ROWS, ListPage, text, text_of
from ami_headend.web.admin import KnownParametersForm
from ami_headend.web.tables import HtmlTable, columns_of, table
from meters.models import Installation, Place
from meters.registry import access_record, search


class PlaceFilters(KnownParametersForm):
    """Filters places by name, address or customer."""

    search = text("search", "name, address or customer reference")


class PlacesPage(ListPage):
    """Places by name."""

    route = "places/"
    name = "places"
    title = "Places"
    icon = "home_pin"
    permission_required = ("meters.view_place",)
    template_name = "console/places/page.html"
    form_class = PlaceFilters

    def find(self, filters: dict[str, Any], after: list[str] | None) -> tuple[HtmlTable, Sequence[Any] | None]:
        access_record.note(self.request)
        now_hanging = Installation.objects.filter(removed_at=None).select_related("meter")
        rows = Place.objects.order_by("name").prefetch_related(
            Prefetch("installations", now_hanging, to_attr="now_hanging")
        )
        if filters["search"].strip():
            rows = rows.filter(search.as_q(search.place_condition(filters["search"])))
        if after:
            rows = rows.filter(name__gt=text_of(after))
        shown = list(rows[:ROWS])
        columns = columns_of("place", "address", "-customer", "meter", "-since")
        see_meters = self.request.user.has_perm("meters.view_meter")
        lines = [_line(place, see_meters=see_meters) for place in shown]
        return table(columns, lines), [shown[-1].name] if len(shown) == ROWS else None


def _line(place: Place, *, see_meters: bool) -> list[Any]:
    standing: list[Installation] = place.now_hanging  # type: ignore[attr-defined]  # the prefetch names it
    hanging = standing[0] if standing else None
    meter: Any = "none"
    if hanging is not None:
        url = reverse("admin:meter", args=[hanging.meter_id])
        meter = link(url, hanging.meter) if see_meters else str(hanging.meter)
    return [
        link(reverse("admin:place", args=[place.pk]), place.name),
        clipped(place.address or NOTHING),
        place.customer_reference or NOTHING,
        meter,
        NOTHING if hanging is None else moment(hanging.installed_at),
    ]
