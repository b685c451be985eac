"""Forms about concentrators in the admin."""

from datetime import datetime

from django import forms
from django.contrib import admin
from django.contrib.admin.widgets import AutocompleteSelect, AutocompleteSelectMultiple
from django.utils import timezone
from unfold.widgets import (
    UnfoldAdminIntegerFieldWidget,
    UnfoldAdminSelectWidget,
    UnfoldAdminSplitDateTimeWidget,
    UnfoldAdminTextInputWidget,
)

from concentrators.models import Assignment, Concentrator
from meters.lengths import LONGEST_MINUTES
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


class IntervalForm(forms.Form):
    """Another interval length of a meter, from when on, and who sets it there."""

    COMMAND, BY_HAND = "command", "hand"
    interval_minutes = forms.IntegerField(
        min_value=1,
        max_value=LONGEST_MINUTES,
        label="interval length",
        help_text="minutes, 1 to 1440",
        widget=UnfoldAdminIntegerFieldWidget,
    )
    how = forms.ChoiceField(
        choices=[
            (COMMAND, "by a command: it holds once the meter has confirmed it"),
            (BY_HAND, "at the meter, by hand: it is entered here now"),
        ],
        widget=UnfoldAdminSelectWidget,
    )
    at = forms.SplitDateTimeField(
        label="from (UTC)",
        required=False,
        help_text="when intervals of both lengths begin; empty: the next such time (for a command, an hour ahead)",
        widget=UnfoldAdminSplitDateTimeWidget,
    )
