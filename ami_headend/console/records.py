"""The lists of readings, totals and failures per hour: read-only, with the same queries as the API."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, ClassVar

from django import forms
from django.utils import timezone
from django.utils.html import format_html
from unfold.widgets import UnfoldAdminSelectWidget

from ami_headend.console.formatting import NOTHING, moment, protection, thousands
from ami_headend.console.lists import ROWS, ListPage, MeterField, choice, number_of, time_of
from ami_headend.web.admin import FilterForm
from ami_headend.web.tables import HtmlTable, columns_of, table
from concentrators.admin_forms import ConcentratorField
from concentrators.failures.kinds import FailureKind
from concentrators.failures.tallies import TallyKey, TallySelection, tallies
from concentrators.totals.queries import TotalPosition, TotalRow, TotalSelection, totals
from meters.models import Register
from meters.readings import queries
from meters.readings.obis import RegisterKind
from meters.registry import access_record

_DAYS_SHOWN = 7
_IDS = 2**31


def _one_of(rows: Any) -> "forms.ModelChoiceField[Any]":
    return forms.ModelChoiceField(rows, required=False, empty_label="all", widget=UnfoldAdminSelectWidget)


def _code(obis_code: str) -> str:
    """An OBIS code, which wraps on a phone."""
    return format_html('<span class="console-clip">{}</span>', obis_code)


def _ids(row: Any) -> list[int] | None:
    return None if row is None else [row.pk]


class ReadingFilters(FilterForm):
    """Filters readings by meter (system title or serial number), register and period."""

    meter = MeterField()
    register = _one_of(Register.objects.order_by("obis_code"))
    field_order = ["meter", "register", "from", "to"]


class TotalFilters(FilterForm):
    """Filters totals by concentrator, interval register and period."""

    concentrator = ConcentratorField(takes_ids=True)
    register = _one_of(Register.objects.filter(kind=RegisterKind.INTERVAL).order_by("obis_code"))
    field_order = ["concentrator", "register", "from", "to"]


class TallyFilters(FilterForm):
    """Filters failures by concentrator, kind and period."""

    concentrator = ConcentratorField(takes_ids=True)
    kind = choice("kind", [(kind.value, kind.label) for kind in FailureKind])
    field_order = ["concentrator", "kind", "from", "to"]


class RecordsPage(ListPage):
    """Rows that nobody changes by hand; ``explanation`` says what they are."""

    template_name = "console/records.html"
    explanation: ClassVar[str]

    def period(self, filters: dict[str, Any]) -> tuple[datetime, datetime]:
        """Return the requested period; the last week by default."""
        end = filters.get("to") or timezone.now() + timedelta(days=1)
        return filters.get("from") or end - timedelta(days=_DAYS_SHOWN + 1), end


class ReadingsPage(RecordsPage):
    """Readings, oldest first; one week unless a period is given."""

    route = "meters/meter/readings/"
    name = "readings"
    title = "Readings"
    icon = "query_stats"
    permission_required = ("meters.view_reading",)
    form_class = ReadingFilters
    explanation = f"Oldest first; without a period, the last {_DAYS_SHOWN} days. Readings are never changed by hand."

    def find(self, filters: dict[str, Any], after: list[str] | None) -> tuple[HtmlTable, Sequence[Any] | None]:
        place = None
        if after is not None:
            at, meter_id, register_id = after
            place = queries.ReadingKey(time_of(at), number_of(meter_id, _IDS), number_of(register_id, 2**15))
        meters = _ids(filters["meter"])
        access_record.note(self.request, meters=meters)
        start, end = self.period(filters)
        found, key = queries.readings_page(
            queries.ReadingSelection(start, end, meters, _ids(filters["register"]), place), ROWS
        )
        columns = columns_of("time", "meter", "register", "-interval", "#value", "-scheme", "-#uplink")
        rows = [
            [
                moment(row.captured_at),
                row.system_title,
                _code(row.obis_code),
                f"{row.interval_minutes} min" if row.interval_minutes else NOTHING,
                f"{Decimal(row.quantity):,f} {row.unit}",
                protection(row.scheme, row.caveat),
                row.uplink,
            ]
            for row in found
        ]
        return table(columns, rows), key


class TotalsPage(RecordsPage):
    """Sums of interval registers per concentrator; one week unless a period is given."""

    route = "concentrators/concentrator/totals/"
    name = "interval_totals"
    title = "Totals"
    icon = "functions"
    permission_required = ("concentrators.view_intervaltotal",)
    form_class = TotalFilters
    explanation = (
        f"Oldest first; without a period, the last {_DAYS_SHOWN} days. A reading counts to the concentrator that "
        "its meter was assigned to when the interval began. Meters: counted of expected; the sum has no masked and no "
        "unauthenticated values."
    )

    def find(self, filters: dict[str, Any], after: list[str] | None) -> tuple[HtmlTable, Sequence[Any] | None]:
        place = None
        if after is not None:
            at, *numbers = after
            place = TotalPosition(time_of(at), *(number_of(number, _IDS) for number in numbers))
        start, end = self.period(filters)
        asked = _ids(filters["concentrator"]), _ids(filters["register"])
        found, key = totals(TotalSelection(start, end, *asked, place), ROWS)
        columns = columns_of("interval from", "-length", "concentrator", "register", "#sum", "#meters")
        rows = [
            [
                moment(total.interval_start),
                f"{total.interval_minutes} min",
                total.concentrator,
                _code(total.obis_code),
                f"{Decimal(total.value_sum).scaleb(total.scaler):,f} {total.unit}",
                _meters(total),
            ]
            for total in found
        ]
        return table(columns, rows), key


def _meters(total: TotalRow) -> str:
    masked = f", {total.meters_masked:,} not in the sum" if total.meters_masked else ""
    return f"{total.meters_counted:,} of {total.meters_expected:,}{masked}"


class TalliesPage(RecordsPage):
    """Failures per concentrator, kind and hour; they also count failures without a stored row."""

    route = "concentrators/concentrator/tallies/"
    name = "failure_tallies"
    title = "Failures per hour"
    icon = "bar_chart"
    permission_required = ("concentrators.view_failuretally",)
    form_class = TallyFilters
    explanation = (
        "Latest first. Counts every rejected frame; the list of failures keeps only the first ones of a flood."
    )

    def find(self, filters: dict[str, Any], after: list[str] | None) -> tuple[HtmlTable, Sequence[Any] | None]:
        place = None
        if after is not None:
            at, concentrator_id, kind = after
            place = TallyKey(time_of(at), number_of(concentrator_id, _IDS), FailureKind(kind).value)
        concentrator, kind_asked = filters["concentrator"], filters["kind"]
        selection = TallySelection(
            start=filters.get("from"),
            end=filters.get("to"),
            concentrator_id=None if concentrator is None else concentrator.pk,
            kind=FailureKind(kind_asked) if kind_asked else None,
            after=place,
        )
        found, key = tallies(selection, ROWS)
        columns = columns_of("hour", "concentrator", "kind", "#failures")
        rows = [
            [moment(row.hour), str(row.concentrator), FailureKind(row.kind).label, thousands(row.failures)]
            for row in found
        ]
        return table(columns, rows), key
