"""Code that the admin pages of all apps share: read-only and audited models, large tables, pages with a form."""

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar

from django import forms
from django.contrib import messages
from django.contrib.admin import ModelAdmin as DjangoModelAdmin
from django.contrib.admin import ShowFacets
from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.utils import unquote
from django.contrib.admin.views.main import ORDER_VAR
from django.core.exceptions import BadRequest, ObjectDoesNotExist
from django.core.paginator import Paginator
from django.db import connection
from django.db.models import BinaryField, Model, Q, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.cache import add_never_cache_headers
from django.utils.formats import localize
from django.utils.functional import cached_property
from unfold.admin import ModelAdmin
from unfold.contrib.filters.admin import RangeDateTimeFilter
from unfold.views import ChangeList

from ami_headend.core import rows
from ami_headend.core.clock import EARLIEST, LATEST
from ami_headend.core.numbers import row_number
from ami_headend.web.forms import SEPARATORS
from keyvault.audit.chain import AuditError
from keyvault.master_key import MasterKeyError

COUNTED_ROWS = 10_000
_HEX = re.compile(r"(?:[0-9a-fA-F]{2}){1,32}", re.ASCII)


class CappedPaginator(Paginator[Any]):
    """Counts up to COUNTED_ROWS only, so that a list over millions of rows stays cheap; filters narrow it down."""

    template_name = "keyvault/pagination.html"

    @cached_property
    def count(self) -> int:
        rows = self.object_list
        assert isinstance(rows, QuerySet)  # noqa: S101 - the admin pages nothing else
        found: int = rows.order_by().values("pk")[: COUNTED_ROWS + 1].count()
        self.is_capped = found > COUNTED_ROWS
        return min(found, COUNTED_ROWS)


class CappedChangeList(ChangeList):  # type: ignore[misc]
    """A list without the link to show all rows, and sorted by offered columns only."""

    def get_ordering_field(self, field_name: Any) -> Any:
        """Return the field of a column; None if the list may not be sorted by it."""
        return super().get_ordering_field(field_name) if field_name in self.sortable_by else None

    def get_ordering(self, request: HttpRequest, queryset: QuerySet[Any]) -> list[Any]:
        """Sort by the one chosen column and then by the key, in the same direction.

        One index on both then serves both directions, however many rows share a value or have none.
        """
        if not self.params.get(ORDER_VAR):
            return super().get_ordering(request, queryset)  # type: ignore[no-any-return]
        column, *_ = super().get_ordering(request, queryset.order_by())
        if column == "-pk":  # the list cannot be sorted by any requested column
            return super().get_ordering(request, queryset)  # type: ignore[no-any-return]
        ordering: list[Any] = self._get_deterministic_ordering([column])
        is_backward = str(column).startswith("-")
        return [column, *("-pk" if is_backward else "pk" for _ in ordering[1:])]

    def get_ordering_field_columns(self) -> dict[int, str]:
        """Return the first column only, if an address names several: the list is sorted by that one."""
        columns: dict[int, str] = super().get_ordering_field_columns()
        return dict(list(columns.items())[:1]) if self.params.get(ORDER_VAR) else columns

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        self.full_result_count = self.result_count

    def get_filters(self, request: HttpRequest) -> Any:
        """Return the filters that the page offers; BadRequest for others, which Django would look up unchecked."""
        found = super().get_filters(request)
        if unknown := sorted(found[2]):
            raise BadRequest(
                f"This list has no filter {', '.join(name[:80] for name in unknown)}. Nothing was looked up."
            )
        return found


class PeriodFilter(RangeDateTimeFilter):  # type: ignore[misc]
    """A period between two times in the viewer's zone."""

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        for end, lookup in (("from", "gte"), ("to", "lte")):
            date, clock = (self.used_parameters.get(f"{self.parameter_name}_{end}_{part}") or "" for part in (0, 1))
            if not date:
                continue
            try:
                at = datetime.fromisoformat(f"{date} {clock or '00:00'}").replace(
                    tzinfo=timezone.get_current_timezone()
                )
            except ValueError as error:
                raise IncorrectLookupParameters(f"{date} {clock} is not a time") from error
            if not EARLIEST <= at <= LATEST:
                raise IncorrectLookupParameters(f"{date} is beyond all times that can be stored")
            queryset = queryset.filter(**{f"{self.parameter_name}__{lookup}": at})
        return queryset


