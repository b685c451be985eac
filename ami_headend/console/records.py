"""The lists of readings, totals and failures per hour: read-only, with the same queries as the API."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, ClassVar, NamedTuple

from django import forms
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.http import urlencode
from unfold.widgets import UnfoldAdminSelectWidget

from ami_headend.console import list_exports
from ami_headend.console.formatting import NOTHING, link, moment, protection, thousands
from ami_headend.console.list_exports import SUM, ListExport, paged
from ami_headend.console.lists import ROWS, ListPage, MeterField, choice, number_of, page_key, time_of
from ami_headend.console.periods import as_filters
from ami_headend.web.forms import FilterForm
from ami_headend.web.tables import HtmlTable, columns_of, table
from concentrators.admin_forms import ConcentratorField
from concentrators.failures.kinds import FailureKind
from concentrators.failures.tallies import TallyKey, TallySelection, count_tallies, tallies
from concentrators.fleet import groups
from concentrators.totals.queries import TotalPosition, TotalRow, TotalSelection, count, totals
from keyvault.schemes.table import SCHEMES
from meters.contents.signed import SIGNED
from meters.group_forms import GroupsField, ids
from meters.models import Register
from meters.readings import export, queries
from meters.readings.obis import RegisterKind
from meters.registry import access_record

_DAYS_SHOWN = 7
_IDS = 2**31


def register_field(**which: Any) -> "forms.ModelChoiceField[Any]":
    """A filter by one of the registers, or of some of them."""
    rows = Register.objects.filter(**which).order_by("obis_code")
    return forms.ModelChoiceField(rows, required=False, empty_label="all", widget=UnfoldAdminSelectWidget)


def code_of(obis_code: str) -> str:
    """An OBIS code, which wraps on a phone."""
    return format_html('<span class="console-clip">{}</span>', obis_code)


def signatures_url(meter: str, since: datetime, until: datetime | None = None) -> str:
    """Return the address of the signatures of a meter (serial number or system title), oldest first."""
    return f"{reverse('admin:signatures')}?{urlencode({'meter': meter, **as_filters(since, until)})}"


def _protected_by(row: queries.ReadingRow) -> str:
    """Return the scheme of a reading, marked with what it lacks; of a signed one with a link to its signature."""
    scheme = SCHEMES.get(row.scheme)
    if scheme is not None and scheme.content == SIGNED.name:
        return link(signatures_url(row.system_title, row.captured_at), row.scheme)
    return protection(row.scheme, row.caveat)


def ids_of(row: Any) -> list[int] | None:
    """Return the id of a row of a filter as a list; None where no row is chosen."""
    return None if row is None else [row.pk]


class ReadingFilters(FilterForm):
    """Filters readings by meter (system title or serial number), register and period."""

    meter = MeterField()
    register = register_field()
    group = GroupsField()
    field_order = ["meter", "register", "group", "from", "to"]


class TotalFilters(FilterForm):
    """Filters totals by concentrator, interval register and period."""

    concentrator = ConcentratorField(takes_ids=True)
    register = register_field(kind=RegisterKind.INTERVAL)
    group = GroupsField()
    field_order = ["concentrator", "register", "group", "from", "to"]


class TallyFilters(FilterForm):
    """Filters failures by concentrator, kind and period."""

    concentrator = ConcentratorField(takes_ids=True)
    kind = choice("kind", [(kind.value, kind.label) for kind in FailureKind])
    group = GroupsField()
    field_order = ["concentrator", "kind", "group", "from", "to"]


def _concentrators(filters: dict[str, Any]) -> list[int] | None:
    """Return the concentrators that the filters leave, by id: one, those of groups, or one of those; None for all."""
    one = ids_of(filters["concentrator"])
    if not filters["group"]:
        return one
    of_groups = groups.concentrator_ids(ids(filters["group"]) or ())
    return of_groups if one is None else [pk for pk in one if pk in of_groups]


class RecordsPage(ListPage):
    """Rows that nobody changes by hand; ``explanation`` says what they are, ``when_empty`` that there are none."""

    template_name = "console/records.html"
    explanation: ClassVar[str]
    when_empty: ClassVar[str] = "There are no rows in this period."

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
            with page_key():
                at, meter_id, register_id = after
                place = queries.ReadingKey(time_of(at), number_of(meter_id, _IDS), number_of(register_id, 2**15))
        found, key = queries.readings_page(replace(self._selection(filters), after=place), ROWS)
        columns = columns_of("time", "meter", "register", "-interval", "#value", "-scheme", "-#uplink")
        rows = [
            [
                moment(row.captured_at),
                row.system_title,
                code_of(row.obis_code),
                f"{row.interval_minutes} min" if row.interval_minutes else NOTHING,
                f"{Decimal(row.quantity):,f} {row.unit}",
                _protected_by(row),
                row.uplink,
            ]
            for row in found
        ]
        return table(columns, rows), key

    def _selection(self, filters: dict[str, Any]) -> queries.ReadingSelection:
        """Return the selection of the filters, and record whose readings are seen."""
        meters = ids_of(filters["meter"])
        access_record.note(self.request, meters=meters)
        asked = (*self.period(filters), meters, ids_of(filters["register"]))
        return queries.ReadingSelection(*asked, group_ids=ids(filters["group"]))

    def exported(self, filters: dict[str, Any]) -> ListExport:
        selection = self._selection(filters)
        found = queries.batches(queries.readings, selection, export.BATCH)
        return ListExport(queries.ReadingRow, found, lambda most: queries.count(selection, most), is_personal=True)


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
            with page_key():
                at, concentrator_id, register_id, minutes = after
                ids_of = number_of(concentrator_id, _IDS), number_of(register_id, _IDS)
                place = TotalPosition(time_of(at), *ids_of, number_of(minutes, _IDS))
        found, key = totals(replace(self._selection(filters), after=place), ROWS)
        columns = columns_of("interval from", "-length", "concentrator", "register", "#sum", "#meters")
        rows = [
            [
                moment(total.interval_start),
                f"{total.interval_minutes} min",
                total.concentrator,
                code_of(total.obis_code),
                f"{Decimal(total.value_sum).scaleb(total.scaler):,f} {total.unit}",
                _meters(total),
            ]
            for total in found
        ]
        return table(columns, rows), key

    def _selection(self, filters: dict[str, Any]) -> TotalSelection:
        return TotalSelection(*self.period(filters), _concentrators(filters), ids_of(filters["register"]))

    def exported(self, filters: dict[str, Any]) -> ListExport:
        selection = self._selection(filters)
        found = queries.batches(totals, selection, list_exports.BATCH)
        return ListExport(export.schema_of(TotalRow, value_sum=SUM), found, lambda most: count(selection, most))


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
            with page_key():
                at, concentrator_id, kind = after
                place = TallyKey(time_of(at), number_of(concentrator_id, _IDS), FailureKind(kind).value)
        found, key = tallies(_tallies(filters)._replace(after=place), ROWS)
        columns = columns_of("hour", "concentrator", "kind", "#failures")
        rows = [
            [moment(row.hour), str(row.concentrator), FailureKind(row.kind).label, thousands(row.failures)]
            for row in found
        ]
        return table(columns, rows), key

    def exported(self, filters: dict[str, Any]) -> ListExport:
        selection = _tallies(filters)

        def page(key: TallyKey | None) -> tuple[list[Tally], TallyKey | None]:
            found, following = tallies(selection._replace(after=key), list_exports.BATCH)
            return [Tally(row.hour, str(row.concentrator), row.kind, row.failures) for row in found], following

        return ListExport(Tally, paged(page), lambda most: count_tallies(selection, most))


class Tally(NamedTuple):
    """An hour's failures of a concentrator and a kind, in the export."""

    hour: datetime
    concentrator: str
    kind: str
    failures: int


def _tallies(filters: dict[str, Any]) -> TallySelection:
    kind = filters["kind"]
    return TallySelection(
        start=filters.get("from"),
        end=filters.get("to"),
        concentrator_ids=_concentrators(filters),
        kind=FailureKind(kind) if kind else None,
    )
