"""Outages of a period: what was out last night, and since when; by concentrator, or meter by meter."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from django.contrib import messages
from django.urls import reverse
from django.utils import timezone

from ami_headend.console import list_exports
from ami_headend.console.events import SEE_EVENTS
from ami_headend.console.formatting import NOTHING, clipped, duration, label, link, moment, thousands
from ami_headend.console.list_exports import ListExport
from ami_headend.console.lists import ROWS, choice, number_of, page_key, time_of
from ami_headend.console.outages import past_url, tabs
from ami_headend.console.periods import as_filters
from ami_headend.console.records import RecordsPage
from ami_headend.core import clock
from ami_headend.web.forms import FilterForm
from ami_headend.web.tables import HtmlTable, columns_of, table
from concentrators.admin_forms import ConcentratorField
from concentrators.fleet import outage_history
from concentrators.fleet.outage_history import MeterSpell, OutageKey, OutageSelection, PastOutage
from meters.group_forms import GroupsField, ids
from meters.models import Meter
from meters.readings.queries import SelectionError, batches
from meters.registry import access_record

_METERS = "meters"


class PastOutageFilters(FilterForm):
    """Filters outages by concentrator, group and period; by concentrator, or meter by meter."""

    rows = choice("rows", [(_METERS, "meter by meter")], every="by concentrator")
    concentrator = ConcentratorField(takes_ids=True)
    group = GroupsField()
    field_order = ["rows", "concentrator", "group", "from", "to"]


class PastOutagesPage(RecordsPage):
    """Outages, the newest first; one week unless a period is given."""

    route = "outages/past/"
    name = "past-outages"
    title = "Past outages"
    icon = "history"
    permission_required = (SEE_EVENTS,)
    template_name = "console/outages/past.html"
    form_class = PastOutageFilters
    explanation = (
        "Newest first: all that lasted at any time of the period. Outages of a concentrator's meters that touch, or "
        "follow each other within 15 minutes, are one."
    )
    when_empty = "No meter was without power in this period, as far as meters have said."

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        shown = tabs(self.request)
        context = super().get_context_data(tabs=shown, **kwargs)
        if any(is_here for _, _, is_here in shown):  # the period of a tab, and perhaps a group
            context["is_filtered"] = bool(self.request.GET.get("group"))
        return context

    def find(self, filters: dict[str, Any], after: list[str] | None) -> tuple[HtmlTable, Sequence[Any] | None]:
        selection = self._selection(filters)
        if after is not None:
            with page_key():
                at, number = after
                selection = replace(selection, after=OutageKey(time_of(at), number_of(number)))
        try:
            if filters["rows"] == _METERS:
                spells, key = outage_history.meter_outages(selection, ROWS)
                return _meters(spells), key
            found, key = outage_history.past_outages(selection, ROWS)
        except SelectionError as error:
            messages.error(self.request, f"Nothing is shown: {error}.")
            return table(columns_of("outage"), []), None
        return self._concentrators(found), key

    def exported(self, filters: dict[str, Any]) -> ListExport:
        selection = self._selection(filters)
        is_by_meter = filters["rows"] == _METERS
        form, query = (
            (MeterSpell, outage_history.meter_outages) if is_by_meter else (PastOutage, outage_history.past_outages)
        )
        found = batches(query, selection, list_exports.BATCH)
        return ListExport(form, found, lambda most: outage_history.count(selection, most), is_personal=is_by_meter)

    def _selection(self, filters: dict[str, Any]) -> OutageSelection:
        access_record.note(self.request)
        one = filters["concentrator"]
        return OutageSelection(*self.period(filters), None if one is None else [one.pk], ids(filters["group"]))

    def _concentrators(self, found: Sequence[PastOutage]) -> HtmlTable:
        columns = columns_of("concentrator", "since", "until", "#meters", "-lasted", "-#mean time", "-groups")
        rows, now = [], timezone.now()
        for one in found:
            name: Any = "meters without a concentrator"
            if one.concentrator:
                span = as_filters(one.since, (one.until or one.since) + timedelta(minutes=1))
                name = link(
                    past_url(self.request, rows=_METERS, concentrator=one.concentrator, **span), one.concentrator
                )
            mean = NOTHING if one.mean_s is None else duration(one.mean_s)
            end = label(f"{one.still_out:,} not back", "danger") if one.still_out else moment(one.until)
            lasted = _lasted(one.since, None if one.still_out else one.until, now)
            groups = clipped(one.groups.replace("|", ", ") or NOTHING)
            rows.append([name, moment(one.since), end, thousands(one.meters), lasted, mean, groups])
        return table(columns, rows)


def _meters(found: Sequence[MeterSpell]) -> HtmlTable:
    columns = columns_of("meter", "since", "until", "-lasted", "-said so", "-concentrator")
    named = Meter.objects.filter(serial_number__in={one.serial_number for one in found})
    numbers, rows, now = dict(named.values_list("serial_number", "pk")), [], timezone.now()
    for one in found:
        meter = link(reverse("admin:meter", args=[numbers[one.serial_number]]), one.serial_number)
        said = NOTHING if one.until is None else "yes" if one.is_told else "sent another event"
        end = label("not back", "danger") if one.until is None else moment(one.until)
        rows.append(
            [meter, moment(one.since), end, _lasted(one.since, one.until, now), said, one.concentrator or NOTHING]
        )
    return table(columns, rows)


def _lasted(since: datetime, until: datetime | None, now: datetime) -> str:
    lasted = duration(max(0.0, clock.age_s(since, until or now)))
    return lasted if until else f"{lasted} so far"