class LargeTableAdmin(ModelAdmin):  # type: ignore[misc]
    """Lists without a count of all rows, and with a search that indexes serve.

    ``when_empty`` is the text of an empty list; who sees rows that are ``is_of_households`` is recorded.

    The whole search term is looked for in any of ``search_fields``: columns in ``search_octets`` by their first hex
    digits (a range of their index), ``..._id__exact`` and the like by a number, columns in ``search_by`` by a search of
    their own, others by the lookup they name.
    """

    paginator = CappedPaginator
    show_full_result_count = False
    show_facets = ShowFacets.NEVER  # each would count all rows
    list_per_page = 50
    list_max_show_all = 0
    list_disable_select_all = True
    list_filter_submit = True
    list_before_template: str | None = "console/components/model_list.html"  # None: neither views nor an export
    search_octets: Sequence[str] = ()
    search_by: Mapping[str, Callable[[str], Q]] = {}
    when_empty = ""
    is_of_households = False

    def get_sortable_by(self, request: HttpRequest) -> Sequence[Any]:
        """Return the columns that have an index: sorting a million rows without one takes seconds."""
        columns: Sequence[Any] = super().get_sortable_by(request)
        return [column for column in columns if self._is_indexed(str(column))]

    def _is_indexed(self, column: str) -> bool:
        method = getattr(self, column, None)
        name = str(getattr(method, "admin_order_field", None) or column).removeprefix("-")
        field = next((field for field in self.opts.concrete_fields if field.name == name), None)
        if field is None or field.is_relation:  # Django sorts by the other table's order
            return False
        first = [[*index.fields, ""][0] for index in self.opts.indexes if index.condition is None]
        unique = [one.fields[0] for one in self.opts.total_unique_constraints]
        return field.unique or field.db_index or name in (*(one.removeprefix("-") for one in first), *unique)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        found: QuerySet[Any] = super().get_queryset(request)
        return found

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Any:
        """Return the row of a page; None if there is none. One that is about to be stored or deleted is held until
        then, so that nobody deletes it meanwhile.
        """
        row = super().get_object(request, object_id, from_field)
        may_act = self.has_change_permission(request) or self.has_delete_permission(request)
        if row is None or request.method != "POST" or not connection.in_atomic_block or not may_act:
            return row
        try:
            self.hold(row)
        except ObjectDoesNotExist:
            return None
        return row

    def hold(self, row: Any) -> None:
        """Lock a row that is about to be stored or deleted; its DoesNotExist if it went."""
        rows.hold(row)

    def _get_obj_does_not_exist_redirect(self, request: HttpRequest, opts: Any, object_id: str) -> HttpResponse:
        """Lead to the list, and say what happened; Django's own answer leads to the index."""
        said = "It was deleted meanwhile: nothing was changed." if request.method == "POST" else "It may be deleted."
        messages.error(request, f"There is no {opts.verbose_name} {unquote(object_id)[:80]} any more. {said}")
        return HttpResponseRedirect(reverse(f"admin:{opts.app_label}_{opts.model_name}_changelist"))

    def lookup_allowed(self, lookup: str, value: Any, request: HttpRequest) -> bool:
        """Allow every filter of the page (``CappedChangeList`` refuses others), except on columns of octets.

        PostgreSQL's driver cannot look up octets by the text of an address.
        """
        name = lookup.partition("__")[0]
        return not any(field.name == name and isinstance(field, BinaryField) for field in self.opts.fields)

    def get_changelist_instance(self, request: HttpRequest) -> ChangeList:
        """Refuse a filter that cannot be read; Django would show the whole list instead."""
        try:
            return super().get_changelist_instance(request)
        except IncorrectLookupParameters as error:
            raise BadRequest("A filter of this list, or the number of its page, cannot be read.") from error

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return CappedChangeList

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        term = search_term.strip()
        if not term:
            return queryset, False
        digits = SEPARATORS.sub("", term)
        conditions = Q()
        for column in self.get_search_fields(request):
            if column in self.search_by:
                conditions |= self.search_by[column](term)
            elif column in self.search_octets:
                if _HEX.fullmatch(digits):
                    conditions |= octets_begin(column, bytes.fromhex(digits))
            elif column.endswith("__exact"):
                if row_number(term) is not None:
                    conditions |= Q(**{column: int(term)})
            elif "\0" not in term:
                conditions |= Q(**{column: term})
        return (queryset.filter(conditions) if conditions else queryset.none()), False


