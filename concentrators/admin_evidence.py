"""Uplinks in the admin: what was posted, and what became of it."""

from typing import Any
from urllib.parse import urlencode

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from unfold.contrib.filters.admin import AutocompleteSelectFilter, DropdownFilter
from unfold.decorators import action, display

from ami_headend.web.admin import PeriodFilter, ReadOnlyAdmin, hex_of
from concentrators.fleet import groups
from concentrators.models import Uplink
from meters.admin_groups import group_filter


class UplinkStateFilter(DropdownFilter):  # type: ignore[misc]
    """Uplinks that want looking at."""

    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [
            ("unverified", "waiting to be verified"),
            ("failing", "failing to be verified"),
            ("rejected", "with rejected frames"),
            ("waiting", "with frames that may be judged again"),
        ]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Uplink]) -> QuerySet[Uplink]:
        match self.value():
            case "unverified":
                return queryset.filter(verified_at=None)
            case "failing":
                return queryset.filter(verified_at=None, attempts__gt=0)
            case "rejected":
                return queryset.filter(rejected__gt=0)
            case "waiting":
                return queryset.filter(waiting__gt=0)
        return queryset


@admin.register(Uplink)
class UplinkAdmin(ReadOnlyAdmin):
    """Posted bodies and their verdicts; never their octets."""

    when_empty = "No concentrator has posted yet. It needs a token: see the page Concentrators."
    list_display = ["id", "concentrator", "received_at", "frames", "accepted", "duplicate", "rejected", "verified_at"]
    list_filter = [
        group_filter(groups.of_concentrators),
        ("concentrator", AutocompleteSelectFilter),
        UplinkStateFilter,
        ("received_at", PeriodFilter),
    ]
    list_select_related = ["concentrator"]
    search_fields = ["id__exact"]
    search_help_text = "the number of an uplink, as its receipt names it"
    fields = [
        "id",
        "concentrator",
        "received_at",
        "digest",
        "octets",
        "frames",
        "accepted",
        "duplicate",
        "rejected",
        "refused",
        "waiting",
        "verified_at",
        "attempts",
        "due_at",
        "last_error",
    ]
    readonly_fields = ["digest", "refused"]
    actions_detail = ["show_failures"]

    def has_failures_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("concentrators.view_integrityfailure")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Uplink]:
        return super().get_queryset(request).select_related("concentrator").defer("body")

    def get_ordering(self, request: HttpRequest) -> list[str]:
        # Each order is that of an index; the ids follow the time.
        return ["-received_at", "-id"] if "concentrator__id__exact" in request.GET else ["-id"]

    @display(description="SHA-256")
    def digest(self, uplink: Uplink) -> str:
        return hex_of(uplink.sha256)

    @display(description="rejected by kind")
    def refused(self, uplink: Uplink) -> str:
        return ", ".join(f"{kind.replace('_', ' ')} {count}" for kind, count in sorted(uplink.failures.items())) or "-"

    @action(description="Failures", icon="gpp_maybe", permissions=["failures"])
    def show_failures(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return HttpResponseRedirect(f"{reverse('admin:failures')}?{urlencode({'uplink': object_id})}")
