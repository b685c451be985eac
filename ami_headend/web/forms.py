"""Forms that pages of all apps share: octets in hex, the choice of rows, filters of pages."""

import re
from typing import Any, ClassVar

from django import forms
from django.contrib.admin.widgets import AutocompleteSelect, AutocompleteSelectMultiple
from django.forms.widgets import Input
from django.utils.http import urlencode
from unfold.widgets import UnfoldAdminTextInputWidget

from ami_headend.core import eui64
from ami_headend.core.clock import WITHIN_TIMES
from ami_headend.core.eui64 import Eui64Error
from ami_headend.core.numbers import row_number

SEPARATORS = re.compile(r"[\s:-]+")  # that people write between hex digits


class OctetsField(forms.CharField):
    """A form field for a fixed number of octets in hex digits; spaces, colons and hyphens between them are ignored."""

    def __init__(self, *, octets: int, what: str, **options: Any) -> None:
        self.octets = octets
        self.what = what
        widget: Input = UnfoldAdminTextInputWidget(attrs={"autocomplete": "off", "spellcheck": "false"})
        super().__init__(widget=widget, max_length=octets * 3 + 20, **options)

    def clean(self, value: Any) -> Any:
        """Return the octets; ValidationError says what is wrong with the text."""
        written = super().clean(value)
        if not written:
            return b""  # where nothing is required
        if self.octets == eui64.OCTETS and (title := _title(written)) is not None:
            return title
        text = SEPARATORS.sub("", written)
        digits = 2 * self.octets
        if not re.fullmatch(r"[0-9a-fA-F]*", text, re.ASCII):
            raise forms.ValidationError(f"{self.what} is {digits} hex digits (0 to 9, a to f) and nothing else.")
        if len(text) != digits:
            raise forms.ValidationError(f"{self.what} is {digits} hex digits; these are {len(text)}.")
        return bytes.fromhex(text)

    def prepare_value(self, value: Any) -> Any:
        """Show octets as hex digits; text that a user typed stays unchanged."""
        return value.hex() if isinstance(value, bytes) else value


def _title(text: str) -> bytes | None:
    """Read a system title in any accepted form; None for another text."""
    try:
        return eui64.parse(text)
    except Eui64Error:
        return None


class _OfNumbers:
    """Ignores chosen values that are not numbers: Django's widgets fail on them when a form is shown again with
    errors.
    """

    def optgroups(self, name: str, value: list[str], attr: Any = None) -> Any:
        numbers = [one for one in value if row_number(str(one)) is not None]
        return super().optgroups(name, numbers, attr)  # type: ignore[misc]


class RowSelect(_OfNumbers, AutocompleteSelect):  # type: ignore[misc]
    """Choose a row by a search."""


class RowsSelect(_OfNumbers, AutocompleteSelectMultiple):  # type: ignore[misc]
    """Choose rows by a search."""


def _time_widget() -> Input:
    widget: Input = UnfoldAdminTextInputWidget(attrs={"type": "datetime-local", "step": "1"})
    return widget


def _end_of_period(label: str) -> forms.DateTimeField:
    return forms.DateTimeField(label=label, required=False, widget=_time_widget(), validators=WITHIN_TIMES)


class KnownParametersForm(forms.Form):
    """Filters that refuse unknown parameters, instead of showing a list that only looks filtered."""

    others: ClassVar = frozenset({"after", "csrfmiddlewaretoken"})  # after: the next page

    @property
    def kept(self) -> dict[str, str]:
        """Return what else the address says, such as a tab or an order: the form and its "Clear" keep it."""
        names = self.others - KnownParametersForm.others
        return {name: self.data[name] for name in sorted(names) if self.data.get(name)}

    @property
    def kept_query(self) -> str:
        return f"?{urlencode(self.kept)}" if self.kept else ""

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        if unknown := sorted(set(self.data) - set(self.fields) - self.others):
            names = ", ".join(name[:80] for name in unknown)
            self.add_error(None, f"There is no filter {names} here. Nothing was looked up.")
        return cleaned


class FilterForm(KnownParametersForm):
    """The filters of a page of rows. The period is two times in the viewer's zone, ``from`` inclusive, ``to``
    exclusive.
    """

    vars()["from"] = _end_of_period("From")  # a keyword of Python, which cannot be assigned to
    to = _end_of_period("To")

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean()
        start, end = cleaned.get("from"), cleaned.get("to")
        if start and end and start >= end:
            self.add_error("to", "The period ends before it begins.")
        return cleaned