class AuditedAdmin(LargeTableAdmin):
    """Admin pages whose acts are audited; without a usable audit key they refuse to act and say why.

    ``refusals`` are the errors by which the domain refuses an act.
    """

    refusals: ClassVar[tuple[type[Exception], ...]] = ()

    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        return self._unless_refused(request, super().changeform_view, *args, **kwargs)

    def delete_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        return self._unless_refused(request, super().delete_view, *args, **kwargs)

    def _unless_refused(self, request: HttpRequest, view: Any, *args: Any, **kwargs: Any) -> HttpResponse:
        try:
            response: HttpResponse = view(request, *args, **kwargs)
            return response
        except (AuditError, MasterKeyError) as error:
            return self._refused(request, f", because it could not be recorded: {error}")
        except self.refusals as error:
            return self._refused(request, f": {error}")

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        actions: dict[str, Any] = super().get_actions(request)
        actions.pop("delete_selected", None)  # one at a time, so that each deletion is recorded
        return actions

    def _refused(self, request: HttpRequest, why: str) -> HttpResponse:
        messages.error(request, f"Nothing was changed{why}")
        return HttpResponseRedirect(request.get_full_path())


def changed_columns(form: forms.ModelForm[Any]) -> list[str]:
    """Return the columns of the row that somebody changed in a form: the others may have changed meanwhile."""
    columns = {column.name for column in form.instance._meta.fields}
    return [name for name in form.changed_data if name in columns]


class ReadOnlyAdmin(LargeTableAdmin):
    """A model that the head-end writes and people only read."""

    list_display_links: Sequence[str] | None

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        """Leave out the link to the history of manual changes: there are none."""
        context = {**(extra_context or {}), "show_history": False}
        response: HttpResponse = super().changeform_view(request, object_id, form_url, context)
        return response

    def has_add_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False


def octets_begin(column: str, prefix: bytes) -> Q:
    """Match rows whose octets begin with ``prefix``, as a range that an index serves."""
    beyond = (int.from_bytes(prefix, "big") + 1).to_bytes(len(prefix) + 1, "big")[1:]
    condition = Q(**{f"{column}__gte": prefix})
    return condition & Q(**{f"{column}__lt": beyond}) if any(beyond) else condition


def hex_of(octets: bytes | memoryview | None) -> str:
    """Return octets of a binary column in hex; a dash for none."""
    return "-" if octets is None else bytes(octets).hex()


def shown(at: datetime | None, never: str = "never") -> str:
    """Return a time for pages, in the viewer's zone; Django itself would print microseconds."""
    return never if at is None else str(localize(timezone.localtime(at)))


def form_page(
    model_admin: DjangoModelAdmin[Any],
    request: HttpRequest,
    form: forms.Form,
    **context: Any,
) -> HttpResponse:
    """Return a page of the admin site with one form: ``title``, ``submit_text`` (the button), ``back`` (a URL),
    ``text``.

    If ``secret`` (headed ``shown_once``) is given, it is shown instead of the form. No cache stores the page.
    """
    response = TemplateResponse(
        request,
        "keyvault/form_page.html",
        {**model_admin.admin_site.each_context(request), "form": form, "media": form.media, **context},
    )
    add_never_cache_headers(response)
    return response
