"""The admin's lists of models: their saved views, and their export: what they show of the rows that filters leave."""

import html
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
from django.apps import apps
from django.contrib import admin
from django.contrib.admin.exceptions import NotRegistered
from django.contrib.admin.utils import lookup_field
from django.contrib.admin.views.main import ORDER_VAR, PAGE_VAR, SEARCH_VAR
from django.core.exceptions import PermissionDenied
from django.db.models import Model, QuerySet
from django.http import Http404, HttpRequest, HttpResponseBase, HttpResponseRedirect, QueryDict
from django.urls import reverse
from django.utils.html import strip_tags

from ami_headend.console import list_exports, lists
from ami_headend.console.list_exports import ListExport, paged
from ami_headend.console.page import ConsolePage
from ami_headend.web.admin import LargeTableAdmin
from meters.registry import access_record


class ModelList:
    """A list of the admin, as components/views.html needs it: under its label, as in auth.user."""

    can_export = True

    def __init__(self, request: HttpRequest, label: str) -> None:
        self.request, self.name = request, label
        self.at = reverse("admin:model-list", args=[label])
        self.query = request.GET.urlencode()

    def views(self) -> dict[str, Any]:
        """Return its saved views. Two queries."""
        return lists.saved(self.request, self.name, (PAGE_VAR,))


def address(request: HttpRequest, label: str) -> str | None:
    """Return the address of a list that the user may see; None for others, and for what is no list."""
    try:
        model_admin = _admin_of(label)
    except Http404:
        return None
    return _path(label) if model_admin.has_view_permission(request) else None


def _path(label: str) -> str:
    return reverse(f"admin:{label.replace('.', '_').lower()}_changelist")


class ModelListPage(ConsolePage):
    """Opens a saved view of a list of the admin, or exports its rows in order of their numbers.

    Each export is audited, whatever its rows are.
    """

    route = "lists/<str:label>/"
    name = "model-list"
    title = "Views and export of a list"

    def get(  # type: ignore[override]  # a page of Django's is never a stream
        self, request: HttpRequest, label: str
    ) -> HttpResponseBase:
        model_admin = _admin_of(label)
        if not model_admin.has_view_permission(request):
            raise PermissionDenied
        if "view" in request.GET:
            view, known = request.GET["view"], _known(request, model_admin)
            return HttpResponseRedirect(lists.view_url(request, view, label.lower(), _path(label), known))
        if model_admin.is_of_households:
            access_record.note(request)
        form = request.GET.get("export")
        query = request.GET.copy()
        query.pop("export", None)
        query.pop(PAGE_VAR, None)
        request.GET = query  # type: ignore[assignment]  # a changelist takes its filters from here, and knows no others
        rows: QuerySet[Any] = model_admin.get_changelist_instance(request).get_queryset(request)
        columns = [name for name in model_admin.get_list_display(request) if name != "action_checkbox"]
        schema = pa.schema([(str(name).replace("__str__", "name"), pa.string()) for name in columns])
        back = f"{_path(label)}?{query.urlencode()}" if query else _path(label)

        def page(key: Any) -> tuple[list[list[str | None]], Any]:
            found = rows.order_by("pk") if key is None else rows.order_by("pk").filter(pk__gt=key)
            shown = list(found[: list_exports.BATCH])
            last = shown[-1].pk if len(shown) == list_exports.BATCH else None
            return [_cells(row, columns, model_admin) for row in shown], last

        def count(most: int) -> int:
            return rows.order_by().values("pk")[:most].count()

        export = ListExport(schema, paged(page), count, is_personal=True)
        return list_exports.answer(request, label.replace(".", "-"), export, back, form)


def _known(request: HttpRequest, model_admin: LargeTableAdmin) -> set[str]:
    """Return the parameters that the list has: of its filters, its search and its order."""
    request.GET = QueryDict()
    filters = model_admin.get_changelist_instance(request).filter_specs
    return {SEARCH_VAR, ORDER_VAR, *(name for one in filters for name in one.expected_parameters())}


def _admin_of(label: str) -> LargeTableAdmin:
    try:
        model_admin = admin.site.get_model_admin(apps.get_model(label))
    except (LookupError, ValueError, NotRegistered):
        raise Http404 from None
    if not isinstance(model_admin, LargeTableAdmin) or model_admin.list_before_template is None:
        raise Http404
    return model_admin


def _cells(row: Model, columns: Sequence[Any], model_admin: LargeTableAdmin) -> list[str | None]:
    return [_text(lookup_field(name, row, model_admin)[2]) for name in columns]


def _text(value: Any) -> str | None:
    """Write a value of a column as text, without the tags of a page."""
    if value is None:
        return None
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    if isinstance(value, bytes | memoryview):
        return bytes(value).hex()
    if hasattr(value, "__html__"):
        return html.unescape(strip_tags(str(value)))
    return str(value)
