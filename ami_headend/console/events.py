"""The list of meter events: what each code means, how severe it is, who has dealt with it."""

import dataclasses
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from django import forms
from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils import timezone
from django.utils.http import urlencode
from unfold.widgets import UnfoldAdminTextInputWidget

from ami_headend.console.formatting import SEVERITY_COLOURS, label, link, moment, protection
from ami_headend.console.list_exports import ListExport
from ami_headend.console.lists import ROWS, ListPage, MeterField, box, choice, chosen, number_of, page_key, time_of
from ami_headend.core.text import NOTE_LENGTH
from ami_headend.web.forms import FilterForm
from ami_headend.web.tables import Column, HtmlTable, columns_of, table
from keyvault.audit.chain import AuditError, web_actor
from keyvault.master_key import MasterKeyError
from keyvault.schemes.table import scheme_numbered
from meters.codes.event_codes import CodeKey, parse_key
from meters.codes.severity import Severity
from meters.group_forms import GroupsField, ids
from meters.models import Meter, MeterEvent, Register
from meters.readings import event_acknowledgement, export
from meters.readings.event_acknowledgement import AcknowledgeError
from meters.readings.event_queries import EventKey, EventRow, EventSelection, count, events
from meters.readings.obis import FRAUD_LOG, STANDARD_LOG
from meters.readings.queries import SelectionError, batches
from meters.registry import access_record, site_codes

SEE_EVENTS = "meters.view_meterevent"
ACKNOWLEDGE = "meters.add_eventacknowledgement"
_DAYS_SHOWN = 7
_STATES = {"open": True, "acknowledged": False}


class CodeField(forms.CharField):
    """A log and a code."""

    def __init__(self) -> None:
        widget = UnfoldAdminTextInputWidget(attrs={"placeholder": "0-0:96.11.0/1", "spellcheck": "false"})
        super().__init__(max_length=40, required=False, widget=widget)

    def clean(self, value: Any) -> CodeKey | None:
        written = super().clean(value).strip()
        try:
            return parse_key(written) if written else None
        except ValueError as error:
            raise forms.ValidationError(f"{error}.") from None


class EventFilters(FilterForm):
    """Filters events by severity, code, meter, state and time."""

    severity = choice("severity, at least", [(one.label, one.label) for one in sorted(Severity, reverse=True)])
    state = choice("state", [(state, state) for state in _STATES])
    log = choice("log", [(STANDARD_LOG, "standard"), (FRAUD_LOG, "fraud")])
    code = CodeField()
    meter = MeterField()
    group = GroupsField()
    field_order = ["severity", "state", "log", "code", "meter", "group", "from", "to"]


def selection_of(given: dict[str, Any]) -> EventSelection:
    """Return the selection of valid filters, the newest first; the last week unless a period is given."""
    log = given["log"]
    end = given.get("to") or timezone.now() + timedelta(days=1)
    return EventSelection(
        given.get("from") or end - timedelta(days=_DAYS_SHOWN + 1),
        end,
        meter_ids=None if given["meter"] is None else [given["meter"].pk],
        register_ids=list(Register.objects.filter(obis_code=log).values_list("pk", flat=True)) if log else None,
        severity=Severity[given["severity"].upper()] if given["severity"] else None,
        codes=None if given["code"] is None else [given["code"]],
        is_open=_STATES.get(given["state"]),
        is_newest_first=True,
        group_ids=ids(given["group"]),
    )


class NoteForm(forms.Form):
    """The note of an acknowledgement."""

    note = forms.CharField(
        max_length=NOTE_LENGTH,
        widget=UnfoldAdminTextInputWidget(attrs={"placeholder": "what it was, and what was done"}),
    )


