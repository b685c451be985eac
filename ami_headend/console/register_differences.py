"""Where registers and intervals say different energies: the list, and the part of it on the page of a load profile."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from typing import Any

from django.urls import reverse
from django.utils import timezone
from django.utils.http import urlencode

from ami_headend.console import list_exports
from ami_headend.console.formatting import duration, label, link, moment
from ami_headend.console.list_exports import ListExport
from ami_headend.console.lists import ROWS, MeterField, choice, number_of, page_key, time_of
from ami_headend.console.periods import as_filters
from ami_headend.console.records import RecordsPage, code_of, register_field
from ami_headend.web.forms import FilterForm
from ami_headend.web.tables import HtmlTable, columns_of, table
from concentrators.validation.differences import (
    DifferenceKey,
    DifferenceRow,
    DifferenceSelection,
    count,
    differences,
)
from meters.group_forms import GroupsField, ids
from meters.models import Meter, Register
from meters.readings.obis import RegisterKind
from meters.readings.queries import batches
from meters.registry import access_record

_STATES = {"open": True, "cleared": False}
_SHOWN = 10


class DifferenceFilters(FilterForm):
    """Filters differences by meter, interval register, state and period."""

    meter = MeterField()
    register = register_field(kind=RegisterKind.INTERVAL)
    state = choice("state", [(state, state) for state in _STATES])
    group = GroupsField()
    field_order = ["meter", "register", "state", "group", "from", "to"]


class RegisterDifferencesPage(RecordsPage):
    """Differences between registers and intervals; one week unless a period is given."""

    route = "meters/register-differences/"
    name = "register_differences"
    title = "Registers and intervals"
    icon = "difference"
    permission_required = ("meters.view_reading",)
    form_class = DifferenceFilters
    explanation = (
        "Oldest first; without a period, the last 7 days. Spans in which a meter's register advanced by another "
        "energy than its intervals add up to. What comes later may clear a difference; no value is changed."
    )
    when_empty = "No register differs from its intervals in this period."

    def find(self, filters: dict[str, Any], after: list[str] | None) -> tuple[HtmlTable, Sequence[Any] | None]:
        place = None
        if after is not None:
            with page_key():
                at, number = after
                place = DifferenceKey(time_of(at), number_of(number))
        found, key = differences(replace(self._selection(filters), after=place), ROWS)
        columns = columns_of(
            "from", "-lasts", "meter", "-OBIS code", "-#by register", "-#by intervals", "#difference", "state"
        )
        serials = {row.serial_number for row in found}
        pks = dict(Meter.objects.filter(serial_number__in=serials).values_list("serial_number", "pk"))
        rows = [
            [moment(row.span_start), _lasts(row), _meter(row, pks), code_of(row.obis_code), *_numbers(row), _state(row)]
            for row in found
        ]
        return table(columns, rows), key

    def _selection(self, filters: dict[str, Any]) -> DifferenceSelection:
        """Return the selection of the filters, and record whose readings are seen."""
        meters = None if filters["meter"] is None else [filters["meter"].pk]
        registers = None if filters["register"] is None else [filters["register"].pk]
        access_record.note(self.request, meters=meters)
        return DifferenceSelection(
            *self.period(filters),
            meters,
            registers,
            group_ids=ids(filters["group"]),
            is_open=_STATES.get(filters["state"]),
        )

    def exported(self, filters: dict[str, Any]) -> ListExport:
        selection = self._selection(filters)
        found = batches(differences, selection, list_exports.BATCH)
        return ListExport(DifferenceRow, found, lambda most: count(selection, most), is_personal=True)


def open_differences(meter_ids: Sequence[int], register: Register, start: datetime, end: datetime) -> dict[str, Any]:
    """Return the context of a load profile: the open differences of a period, and where all of them are. One query."""
    found, more = differences(DifferenceSelection(start, end, meter_ids, [register.pk], is_open=True), _SHOWN)
    asked = as_filters(start, end)
    columns = columns_of("from", "to", "-#by register", "-#by intervals", "#difference")
    return {
        "differences": table(columns, [[*_span(row), *_numbers(row)] for row in found]) if found else None,
        "more_differences": more is not None,
        "differences_url": f"{reverse('admin:register_differences')}?{urlencode({**asked, 'state': 'open'})}",
    }


def _span(row: DifferenceRow) -> tuple[Any, Any]:
    return moment(row.span_start), moment(row.span_end)


def _lasts(row: DifferenceRow) -> str:
    return duration((row.span_end - row.span_start).total_seconds())


def _numbers(row: DifferenceRow) -> list[str]:
    return [f"{Decimal(number):,} {row.unit}" for number in (row.advance, row.interval_sum, row.difference)]


def _meter(row: DifferenceRow, meter_ids: dict[str, int]) -> Any:
    """Return a link to the day of the span on the page of its meter."""
    asked = urlencode({"on": timezone.localtime(row.span_start).date().isoformat(), "register": row.obis_code})
    return link(f"{reverse('admin:meter', args=[meter_ids[row.serial_number]])}?{asked}", row.serial_number)


def _state(row: DifferenceRow) -> Any:
    return label("open", "warning") if row.cleared_at is None else label("cleared", "success")
