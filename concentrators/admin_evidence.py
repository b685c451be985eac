"""Uplinks and refused frames in the admin: what was posted, what became of it, and why."""

from typing import Any
from urllib.parse import urlencode

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from unfold.contrib.filters.admin import AutocompleteSelectFilter, ChoicesDropdownFilter, DropdownFilter
from unfold.decorators import action, display

from concentrators.models import IntegrityFailure, Uplink
from concentrators.verdicts import Severity
from keyvault.adminbase import PeriodFilter, ReadOnlyAdmin, hex_of
from keyvault.cose.structures import MalformedError, parse_frame
from keyvault.models import Algorithm

SEVERITY_COLOURS = {"info": "info", "warning": "warning", "critical": "danger"}


class UplinkStateFilter(DropdownFilter):  # type: ignore[misc]
    """Uplinks that want looking at."""

    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [
            ("unverified", "waiting to be verified"),
            ("failing", "failing to be verified"),
            ("rejected", "with rejected frames"),
            ("waiting", "with frames that wait for a key"),
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

    list_display = ["id", "concentrator", "received_at", "frames", "accepted", "duplicate", "rejected", "verified_at"]
    list_filter = [
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
        address = reverse("admin:concentrators_integrityfailure_changelist")
        return HttpResponseRedirect(f"{address}?{urlencode({'uplink__id__exact': object_id})}")


@admin.register(IntegrityFailure)
class IntegrityFailureAdmin(ReadOnlyAdmin):
    """Refused frames with their evidence."""

    list_display = ["received_at", "reason", "severity_label", "meter", "concentrator", "invocation_counter", "detail"]
    list_filter = [
        ("kind", ChoicesDropdownFilter),
        ("severity", ChoicesDropdownFilter),
        ("meter", AutocompleteSelectFilter),
        ("concentrator", AutocompleteSelectFilter),
        ("received_at", PeriodFilter),
    ]
    list_select_related = ["meter", "concentrator"]
    search_fields = ["kid", "uplink_id__exact"]
    search_octets = ["kid"]
    search_help_text = "the first hex digits of a kid (system title and epoch), or the number of an uplink"
    ordering = ["-received_at", "-id"]
    fields = [
        "received_at",
        "reason",
        "severity_label",
        "detail",
        "meter",
        "concentrator",
        "uplink_link",
        "frame_index",
        "claimed",
        "invocation_counter",
        "frame_hex",
        "structure",
    ]
    readonly_fields = ["reason", "severity_label", "uplink_link", "claimed", "frame_hex", "structure"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[IntegrityFailure]:
        return super().get_queryset(request).select_related("meter", "concentrator").defer("frame")

    def lookup_allowed(self, lookup: str, value: Any, request: HttpRequest | None = None) -> bool:
        return lookup == "uplink__id__exact" or bool(super().lookup_allowed(lookup, value, request))

    @display(description="kind", ordering="kind")
    def reason(self, failure: IntegrityFailure) -> str:
        return failure.kind.replace("_", " ")

    @display(description="severity", ordering="severity", label=SEVERITY_COLOURS)
    def severity_label(self, failure: IntegrityFailure) -> str:
        return Severity(failure.severity).name.lower()

    @display(description="uplink")
    def uplink_link(self, failure: IntegrityFailure) -> SafeString:
        address = reverse("admin:concentrators_uplink_change", args=[failure.uplink_id])
        return format_html(
            '<a class="text-primary-600 dark:text-primary-500" href="{}">uplink {}</a>', address, failure.uplink_id
        )

    @display(description="claims to be from")
    def claimed(self, failure: IntegrityFailure) -> str:
        if failure.kid is None:
            return "-"
        kid = bytes(failure.kid)
        return f"system title {kid[:8].hex()}, epoch {int.from_bytes(kid[8:], 'big')}"

    @display(description="frame, as posted")
    def frame_hex(self, failure: IntegrityFailure) -> SafeString:
        octets = bytes(failure.frame)
        return format_html(
            '<code class="break-all font-mono">{}</code><br>{} octets', octets.hex() or "(empty)", len(octets)
        )

    @display(description="its structure")
    def structure(self, failure: IntegrityFailure) -> SafeString | str:
        try:
            frame = parse_frame(bytes(failure.frame))
        except MalformedError as error:
            return f"No frame: {error}."
        named = dict(Algorithm.choices).get(frame.alg, "not one for uplinks")
        parts = [
            ("alg", f"{frame.alg} ({named})"),
            ("kid", f"system title {frame.kid[:8].hex()}, epoch {int.from_bytes(frame.kid[8:], 'big')}"),
            ("Partial IV", f"invocation counter {frame.counter}"),
            ("protected header", frame.protected.hex()),
            ("ciphertext and tag", f"{len(frame.ciphertext)} octets: {frame.ciphertext.hex()}"),
        ]
        return format_html_join("", '<div><strong>{}</strong>: <span class="break-all">{}</span></div>', parts)
