"""The page of a meter's signatures: what proves its readings to third parties, and which readings each one says."""

from collections.abc import Sequence
from typing import Any

from django.utils.html import format_html
from django.utils.safestring import SafeString

from ami_headend.console.formatting import moment
from ami_headend.console.lists import ROWS, MeterField, number_of, time_of
from ami_headend.console.load_profile import READ_READINGS
from ami_headend.console.records import RecordsPage, code_of, register_field
from ami_headend.web.admin import FilterForm
from ami_headend.web.tables import HtmlTable, columns_of, table
from meters.readings import signatures
from meters.readings.signatures import SignatureKey, SignatureSelection, SignedValue
from meters.registry import access_record

_NUMBERS = 2**32


class SignatureFilters(FilterForm):
    """Filters signatures by meter (system title or serial number), a register that they say, and period."""

    meter = MeterField()
    register = register_field()
    field_order = ["meter", "register", "from", "to"]


class SignaturesPage(RecordsPage):
    """Signatures of one meter, oldest first; one week unless a period is given."""

    route = "meters/meter/signatures/"
    name = "signatures"
    title = "Signatures"
    icon = "signature"
    permission_required = (READ_READINGS,)
    form_class = SignatureFilters
    explanation = (
        "Name a meter: what it signed, by the latest time that it says, oldest first. manage.py evidence export writes "
        "signatures with all that third parties need to verify them; docs/evidence.md has the program."
    )

    def find(self, filters: dict[str, Any], after: list[str] | None) -> tuple[HtmlTable, Sequence[Any] | None]:
        columns = columns_of("latest time", "coupon", "says", "-#uplink", "COSE_Sign1")
        meter, register = filters["meter"], filters["register"]
        if meter is None:
            return table(columns, []), None
        place = None
        if after is not None:
            at, epoch, number = after
            place = SignatureKey(time_of(at), number_of(epoch, 2**31), number_of(number, _NUMBERS))
        access_record.note(self.request, meters=[meter.pk])
        codes = None if register is None else frozenset([register.obis_code])
        found, key = signatures.page(SignatureSelection(meter.pk, *self.period(filters), codes, place), ROWS)
        rows = [
            [
                moment(row.captured_at),
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
        return table(columns, rows), key


def _says(values: Sequence[SignedValue]) -> SafeString | str:
    """Write which registers a signature says, and from when to when."""
    if not values:
        return "a pack that was refused"
    times = [one.captured_at for one in values]
    codes = sorted({one.obis_code for one in values})
    first, last = moment(min(times)), moment(max(times))
    period = first if min(times) == max(times) else format_html("{} to {}", first, last)
    return format_html("{} values, {}: {}", len(values), period, code_of(", ".join(codes)))
