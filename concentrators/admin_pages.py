"""Totals and failure tallies in the admin: read-only pages, for their keys are composite."""

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from django import forms
from django.utils import timezone
from unfold.widgets import UnfoldAdminSelectWidget

from ami_headend.web.admin import FilterForm, RowsPage, shown
from concentrators.admin_forms import ConcentratorField
from concentrators.failures.kinds import FailureKind
from concentrators.failures.tallies import TallyKey, TallySelection, tallies
from concentrators.totals.queries import TotalKey, TotalSelection, totals
from meters.models import Register
from meters.readings.obis import RegisterKind

_DAYS_SHOWN = 7
_IDS = 2**31


class ConcentratorFilters(FilterForm):
    """Rows of a concentrator and a period."""

    concentrator = ConcentratorField(takes_ids=True)


class TotalFilters(ConcentratorFilters):
    """Totals of an interval register, too."""

    register = forms.ModelChoiceField(
        Register.objects.filter(kind=RegisterKind.INTERVAL).order_by("obis_code"),
        required=False,
        empty_label="all",
        widget=UnfoldAdminSelectWidget,
    )
    field_order = ["concentrator", "register", "from", "to"]


class TallyFilters(ConcentratorFilters):
    """Failures of a kind, too."""

    kind = forms.ChoiceField(
        choices=[("", "all"), *((kind.value, kind.label) for kind in FailureKind)],
        required=False,
        widget=UnfoldAdminSelectWidget,
    )
    field_order = ["concentrator", "kind", "from", "to"]


class TotalsPage(RowsPage):
    """Sums of interval registers per concentrator, a week of them unless a period is given."""

    title = "Totals"
    permission_required = ("concentrators.view_intervaltotal",)
    form_class = TotalFilters
    headers = ("interval from", "length", "concentrator", "register", "sum", "meters")
    explanation = (
        f"Oldest first; without a period, the last {_DAYS_SHOWN} days. A reading counts to the concentrator that "
        "its meter was assigned to when the interval began. Meters: counted of expected."
    )

    def rows(self, filters: dict[str, Any], after: list[str] | None) -> tuple[list[list[Any]], list[Any] | None]:
        place = None
        if after is not None:
            at, concentrator_id, register_id, minutes = after
            place = TotalKey(_time(at), _id(concentrator_id), _id(register_id), _id(minutes))
        concentrator, register = filters.get("concentrator"), filters.get("register")
        end = filters.get("to") or timezone.now() + timedelta(days=1)
        selection = TotalSelection(
            start=filters.get("from") or end - timedelta(days=_DAYS_SHOWN + 1),
            end=end,
            concentrator_ids=None if concentrator is None else [concentrator.pk],
            register_ids=None if register is None else [register.pk],
            after=place,
        )
        found, following = totals(selection, self.rows_per_page)
        rows = [
            [
                shown(total.interval_start),
                f"{total.interval_minutes} min",
                total.concentrator,
                total.obis_code,
                f"{Decimal(total.value_sum).scaleb(total.scaler):,f} {total.unit}",
                f"{total.meters_counted:,} of {total.meters_expected:,}",
            ]
            for total in found
        ]
        return rows, None if following is None else list(following)


class TalliesPage(RowsPage):
    """Failures per concentrator, kind and hour, beyond the rows that are kept of them."""

    title = "Failures per hour"
    permission_required = ("concentrators.view_failuretally",)
    form_class = TallyFilters
    headers = ("hour", "concentrator", "kind", "failures")
    explanation = "Latest first. Counts every refused frame; of a storm, the list of failures keeps only the first."

    def rows(self, filters: dict[str, Any], after: list[str] | None) -> tuple[list[list[Any]], list[Any] | None]:
        place = None
        if after is not None:
            at, concentrator_id, kind = after
            place = TallyKey(_time(at), _id(concentrator_id), FailureKind(kind).value)
        concentrator, kind_asked = filters.get("concentrator"), filters.get("kind")
        selection = TallySelection(
            start=filters.get("from"),
            end=filters.get("to"),
            concentrator_id=None if concentrator is None else concentrator.pk,
            kind=FailureKind(kind_asked) if kind_asked else None,
            after=place,
        )
        found, following = tallies(selection, self.rows_per_page)
        rows = [
            [
                shown(tally.hour),
                str(tally.concentrator),
                FailureKind(tally.kind).label,
                f"{tally.failures:,}",
            ]
            for tally in found
        ]
        return rows, None if following is None else list(following)


def _time(text: str) -> datetime:
    at = datetime.fromisoformat(text)
    if at.tzinfo is None:
        raise ValueError("a time without its zone")
    return at


def _id(text: str) -> int:
    number = int(text)
    if not 0 <= number < _IDS:
        raise ValueError("not an id")
    return number
