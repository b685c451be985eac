"""Forms about concentrators in the admin."""

from django import forms
from django.contrib import admin
from django.utils import timezone
from unfold.widgets import (
    UnfoldAdminIntegerFieldWidget,
    UnfoldAdminSelectWidget,
    UnfoldAdminSplitDateTimeWidget,
)

from ami_headend.core.clock import WITHIN_TIMES
from ami_headend.web.admin import RowSelect, RowsSelect
from concentrators.models import Assignment, Concentrator
from meters.models import Meter
from meters.registry.interval_lengths import LONGEST_MINUTES


class AssignForm(forms.Form):
    """Meters, the concentrator they are to belong to, and from when on."""

    meters = forms.ModelMultipleChoiceField(
        Meter.objects.all(), widget=RowsSelect(Assignment._meta.get_field("meter"), admin.site)
    )
    concentrator = forms.ModelChoiceField(
        Concentrator.objects.all(), widget=RowSelect(Assignment._meta.get_field("concentrator"), admin.site)
    )
    valid_from = forms.SplitDateTimeField(
        label="from",
        initial=timezone.now,
        help_text="intervals that begin then or later count to the concentrator; totals move along",
        widget=UnfoldAdminSplitDateTimeWidget,
        validators=WITHIN_TIMES,
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
        label="from",
        required=False,
        help_text="in your time zone, when intervals of both lengths begin; empty: the next such time (for a command, "
        "an hour ahead)",
        widget=UnfoldAdminSplitDateTimeWidget,
        validators=WITHIN_TIMES,
    )
