"""Search over everything for unfold's command palette: a few hits of each kind."""

from typing import Any

from django.contrib import admin
from django.db.models import Model, QuerySet
from django.http import HttpRequest
from django.urls import reverse
from unfold.dataclasses import SearchResult

from ami_headend.console.failures import SEE, failures_url
from concentrators.failures import queries
from concentrators.failures.queries import FailureSelection
from concentrators.models import Concentrator, Uplink
from keyvault.models import DeviceKey
from meters.group_models import TAG
from meters.models import Meter, Place
from meters.registry import access_record, groups
from meters.registry.lookup import RegistryError, parse_system_title
from meters.registry.search import as_q, meter_condition, place_condition

_MODELS: list[tuple[type[Model], str]] = [
    (Meter, "electric_meter"),
    (Concentrator, "router"),
    (Place, "home_pin"),
    (Uplink, "upload"),
    (DeviceKey, "vpn_key"),
]
_HITS = 5
_LENGTH_MIN = 2  # a shorter term would match half of all rows
_PAGES: dict[type[Model], str] = {
    Meter: "admin:meter",
    Concentrator: "admin:concentrator",
    Place: "admin:place",
}  # other models have the admin's pages


def search(request: HttpRequest, term: str) -> list[SearchResult]:
    """Return up to five hits of each model that the user may see, found by that model's own search."""
    if len(term.strip()) < _LENGTH_MIN:
        return []
    found = [*_failures(request, term), *_groups(request, term)]
    for model, icon in _MODELS:
        pages = admin.site.get_model_admin(model)
        if not pages.has_view_permission(request):
            continue
        rows: QuerySet[Any]
        if model is Meter:
            rows = Meter.objects.filter(as_q(meter_condition(term, limit=_HITS)))
        elif model is Place:
            access_record.note(request)
            rows = Place.objects.filter(as_q(place_condition(term, limit=_HITS)))
        else:
            rows, _ = pages.get_search_results(request, pages.get_queryset(request), term)
        name = _PAGES.get(model, f"admin:{model._meta.label_lower.replace('.', '_')}_change")
        found += [
            SearchResult(
                title=str(row),
                description=str(model._meta.verbose_name).capitalize(),
                link=reverse(name, args=[row.pk]),
                icon=icon,
            )
            for row in rows.order_by()[:_HITS]
        ]
    return found


def _groups(request: HttpRequest, term: str) -> list[SearchResult]:
    """Return groups and tags whose name, or kind and name, begins so."""
    if not request.user.has_perm("meters.view_fleetgroup"):
        return []
    return [
        SearchResult(
            title=str(group),
            description="Tag" if group.kind == TAG else "Group",
            link=reverse("admin:group", args=[group.pk]),
            icon="workspaces",
        )
        for group in groups.beginning(term)[:_HITS]
    ]


def _failures(request: HttpRequest, term: str) -> list[SearchResult]:
    """Return the failures of a system title, whether or not a meter has it."""
    if not request.user.has_perm(SEE):
        return []
    try:
        title = parse_system_title(term.strip())
    except RegistryError:
        return []
    rows, _ = queries.failures(FailureSelection(system_title=title), 1)
    return [
        SearchResult(
            title=f"Failures of {title.hex()}",
            description="Integrity failures",
            link=failures_url(meter=title.hex()),
            icon="gpp_maybe",
        )
        for _ in rows
    ]
