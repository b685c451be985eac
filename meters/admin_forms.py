"""Forms of the meter registry in the admin."""

from datetime import datetime
from typing import Any

from django import forms
from django.contrib import admin
from django.utils import timezone
from unfold.widgets import (
    UnfoldAdminIntegerFieldWidget,
    UnfoldAdminSelectWidget,
    UnfoldAdminSplitDateTimeWidget,
    UnfoldAdminTextInputWidget,
)

from ami_headend.core.clock import WITHIN_TIMES
from ami_headend.web.forms import OctetsField, RowSelect
from keyvault.device_keys import inventory
from keyvault.models import FleetKey
from keyvault.schemes.table import USUAL, new_scheme_choices
from meters.models import Installation, Meter, Place, Register
from meters.readings.obis import ObisError, parse_obis
from meters.registry import mask_groups
from meters.registry.mask_groups import MaskGroupError

RANDOM_KEYS, LATER_KEYS = "random", "later"
SYSTEM_TITLE_OCTETS = 8


class MeterForm(forms.ModelForm[Meter]):
    """A meter that stands: its system title, status and interval length do not change here."""

    mask_group = forms.CharField(
        required=False,
        max_length=60,
        label="Mask group",
        help_text="of the mask authorities that it was made with; only of meters that mask their values",
        widget=UnfoldAdminTextInputWidget(),
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.initial["mask_group"] = self.instance.mask_group

    def clean_mask_group(self) -> str:
        group: str = self.cleaned_data["mask_group"]
        try:
            mask_groups.check(group)
        except MaskGroupError as error:
            raise forms.ValidationError(f"{str(error)[:1].upper()}{str(error)[1:]}.") from None
        return group

    class Meta:
        model = Meter
        fields = ["serial_number", "name", "commissioned_at"]

    def clean_commissioned_at(self) -> datetime:
        at: datetime = self.cleaned_data["commissioned_at"]
        for validate in WITHIN_TIMES:
            validate(at)
        return at


class KeylessMeterForm(MeterForm):
    """A new meter, its system title in hex; its keys come with a shipment."""

    interval_minutes = forms.IntegerField(
        min_value=1,
        max_value=1440,
        initial=30,
        help_text="length of one load-profile interval, 1 to 1440",
        widget=UnfoldAdminIntegerFieldWidget,
    )
    system_title_hex = OctetsField(
        octets=SYSTEM_TITLE_OCTETS,
        what="A system title",
        label="System title",
        help_text="EUI-64, 8 octets: 16 hex digits, for example 0024befffe804ff1",
    )

    def clean_system_title_hex(self) -> bytes:
        system_title: bytes = self.cleaned_data["system_title_hex"]
        if Meter.objects.filter(system_title=system_title).exists():
            raise forms.ValidationError(f"There is a meter with system title {system_title.hex()} already.")
        if reason := inventory.of_concentrators([system_title]).get(system_title):
            raise forms.ValidationError(f"System title {system_title.hex()} {reason}.")
        self.instance.system_title = system_title
        return system_title


class NewMeterForm(KeylessMeterForm):
    """A new meter, by someone who may give keys: where its first ones come from, and of which scheme they are."""

    scheme = forms.ChoiceField(
        choices=new_scheme_choices,
        initial=USUAL,
        help_text="how the meter protects its readings under its first key; not where that comes with a shipment",
        widget=UnfoldAdminSelectWidget,
    )
    first_keys = forms.ChoiceField(
        help_text="epoch 1 and the transfer key; frames are refused until the meter has keys",
        widget=UnfoldAdminSelectWidget,
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        fleet_keys = [
            (str(pk), f"derived from fleet key {name}") for pk, name in FleetKey.objects.values_list("pk", "name")
        ]
        choices = [(RANDOM_KEYS, "random, stored"), (LATER_KEYS, "none yet: they come with a shipment"), *fleet_keys]
        field = self.fields["first_keys"]
        assert isinstance(field, forms.ChoiceField)  # noqa: S101 - declared above
        field.choices = choices


class RegisterForm(forms.ModelForm[Register]):
    """A register of the catalogue; its OBIS code must be one."""

    class Meta:
        model = Register
        fields = ["obis_code", "kind", "unit", "scaler", "name", "minimum", "maximum"]

    def clean_obis_code(self) -> str:
        text: str = self.cleaned_data["obis_code"]
        try:
            return str(parse_obis(text))
        except ObisError as error:
            raise forms.ValidationError(str(error)) from None


class AtForm(forms.Form):
    """A change that takes effect at an instant."""

    at = forms.SplitDateTimeField(
        label="from", initial=timezone.now, widget=UnfoldAdminSplitDateTimeWidget, validators=WITHIN_TIMES
    )


class InstallForm(AtForm):
    """Where a meter is to hang."""

    place = forms.ModelChoiceField(
        Place.objects.all(),
        widget=RowSelect(Installation._meta.get_field("place"), admin.site),
    )
    field_order = ["place", "at"]


class ExchangeForm(AtForm):
    """The meter that takes another's place."""

    new_meter = forms.ModelChoiceField(
        Meter.objects.all(),
        widget=RowSelect(Installation._meta.get_field("meter"), admin.site),
    )
    field_order = ["new_meter", "at"]