class EventsPage(ListPage):
    """Events of meters, the newest first."""

    route = "meters/events/"
    name = "events"
    title = "Events"
    icon = "notifications"
    permission_required = (SEE_EVENTS,)
    template_name = "console/events/page.html"
    form_class = EventFilters

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        context = super().get_context_data(**kwargs)
        return {
            **context,
            "acknowledge": kwargs.get("acknowledge") or (NoteForm() if self._may_acknowledge() else None),
            "at_once": event_acknowledgement.AT_ONCE,
        }

    def find(self, filters: dict[str, Any], after: list[str] | None) -> tuple[HtmlTable, Sequence[Any] | None]:
        selection = selection_of(filters)
        if after is not None:
            with page_key():
                at, number = after
                selection = dataclasses.replace(selection, after=EventKey(time_of(at), number_of(number)))
        access_record.note(self.request, meters=selection.meter_ids)
        try:
            found, key = events(selection, ROWS)
        except SelectionError as error:
            messages.error(self.request, f"Nothing is shown: {error}.")
            found, key = [], None
        ids = dict(
            Meter.objects.filter(serial_number__in={row.serial_number for row in found}).values_list(
                "serial_number", "pk"
            )
        )
        return events_table(found, ids, choose=self._may_acknowledge()), key

    def exported(self, filters: dict[str, Any]) -> ListExport:
        selection = selection_of(filters)
        access_record.note(self.request, meters=selection.meter_ids)
        found = batches(events, selection, export.BATCH)
        return ListExport(EventRow, found, lambda most: count(selection, most), is_personal=True)

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        """Acknowledge the chosen events, or all that match the filters of the address."""
        if not self._may_acknowledge():
            raise PermissionDenied
        form, filters = NoteForm(request.POST), EventFilters(request.GET)
        if not form.is_valid():
            messages.error(request, "Nothing was acknowledged: say in a note what the events were.")
        elif request.POST.get("act") == "all" and not filters.is_valid():
            messages.error(request, "Nothing was acknowledged: correct the filters first.")
        else:
            self._acknowledge(request, form.cleaned_data["note"], filters)
        return HttpResponseRedirect(request.get_full_path())

    def _acknowledge(self, request: HttpRequest, note: str, filters: EventFilters) -> None:
        actor, now = web_actor(request), timezone.now()
        try:
            if request.POST.get("act") == "all":
                found = selection_of(filters.cleaned_data)
                done = event_acknowledgement.acknowledge_all(found, site_codes.events(), actor, note, now)
            else:
                done = event_acknowledgement.acknowledge(chosen(request, "event"), actor, note, now)
        except AcknowledgeError as error:
            messages.error(request, f"Nothing was acknowledged: {error}.")
        except (AuditError, MasterKeyError):
            messages.error(request, "Nothing was done: it cannot be audited while the master key cannot be used.")
        else:
            more = "" if done.is_whole else " There may be more: acknowledge again for the next ones."
            messages.success(request, f"{done.events:,} event{'s' * (done.events != 1)} acknowledged.{more}")

    def _may_acknowledge(self) -> bool:
        return self.request.user.has_perm(ACKNOWLEDGE)


def events_table(rows: Sequence[EventRow], meter_ids: dict[str, int], *, choose: bool = False) -> HtmlTable:
    """Return a table of events; ``meter_ids`` by serial number. ``choose``: with a box before each open one."""
    columns = columns_of("time", "meter", "event", "severity", "-code", "state", "-received", "-protected by")
    shown = []
    for row in rows:
        severity = Severity[row.severity.upper()]
        line = [
            moment(row.captured_at),
            link(reverse("admin:meter", args=[meter_ids[row.serial_number]]), row.serial_number),
            row.name,
            label(row.severity, SEVERITY_COLOURS[severity]),
            f"{row.obis_code}/{row.value}",
            "acknowledged" if row.is_acknowledged else label("open"),
            moment(row.received_at),
            protection(row.scheme, row.caveat),
        ]
        if choose:
            boxed = "" if row.is_acknowledged else box("acknowledge", "event", row.id, f"event {row.id}")
            line.insert(0, boxed)
        shown.append(line)
    return table([Column("")] * choose + columns, shown)


def events_of(meter: Meter, most: int) -> HtmlTable:
    """Return a table of the newest events of a meter."""
    rows = MeterEvent.objects.filter(meter=meter).select_related("register").order_by("-captured_at", "-id")[:most]
    codes, shown = site_codes.events(), []
    for row in rows:
        meaning, scheme = codes.meaning(row.register.obis_code, row.value), scheme_numbered(row.scheme)
        severity = label(meaning.severity.label, SEVERITY_COLOURS[meaning.severity])
        code = f"{row.register.obis_code}/{row.value}"
        shown.append([moment(row.captured_at), meaning.name, severity, code, protection(scheme.name, scheme.caveat)])
    return table(columns_of("time", "event", "severity", "-code", "-protected by"), shown)


def events_url(**filters: str) -> str:
    """Return the address of the list with filters."""
    return f"{reverse('admin:events')}?{urlencode(filters)}"
