"""The page of a meter's signatures: what proves its readings to third parties, and which readings each one says."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, NamedTuple

from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from ami_headend.console import list_exports
from ami_headend.console.formatting import link, moment
from ami_headend.console.list_exports import ListExport, paged
from ami_headend.console.lists import ROWS, MeterField, number_of, page_key, time_of
from ami_headend.console.load_profile import READ_READINGS
from ami_headend.console.records import RecordsPage, code_of, ids_of, register_field
from ami_headend.web.forms import FilterForm
from ami_headend.web.tables import HtmlTable, columns_of, table
from meters.group_forms import GroupsField, ids
from meters.models import Meter
from meters.readings import signatures
from meters.readings.signatures import SignatureKey, SignatureRow, SignatureSelection, SignedValue
from meters.registry import access_record

_NUMBERS = 2**32


class SignatureFilters(FilterForm):
    """Filters signatures by meter (system title or serial number), group, a register that they say, and period."""

    meter = MeterField()
    register = register_field()
    group = GroupsField()
    field_order = ["meter", "register", "group", "from", "to"]


class Signed(NamedTuple):
    """A signature in the export: the coupon's epoch and number, how many values it says, and COSE_Sign1 in hex."""

    meter: str
    captured_at: datetime
    epoch: int
    number: int
    values: int
    uplink: int
    sign1: str


class SignaturesPage(RecordsPage):
    """Signatures of a meter or of groups, oldest first; one week unless a period is given."""

    route = "meters/meter/signatures/"
    name = "signatures"
    title = "Signatures"
    icon = "signature"
    permission_required = (READ_READINGS,)
    form_class = SignatureFilters
    explanation = (
        "Name a meter or a group: what was signed, by the latest time that it says, oldest first. manage.py evidence "
        "export writes signatures with all that third parties need to verify them; docs/evidence.md has the program."
    )

    def find(self, filters: dict[str, Any], after: list[str] | None) -> tuple[HtmlTable, Sequence[Any] | None]:
        place = None
        if after is not None:
            with page_key():
                at, meter_id, epoch, number = after
                place = SignatureKey(
                    time_of(at), number_of(meter_id, 2**31), number_of(epoch, 2**31), number_of(number, _NUMBERS)
                )
        found, key = self._page(filters, ROWS, place)
        meters = Meter.objects.in_bulk({row.meter_id for row in found})
        rows = [
            [
                moment(row.captured_at),
                link(reverse("admin:meter", args=[row.meter_id]), meters[row.meter_id]),
                f"epoch {row.epoch}, number {row.number:,}",
                _says(row.says),
                row.uplink,
                format_html(
                    '<details><summary>{} octets</summary><code class="console-wrap">{}</code></details>',
                    len(row.octets),
                    row.octets.hex(),
                ),
            ]
            for row in found
        ]
        return table(columns_of("latest time", "meter", "-coupon", "says", "-#uplink", "COSE_Sign1"), rows), key

    def exported(self, filters: dict[str, Any]) -> ListExport:
        def page(key: SignatureKey | None) -> tuple[list[Signed], SignatureKey | None]:
            found, following = self._page(filters, list_exports.BATCH, key)
            meters = Meter.objects.in_bulk({row.meter_id for row in found})
            return [_signed(row, meters[row.meter_id]) for row in found], following

        def count(most: int) -> int:
            return 0 if _is_nobody(filters) else signatures.count(self._selection(filters), most)

        return ListExport(Signed, paged(page), count, is_personal=True)

    def _page(
        self, filters: dict[str, Any], limit: int, after: SignatureKey | None
    ) -> tuple[list[SignatureRow], SignatureKey | None]:
        """Return signatures of the meter or the groups that are named, and record whose they are; none else."""
        if _is_nobody(filters):
            return [], None
        access_record.note(self.request, meters=ids_of(filters["meter"]))
        return signatures.page(replace(self._selection(filters), after=after), limit)

    def _selection(self, filters: dict[str, Any]) -> SignatureSelection:
        meter, register = filters["meter"], filters["register"]
        codes = None if register is None else frozenset([register.obis_code])
        number = None if meter is None else meter.pk
        return SignatureSelection(number, *self.period(filters), codes, group_ids=ids(filters["group"]))


def _is_nobody(filters: dict[str, Any]) -> bool:
    """Whether neither a meter nor a group is named: signatures of all would be read by octets."""
    return filters["meter"] is None and not filters["group"]


def _signed(row: SignatureRow, meter: Meter) -> Signed:
    values = len(row.says)
    return Signed(str(meter), row.captured_at, row.epoch, row.number, values, row.uplink, row.octets.hex())


def _says(values: Sequence[SignedValue]) -> SafeString | str:
    """Write which registers a signature says, and from when to when."""
    if not values:
        return "a pack that was refused"
    times = [one.captured_at for one in values]
    codes = sorted({one.obis_code for one in values})
    first, last = moment(min(times)), moment(max(times))
    period = first if min(times) == max(times) else format_html("{} to {}", first, last)
    return format_html("{} values, {}: {}", len(values), period, code_of(", ".join(codes)))
