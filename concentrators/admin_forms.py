"""Forms about concentrators in the admin."""

from datetime import datetime

from django import forms
from django.contrib import admin
from django.contrib.admin.widgets import AutocompleteSelect, AutocompleteSelectMultiple
from django.utils import timezone
from unfold.widgets import UnfoldAdminSplitDateTimeWidget, UnfoldAdminTextInputWidget

from concentrators.models import Assignment, Concentrator
from meters.models import Meter


class TokenForm(forms.Form):
    """What a new token is for, and until when it is valid."""

    label = forms.CharField(
        max_length=120, required=False, help_text="what the token is for", widget=UnfoldAdminTextInputWidget
    )
    expires_at = forms.SplitDateTimeField(
        label="expires",
        required=False,
        help_text="without it, the token is valid until it is revoked",
        widget=UnfoldAdminSplitDateTimeWidget,
    )

    def clean_expires_at(self) -> datetime | None:
        at: datetime | None = self.cleaned_data["expires_at"]
        if at is not None and at <= timezone.now():
            raise forms.ValidationError("This time is past: the token would never be valid.")
        return at


class AssignForm(forms.Form):
    """Meters, the concentrator they are to belong to, and from when on."""

    meters = forms.ModelMultipleChoiceField(
        Meter.objects.all(), widget=AutocompleteSelectMultiple(Assignment._meta.get_field("meter"), admin.site)
    )
    concentrator = forms.ModelChoiceField(
        Concentrator.objects.all(), widget=AutocompleteSelect(Assignment._meta.get_field("concentrator"), admin.site)
    )
    valid_from = forms.SplitDateTimeField(
        label="from",
        initial=timezone.now,
        help_text="intervals that begin then or later count to the concentrator; totals move along",
        widget=UnfoldAdminSplitDateTimeWidget,
    )
