"""Forms about concentrators in the admin."""

from typing import Any

from django import forms
from django.contrib import admin
from django.utils import timezone
from unfold.widgets import (
    UnfoldAdminIntegerFieldWidget,
    UnfoldAdminSelectWidget,
    UnfoldAdminSplitDateTimeWidget,
    UnfoldAdminTextareaWidget,
    UnfoldAdminTextInputWidget,
)

from ami_headend.core.clock import WITHIN_TIMES
from ami_headend.core.numbers import row_number
from ami_headend.core.text import NOTE_LENGTH
from ami_headend.web.forms import OctetsField, RowSelect, RowsSelect
from concentrators.fleet import concentrator_keys
from concentrators.models import Assignment, Concentrator
from keyvault.cose.structures import SYSTEM_TITLE_OCTETS
from meters.models import Meter
from meters.readings.obis import RegisterKind
from meters.registry.interval_lengths import LONGEST_MINUTES
from meters.registry.lookup import RegistryError


class ConcentratorForm(forms.ModelForm[Concentrator]):
    """A concentrator, its system title in hex where it holds keys."""

    system_title_hex = OctetsField(
        octets=SYSTEM_TITLE_OCTETS,
        what="A system title",
        label="System title",
        required=False,
        help_text="EUI-64, 16 hex digits; only of a concentrator that holds keys, and of no meter",
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if "is_active" in self.fields:  # changed is what differs from the page, which may be older than the row
            self.fields["is_active"].show_hidden_initial = True
        if self.instance.system_title is not None:
            self.initial["system_title_hex"] = bytes(self.instance.system_title).hex()

    def clean_is_active(self) -> bool:
        wanted = bool(self.cleaned_data["is_active"])
        if wanted and self.instance.moved_to:
            raise forms.ValidationError(
                f"This concentrator was moved to cell {self.instance.moved_to}: only that one may let it in."
            )
        return wanted

    def clean_system_title_hex(self) -> bytes | None:
        title: bytes | None = self.cleaned_data["system_title_hex"] or None
        standing = self.instance.system_title
        try:
            if title is not None:
                concentrator_keys.check(self.instance, title)
            elif standing is not None and concentrator_keys.has_keys(bytes(standing)):
                raise RegistryError("it has keys under its system title, which stays")
        except RegistryError as error:
            text = str(error)
            raise forms.ValidationError(f"{text[:1].upper()}{text[1:]}.") from None
        self.instance.system_title = title
        return title


class ConcentratorField(forms.CharField):
    """A filter by a concentrator's name, written: a choice among a thousand of them costs a page 100 ms.

    With ``takes_ids`` a number that is no name is taken for an id, as addresses have it that were kept.
    """

    def __init__(self, *, takes_ids: bool = False) -> None:
        self.takes_ids = takes_ids
        widget = UnfoldAdminTextInputWidget(attrs={"placeholder": "name"})
        super().__init__(max_length=120, required=False, widget=widget)

    def clean(self, value: Any) -> Any:
        """The concentrator, None where nothing is written; ValidationError where there is none of that name."""
        name = super().clean(value)
        if not name:
            return None
        found = Concentrator.objects.filter(name=name).first()
        if found is None and self.takes_ids and (number := row_number(name)) is not None:
            found = Concentrator.objects.filter(pk=number).first()
        if found is None:
            raise forms.ValidationError(f"There is no concentrator named {name}.")
        return found


class AssignForm(forms.Form):
    """Meters, the concentrator they are to belong to, and from when on."""

    meters = forms.ModelMultipleChoiceField(
        Meter.objects.all(), widget=RowsSelect(Assignment._meta.get_field("meter"), admin.site)
    )
    concentrator = forms.ModelChoiceField(
        Concentrator.objects.all(), widget=RowSelect(Assignment._meta.get_field("concentrator"), admin.site)
    )
    valid_from = forms.SplitDateTimeField(
        label="From",
        initial=timezone.now,
        help_text="intervals that begin then or later count to the concentrator; totals move along",
        widget=UnfoldAdminSplitDateTimeWidget,
        validators=WITHIN_TIMES,
    )


class LengthForm(forms.Form):
    """The interval length of a meter."""

    interval_minutes = forms.IntegerField(
        min_value=1,
        max_value=LONGEST_MINUTES,
        label="Interval length",
        help_text="minutes, 1 to 1440",
        widget=UnfoldAdminIntegerFieldWidget,
    )


class IntervalForm(LengthForm):
    """Another interval length of a meter, from when on, and who sets it there."""

    COMMAND, BY_HAND = "command", "hand"
    how = forms.ChoiceField(
        choices=[
            (COMMAND, "by a command: it holds once the meter has confirmed it"),
            (BY_HAND, "at the meter, by hand: it is entered here now"),
        ],
        widget=UnfoldAdminSelectWidget,
    )
    at = forms.SplitDateTimeField(
        label="From",
        required=False,
        help_text="in your time zone, when intervals of both lengths begin; empty: the next such time (for a command, "
        "an hour ahead)",
        widget=UnfoldAdminSplitDateTimeWidget,
        validators=WITHIN_TIMES,
    )


class ReasonForm(forms.Form):
    """A correction, and how it is known to be one."""

    reason = forms.CharField(
        max_length=NOTE_LENGTH, help_text="how that is known; it is audited", widget=UnfoldAdminTextareaWidget
    )


class LengthCorrectionForm(LengthForm, ReasonForm):
    """The interval length that a meter had in a span of the past, otherwise than registered."""

    start = forms.SplitDateTimeField(
        label="From",
        required=False,
        help_text="in your time zone, when intervals of both lengths begin; empty: from its beginning on",
        widget=UnfoldAdminSplitDateTimeWidget,
        validators=WITHIN_TIMES,
    )
    end = forms.SplitDateTimeField(
        label="To",
        required=False,
        help_text="up to, and not including; empty: it still measures so",
        widget=UnfoldAdminSplitDateTimeWidget,
        validators=WITHIN_TIMES,
    )
    field_order = ["interval_minutes", "start", "end", "reason"]


class RegisterCorrectionForm(ReasonForm):
    """What the entry of a register is to say."""

    kind = forms.ChoiceField(
        choices=[(kind.value, kind.value) for kind in RegisterKind], widget=UnfoldAdminSelectWidget
    )
    unit = forms.CharField(max_length=8, help_text="SenML unit (RFC 8428, RFC 8798)", widget=UnfoldAdminTextInputWidget)
    scaler = forms.IntegerField(
        min_value=-30, max_value=30, help_text="one step is 10^scaler units", widget=UnfoldAdminIntegerFieldWidget
    )
    field_order = ["kind", "unit", "scaler", "reason"]
