"""Outages of a period: what was out last night, and since when; by concentrator, or meter by meter."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from django.contrib import messages
from django.urls import reverse

from ami_headend.console import list_exports
from ami_headend.console.events import SEE_EVENTS
from ami_headend.console.formatting import NOTHING, clipped, duration, label, link, moment, thousands
from ami_headend.console.list_exports import ListExport
from ami_headend.console.lists import ROWS, choice, number_of, time_of
from ami_headend.console.outages import past_url, period, tabs
from ami_headend.console.records import RecordsPage
from ami_headend.core import clock
from ami_headend.web.admin import FilterForm
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
    back = ("admin:outages", "Outages")
    permission_required = (SEE_EVENTS,)
    template_name = "console/outages/past.html"
    form_class = PastOutageFilters
    explanation = (
        "Newest first: all that lasted at any time of the period. Outages of a concentrator's meters that touch, or "
        "follow each other within 15 minutes, are one."
    )

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        return super().get_context_data(tabs=tabs(self.request), **kwargs)

    def find(self, filters: dict[str, Any], after: list[str] | None) -> tuple[HtmlTable, Sequence[Any] | None]:
        selection = self._selection(filters)
        if after is not None:
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
        columns = columns_of("concentrator", "since", "until", "lasted", "#meters", "-#mean time", "-groups")
        rows = []
        for one in found:
            name, meters = "meters without a concentrator", thousands(one.meters)
            if one.concentrator:
                name = one.concentrator
                span = period(one.since, (one.until or one.since) + timedelta(minutes=1))
                url = past_url(self.request, rows=_METERS, concentrator=one.concentrator, **span)
                meters = link(url, f"{one.meters:,}")
            mean = NOTHING if one.mean_s is None else duration(one.mean_s)
            end = _until(one.until, f"{one.still_out:,} not back" if one.still_out else "")
            rows.append(
                [name, moment(one.since), end, _lasted(one.since, one.until), meters, mean, clipped(one.groups)]
            )
        return table(columns, rows)


def _meters(found: Sequence[MeterSpell]) -> HtmlTable:
    columns = columns_of("meter", "since", "until", "lasted", "-said so", "-concentrator")
    named = Meter.objects.filter(serial_number__in={one.serial_number for one in found})
    numbers, rows = dict(named.values_list("serial_number", "pk")), []
    for one in found:
        meter = link(reverse("admin:meter", args=[numbers[one.serial_number]]), one.serial_number)
        said = NOTHING if one.until is None else "yes" if one.is_told else "sent another event"
        end = _until(one.until, "" if one.until else "not back")
        rows.append([meter, moment(one.since), end, _lasted(one.since, one.until), said, one.concentrator or NOTHING])
    return table(columns, rows)


def _until(until: datetime | None, out: str) -> Any:
    return label(out, "danger") if out else moment(until) if until else NOTHING


def _lasted(since: datetime, until: datetime | None) -> str:
    return NOTHING if until is None else duration(max(0.0, clock.age_s(since, until)))
