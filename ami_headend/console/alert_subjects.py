"""The subjects of a shared alert: a list like that of meters or concentrators, and the same as a file."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import get_object_or_404
from django.urls import reverse
from django.utils import timezone

from ami_headend.alerts import silence
from ami_headend.alerts.models import Alert, GatheredSubjects, SubjectKind
from ami_headend.console.formatting import ago, label, link
from ami_headend.console.lists import ROWS, number_of, page_key, text, text_of
from ami_headend.console.meters import MetersActingPage, meters_table
from ami_headend.console.page import ConsolePage
from ami_headend.console.registry_queries import MeterSelection
from ami_headend.core.sql import chunks
from ami_headend.web.forms import KnownParametersForm
from ami_headend.web.tables import HtmlTable, columns_of, table
from concentrators.fleet import groups
from concentrators.models import Concentrator
from meters.group_forms import GroupsField, ids
from meters.models import Meter
from meters.readings import export

RIGHTS = {SubjectKind.METER: "meters.view_meter", SubjectKind.CONCENTRATOR: "concentrators.view_concentrator"}
_METERS = pa.schema([("meter_id", pa.int64()), ("serial_number", pa.string()), ("system_title", pa.string())])
_CONCENTRATORS = pa.schema([("concentrator_id", pa.int64()), ("concentrator", pa.string())])


class SubjectFilters(KnownParametersForm):
    """Filters subjects by name and group."""

    search = text("search", "first characters of the serial number or name")
    group = GroupsField()


class AlertSubjectsPage(MetersActingPage):
    """The meters or concentrators of an alert at its last evaluation."""

    route = "alerts/<int:pk>/subjects/"
    name = "alert-subjects"
    title = "Subjects of an alert"
    permission_required = ("alerts.view_alert",)
    template_name = "console/alert/subjects.html"
    form_class = SubjectFilters

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        self.gathered = _gathered(self.request, kwargs["pk"])
        alert = self.gathered.alert
        return {
            **super().get_context_data(**kwargs),
            "title": f"{alert.rule}: {alert.subject}",
            "alert": alert,
            "listed": len(self.gathered.ids),
            "export_url": reverse("admin:alert-subjects-export", args=[alert.pk]),
        }

    def find(self, filters: dict[str, Any], after: list[str] | None) -> tuple[HtmlTable, Sequence[Any] | None]:
        search = filters["search"].strip()
        if self.gathered.kind == SubjectKind.METER:
            with page_key():
                place = text_of(after) if after else ""
            selection = MeterSelection(
                search=search, ids=tuple(self.gathered.ids), group_ids=ids(filters["group"]), after=place
            )
            return meters_table(selection, self.request.user, choose=bool(self.meter_acts() or self.group_acts()))
        rows = Concentrator.objects.filter(pk__in=self.gathered.ids, name__startswith=search).order_by("pk")
        if filters["group"]:
            rows = rows.filter(groups.of_concentrators(ids(filters["group"]) or (), "pk"))
        with page_key():
            last = number_of(after[0]) if after else 0
        shown = list(rows.filter(pk__gt=last)[:ROWS])
        return _concentrators_table(shown), [shown[-1].pk] if len(shown) == ROWS else None

    def meter_acts(self) -> dict[str, str]:
        """Return no acts for an alert of concentrators."""
        return super().meter_acts() if self.gathered.kind == SubjectKind.METER else {}

    def group_acts(self) -> dict[str, str]:
        return super().group_acts() if self.gathered.kind == SubjectKind.METER else {}

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        self.gathered = _gathered(request, kwargs["pk"])
        return super().post(request, *args, **kwargs)


class AlertSubjectsExport(ConsolePage):
    """The same list as streamed CSV."""

    route = "alerts/<int:pk>/subjects/export/"
    name = "alert-subjects-export"
    title = "Export of an alert's subjects"
    permission_required = ("alerts.view_alert",)

    def get(  # type: ignore[override]  # a page of Django's is never a stream
        self, request: HttpRequest, pk: int
    ) -> HttpResponseBase:
        gathered = _gathered(request, pk)
        parts = chunks(sorted(gathered.ids))
        is_of_meters = gathered.kind == SubjectKind.METER
        schema, rows = (_METERS, _meters) if is_of_meters else (_CONCENTRATORS, _concentrators)
        return export.csv_answer(f"alert-{pk}", schema, map(rows, parts))


def _gathered(request: HttpRequest, pk: int) -> GatheredSubjects:
    """Return the subjects of a shared alert. 404 if it is not shared; PermissionDenied if the user may not see them."""
    found = get_object_or_404(GatheredSubjects.objects.select_related("alert__rule"), alert=pk)
    if not request.user.has_perm(RIGHTS[SubjectKind(found.kind)]):
        raise PermissionDenied
    return found


def _concentrators_table(rows: Sequence[Concentrator]) -> HtmlTable:
    now = timezone.now()
    posted = {row.id: row.posted_at for row in silence.of_concentrators(now)}
    return table(
        columns_of("concentrator", "state", "last post"),
        [
            [
                link(reverse("admin:concentrator", args=[row.pk]), row.name),
                label("active", "success") if row.is_active else label("inactive"),
                ago(posted.get(row.pk), now),
            ]
            for row in rows
        ],
    )


def _meters(ids: Sequence[int]) -> list[Any]:
    rows = Meter.objects.filter(pk__in=ids).order_by("pk").values_list("pk", "serial_number", "system_title")
    return [(key, serial, title.hex()) for key, serial, title in rows]


def _concentrators(ids: Sequence[int]) -> list[Any]:
    return list(Concentrator.objects.filter(pk__in=ids).order_by("pk").values_list("pk", "name"))


def subjects_url(alert: Alert) -> str:
    """Return the address of the list."""
    return reverse("admin:alert-subjects", args=[alert.pk])
