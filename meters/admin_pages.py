"""The page of readings in the admin: read-only, over the query functions that the API uses."""

from datetime import datetime, timedelta
from typing import Any

from django import forms
from django.utils import timezone
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextInputWidget

from ami_headend.web.admin import FilterForm, RowsPage, shown
from meters.models import Meter, Register
from meters.readings import queries
from meters.registry import access_record
from meters.registry.lookup import RegistryError, look_up

_DAYS_SHOWN = 7


class ReadingFilters(FilterForm):
    """Readings by meter (system title or serial number), register and period."""

    meter = forms.CharField(
        required=False,
        max_length=64,
        widget=UnfoldAdminTextInputWidget(attrs={"placeholder": "system title or serial number"}),
    )
    register = forms.ModelChoiceField(
        Register.objects.order_by("obis_code"), required=False, empty_label="all", widget=UnfoldAdminSelectWidget
    )
    field_order = ["meter", "register", "from", "to"]

    def clean_meter(self) -> Meter | None:
        text = self.cleaned_data["meter"].strip()
        try:
            return look_up(text) if text else None
        except RegistryError as error:
            raise forms.ValidationError(f"{str(error)[:1].upper()}{str(error)[1:]}.") from None


class ReadingsPage(RowsPage):
    """Readings, oldest first, a week of them unless a period is given."""

    title = "Readings"
    permission_required = ("meters.view_reading",)
    form_class = ReadingFilters
    headers = ("time", "meter", "register", "interval", "value", "uplink")
    explanation = f"Oldest first; without a period, the last {_DAYS_SHOWN} days. Readings are never changed by hand."

    def rows(self, filters: dict[str, Any], after: list[str] | None) -> tuple[list[list[Any]], list[Any] | None]:
        meter, register = filters.get("meter"), filters.get("register")
        access_record.note(self.request, meters=None if meter is None else [meter.pk])
        end = filters.get("to") or timezone.now() + timedelta(days=1)
        start = filters.get("from") or end - timedelta(days=_DAYS_SHOWN + 1)
        found, key = queries.readings_page(
            queries.Selection(
                start=start,
                end=end,
                meter_ids=None if meter is None else [meter.pk],
                register_ids=None if register is None else [register.pk],
                after=None if after is None else _key(after),
            ),
            self.rows_per_page,
        )
        rows = [
            [
                shown(row.captured_at),
                row.system_title,
                row.obis_code,
                f"{row.interval_minutes} min" if row.interval_minutes else "-",
                f"{row.quantity} {row.unit}",
                row.uplink,
            ]
            for row in found
        ]
        return rows, None if key is None else list(key)


def _key(texts: list[str]) -> queries.ReadingKey:
    """The key in a page's address; ValueError where it is none."""
    captured_at, meter_id, register_id = texts
    at = datetime.fromisoformat(captured_at)
    if at.tzinfo is None or not 0 <= int(meter_id) < 2**31 or not 0 <= int(register_id) < 2**15:
        raise ValueError("not a key of a reading")
    return queries.ReadingKey(at, int(meter_id), int(register_id))
