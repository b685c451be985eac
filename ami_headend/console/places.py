"""The list of places: search by name, address or customer, each with its present meter."""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple

from django.db.models import Prefetch, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse

from ami_headend.console import list_exports
from ami_headend.console.formatting import NOTHING, clipped, link, moment
from ami_headend.console.groups import fill, filling
from ami_headend.console.list_exports import ListExport, paged
from ami_headend.console.lists import ROWS, ListPage, box, chosen, number_of, page_key, text, text_of
from ami_headend.web.forms import KnownParametersForm
from ami_headend.web.tables import Column, HtmlTable, columns_of, table
from concentrators.fleet.groups import Members
from meters.group_forms import GroupsField, ids
from meters.models import Installation, Place
from meters.registry import access_record, groups, search


class PlaceFilters(KnownParametersForm):
    """Filters places by name, address or customer."""

    search = text("search", "name, address or customer reference")
    group = GroupsField()


class PlaceRow(NamedTuple):
    """A place in the export, with the meter that hangs there."""

    name: str
    address: str
    customer_reference: str
    latitude: Decimal | None
    longitude: Decimal | None
    meter: str | None
    installed_at: datetime | None


class PlacesPage(ListPage):
    """Places by name."""

    route = "places/"
    name = "places"
    title = "Places"
    icon = "home_pin"
    permission_required = ("meters.view_place",)
    template_name = "console/places/page.html"
    form_class = PlaceFilters

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        return super().get_context_data(group_acts=filling(self.request.user), **kwargs)

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        """Put the chosen places into a group, or take them out."""
        access_record.note(request)
        fill(request, Members(places=chosen(request, "place")))
        return HttpResponseRedirect(request.get_full_path())

    def matching(self, filters: dict[str, Any]) -> QuerySet[Place]:
        """Return the places that the filters leave, by name (of groups by id), each with its present installation."""
        now_hanging = Installation.objects.filter(removed_at=None).select_related("meter")
        rows = Place.objects.order_by("name").prefetch_related(
            Prefetch("installations", now_hanging, to_attr="now_hanging")
        )
        if filters["search"].strip():
            rows = rows.filter(search.as_q(search.place_condition(filters["search"])))
        if filters["group"]:
            rows = rows.filter(groups.places_in_order(ids(filters["group"]) or ())).order_by("pk")
        return rows

    def exported(self, filters: dict[str, Any]) -> ListExport:
        access_record.note(self.request)
        rows = self.matching(filters)

        order = "pk" if filters["group"] else "name"

        def page(key: str | int | None) -> tuple[list[PlaceRow], str | int | None]:
            shown = list((rows if key is None else rows.filter(**{f"{order}__gt": key}))[: list_exports.BATCH])
            following = _key(shown[-1], filters) if len(shown) == list_exports.BATCH else None
            return [_row(place) for place in shown], following

        return ListExport(PlaceRow, paged(page), lambda most: rows.order_by()[:most].count(), is_personal=True)

    def find(self, filters: dict[str, Any], after: list[str] | None) -> tuple[HtmlTable, Sequence[Any] | None]:
        access_record.note(self.request)
        rows = self.matching(filters)
        if after:
            is_by_id = bool(filters["group"])
            with page_key():
                rows = (
                    rows.filter(pk__gt=number_of(after[0], 2**31)) if is_by_id else rows.filter(name__gt=text_of(after))
                )
        shown = list(rows[:ROWS])
        columns = columns_of("place", "address", "-customer", "meter", "-since")
        see_meters = self.request.user.has_perm("meters.view_meter")
        lines = [_line(place, see_meters=see_meters) for place in shown]
        if filling(self.request.user):
            columns.insert(0, Column(""))
            for place, line in zip(shown, lines, strict=True):
                line.insert(0, box("fill", "place", place.pk, f"choose place {place.name}"))
        return table(columns, lines), [_key(shown[-1], filters)] if len(shown) == ROWS else None


def _key(place: Place, filters: dict[str, Any]) -> str | int:
    """Return where a page ends: of groups by id, else by name."""
    return place.pk if filters["group"] else place.name


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


def _row(place: Place) -> PlaceRow:
    standing: list[Installation] = place.now_hanging  # type: ignore[attr-defined]  # the prefetch names it
    where = (place.name, place.address, place.customer_reference, place.latitude, place.longitude)
    if not standing:
        return PlaceRow(*where, None, None)
    return PlaceRow(*where, standing[0].meter.serial_number, standing[0].installed_at)
