"""The page of masked totals: sums over meters that hide their values, with who has answered."""

from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

from ami_headend.console import list_exports
from ami_headend.console.formatting import NOTHING, label, moment
from ami_headend.console.list_exports import SUM, ListExport
from ami_headend.console.lists import ROWS, number_of, page_key, time_of
from ami_headend.console.records import RecordsPage
from ami_headend.web.forms import FilterForm
from ami_headend.web.tables import HtmlTable, columns_of, table
from concentrators.totals.masked_queries import (
    MaskedTotalPosition,
    MaskedTotalRow,
    MaskedTotalSelection,
    totals,
)
from meters.group_forms import GroupsField, ids
from meters.readings import export
from meters.readings.queries import batches

_IDS = 2**63


class MaskedTotalFilters(FilterForm):
    """Filters masked totals by the groups of any of their meters, and by period."""

    group = GroupsField()
    field_order = ["group", "from", "to"]


class MaskedTotalsPage(RecordsPage):
    """Sums that mask authorities unmasked; one week unless a period is given."""

    route = "concentrators/concentrator/masked-totals/"
    name = "masked_totals"
    title = "Masked totals"
    icon = "blur_on"
    permission_required = ("concentrators.view_intervaltotal",)
    form_class = MaskedTotalFilters
    explanation = (
        "Oldest first; without a period, the last 7 days. What meters used together that hide their single values: ten "
        "at least. A value is in one total for good; who comes late is in none, unless ten come late together. "
        "Of a group: totals with any of its meters."
    )

    def find(self, filters: dict[str, Any], after: list[str] | None) -> tuple[HtmlTable, Sequence[Any] | None]:
        place = None
        if after is not None:
            with page_key():
                at, number = after
                place = MaskedTotalPosition(time_of(at), number_of(number, _IDS))
        found, key = totals(replace(self._selection(filters), after=place), ROWS)
        columns = columns_of("interval from", "-length", "register", "#sum", "#meters", "state", "-mask group")
        rows = [
            [
                moment(row.interval_start),
                f"{row.interval_minutes} min",
                row.obis_code,
                NOTHING if row.value_sum is None else f"{Decimal(row.value_sum).scaleb(row.scaler):,f} {row.unit}",
                f"{row.meters:,}",
                _state(row),
                row.mask_group or NOTHING,
            ]
            for row in found
        ]
        return table(columns, rows), key

    def _selection(self, filters: dict[str, Any]) -> MaskedTotalSelection:
        return MaskedTotalSelection(*self.period(filters), group_ids=ids(filters["group"]))

    def exported(self, filters: dict[str, Any]) -> ListExport:
        selection = self._selection(filters)
        found = batches(totals, selection, list_exports.BATCH)
        return ListExport(
            export.schema_of(MaskedTotalRow, value_sum=SUM), found, lambda most: len(totals(selection, most)[0])
        )


def _state(row: MaskedTotalRow) -> str:
    if row.value_sum is not None:
        return label("known", "success")
    if row.refusal:
        return f"no total: {row.refusal}"
    return f"waits for {row.waits_for}" if row.waits_for else "answered"
