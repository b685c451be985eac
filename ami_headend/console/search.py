"""The search over everything, in unfold's command palette: a few hits of each kind."""

from django.contrib import admin
from django.db.models import Model
from django.http import HttpRequest
from django.urls import reverse
from unfold.dataclasses import SearchResult

from concentrators.models import Concentrator, IntegrityFailure, Uplink
from keyvault.models import DeviceKey
from meters.models import Meter, Place

_MODELS: list[tuple[type[Model], str]] = [
    (Meter, "electric_meter"),
    (Concentrator, "router"),
    (Place, "home_pin"),
    (Uplink, "upload"),
    (IntegrityFailure, "gpp_maybe"),
    (DeviceKey, "vpn_key"),
]
_HITS = 5


def search(request: HttpRequest, term: str) -> list[SearchResult]:
    """Up to five hits of each model that the user may see, by that model's own search."""
    found = []
    for model, icon in _MODELS:
        pages = admin.site.get_model_admin(model)
        if not pages.has_view_permission(request):
            continue
        rows, _ = pages.get_search_results(request, pages.get_queryset(request), term)
        name = f"admin:{model._meta.label_lower.replace('.', '_')}_change"
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
