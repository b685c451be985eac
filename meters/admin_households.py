"""Households in the admin: places, installations, events, and the record of who looked at them."""

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from unfold.contrib.filters.admin import AutocompleteSelectFilter
from unfold.decorators import display

from ami_headend.web.admin import AuditedAdmin, LargeTableAdmin, PeriodFilter, ReadOnlyAdmin, changed_columns
from keyvault.audit.chain import web_actor
from keyvault.schemes.table import scheme_numbered
from meters.admin_groups import GroupFilter, group_filter
from meters.models import HouseholdAccess, Installation, MeterEvent, Place
from meters.registry import access_record, changes, groups, search
from meters.registry.place_rights import may_see_places


class HouseholdAdmin(LargeTableAdmin):
    """Rows about households; every view of a row or a list is recorded."""

    is_of_households = True

    def changelist_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        access_record.note(request)
        answer: HttpResponse = super().changelist_view(request, *args, **kwargs)
        return answer

    def changeform_view(
        self, request: HttpRequest, object_id: str | None = None, *args: Any, **kwargs: Any
    ) -> HttpResponse:
        row = None if object_id is None else self.get_object(request, object_id)
        if row is not None and self.has_view_permission(request, row):
            self.note_row(request, row)
        answer: HttpResponse = super().changeform_view(request, object_id, *args, **kwargs)
        return answer

    def history_view(self, request: HttpRequest, object_id: str, *args: Any, **kwargs: Any) -> HttpResponse:
        row = self.get_object(request, object_id)
        if row is not None and self.has_view_permission(request, row):
            self.note_row(request, row)
        answer: HttpResponse = super().history_view(request, object_id, *args, **kwargs)
        return answer

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        """Of the search over everything and the choice of a row, too."""
        access_record.note(request)
        return super().get_search_results(request, queryset, search_term)

    def note_row(self, request: HttpRequest, row: Any) -> None:
        """Record the view of one row."""
        place, meter = getattr(row, "place_id", None), getattr(row, "meter_id", None)
        access_record.note(request, meters=None if meter is None else [meter], place=place)


@admin.register(Place)
class PlaceAdmin(HouseholdAdmin, AuditedAdmin):
    """Metering points."""

    when_empty = "A place is where a meter hangs. Add one, then install a meter there, on the meter's page."
    list_display = ["name", "address", "customer_reference"]
    list_filter = [group_filter(groups.of_places)]
    search_fields = ["name"]
    search_help_text = "words of the name or address, or a customer reference"
    ordering = ["name"]
    search_by = {"name": lambda term: search.as_q(search.place_condition(term))}

    def note_row(self, request: HttpRequest, row: Place) -> None:
        access_record.note(request, place=row.pk)

    def save_model(self, request: HttpRequest, obj: Place, form: Any, change: bool) -> None:
        if change:
            changes.change(web_actor(request), obj, changed_columns(form))
        else:
            changes.add(web_actor(request), obj)

    def delete_model(self, request: HttpRequest, obj: Place) -> None:
        changes.remove(web_actor(request), obj)


@admin.register(Installation)
class InstallationAdmin(HouseholdAdmin, ReadOnlyAdmin):
    """Which meter hung where, when; changed on the meter's page."""

    when_empty = "No meter hangs at a place yet. Install one on the meter's page; without, everything works, too."
    list_display = ["meter", "place", "installed_at", "removed_at"]
    list_filter = [
        GroupFilter,
        ("meter", AutocompleteSelectFilter),
        ("place", AutocompleteSelectFilter),
        ("installed_at", PeriodFilter),
    ]
    list_select_related = ["meter", "place"]
    search_fields = ["meter", "place"]
    search_by = {"meter": search.of_meters, "place": search.of_places}
    ordering = ["-id"]
    fields = ["meter", "place", "installed_at", "removed_at"]

    def has_view_permission(self, request: HttpRequest, obj: Installation | None = None) -> bool:
        return super().has_view_permission(request, obj) and may_see_places(request.user)


@admin.register(MeterEvent)
class MeterEventAdmin(HouseholdAdmin, ReadOnlyAdmin):
    """What meters reported of themselves."""

    when_empty = "No meter reported an event: no tamper, no outage."
    list_display = ["captured_at", "meter", "register", "value", "received_at", "protected_by"]
    list_filter = [
        GroupFilter,
        ("meter", AutocompleteSelectFilter),
        ("register", AutocompleteSelectFilter),
        ("captured_at", PeriodFilter),
    ]
    list_select_related = ["meter", "register"]
    search_fields = ["meter"]
    search_by = {"meter": search.of_meters}
    ordering = ["-captured_at", "-id"]
    fields = ["meter", "register", "captured_at", "value", "received_at", "uplink_id", "protected_by"]
    readonly_fields = ["protected_by"]

    @display(description="protected by")
    def protected_by(self, row: MeterEvent) -> str:
        scheme = scheme_numbered(row.scheme)
        return f"{scheme.name}: {scheme.caveat}" if scheme.caveat else scheme.name


@admin.register(HouseholdAccess)
class HouseholdAccessAdmin(ReadOnlyAdmin):
    """Access to household data, by the hour."""

    when_empty = "Nobody has looked at a household's data yet."
    list_display = ["last_at", "account", "meter_shown", "place_shown", "door", "requests", "first_at"]
    list_filter = [GroupFilter, ("meter", AutocompleteSelectFilter), ("last_at", PeriodFilter)]
    list_select_related = ["meter"]
    search_fields = ["account__istartswith", "meter__serial_number__startswith"]
    search_help_text = "the beginning of an account's name or of a meter's serial number"
    ordering = ["-last_at", "-id"]
    fields = ["hour", "account", "door", "meter_shown", "place_shown", "requests", "first_at", "last_at"]
    readonly_fields = ["meter_shown", "place_shown"]

    @display(description="meter")
    def meter_shown(self, row: HouseholdAccess) -> str:
        if row.meter is not None:
            return str(row.meter)
        return "-" if row.place_id else "any"

    @display(description="place")
    def place_shown(self, row: HouseholdAccess) -> str:
        """By its number: who may see the record need not see places."""
        return f"place {row.place_id}" if row.place_id else "-"
