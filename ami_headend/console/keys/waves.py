"""Rotation waves: all of them with their progress, and a new one, whose meters are counted before it begins."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from django import forms
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils import timezone
from unfold.widgets import (
    UnfoldAdminIntegerFieldWidget,
    UnfoldAdminSelectWidget,
    UnfoldAdminTextInputWidget,
    UnfoldBooleanSwitchWidget,
)

from ami_headend.console.acts import REFUSALS
from ami_headend.console.formatting import ago, duration, label, link, percent, thousands
from ami_headend.console.keys import questions
from ami_headend.console.lists import TitlesField, agreement_key_field, sentence
from ami_headend.console.page import ConsolePage
from ami_headend.web.tables import HtmlTable, columns_of, table
from concentrators.admin_forms import ConcentratorField
from concentrators.colours import WAVE_COLOURS
from concentrators.commands import guard, rollouts
from concentrators.commands.rollouts import RolloutProgress, WaveError
from concentrators.fleet.selection import Selection
from concentrators.models import CommandKind, CommandState, RotationWave, WaveState
from keyvault import rights
from keyvault.audit.chain import Actor, web_actor
from keyvault.models import FleetKey
from keyvault.schemes.table import new_algorithm_choices, new_scheme_choices
from meters.group_forms import GroupsField
from meters.models import Meter

SEE = "concentrators.view_rotationwave"
_SAMPLE = 10
_TITLES_MAX = 10_000


class WavesPage(ConsolePage):
    """Waves, the newest first."""

    route = "keys/waves/"
    name = "waves"
    title = "Rotation waves"
    icon = "waves"
    permission_required = (SEE,)
    template_name = "console/keys/waves.html"
    live_template_name = "console/keys/waves_live.html"

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        context = super().get_context_data(**kwargs)
        found = list(RotationWave.objects.select_related("fleet_key").order_by("-pk")[: questions.WAVES_LISTED])
        return {
            **context,
            "waves": _table(found, questions.progress_of_all(found), context["now"]),
            "may_begin": self.request.user.has_perm(rights.ROTATE_DEVICE_KEYS),
        }


class NewKeyForm(forms.Form):
    """Of what kind new keys are; what is left empty is as the old key's."""

    scheme = forms.TypedChoiceField(
        choices=lambda: [("", "as the old key's"), *new_scheme_choices()],
        required=False,
        empty_value=None,
        label="Scheme of the new keys",
        help_text="a meter that cannot do it, or whose keys do not go with it, stays as it is",
        widget=UnfoldAdminSelectWidget,
    )
    algorithm = forms.TypedChoiceField(
        choices=lambda: [("", "as the old key's"), *new_algorithm_choices()],
        coerce=int,
        required=False,
        empty_value=None,
        label="Algorithm of the new keys",
        widget=UnfoldAdminSelectWidget,
    )
    agreement_key = agreement_key_field("Agreement key that new keys go with")


class WaveForm(NewKeyForm):
    """The meters that get new keys (those that meet all given conditions), the kind of keys, and the rate."""

    name = forms.CharField(
        max_length=120, label="Name of the wave", widget=UnfoldAdminTextInputWidget(attrs={"autocomplete": "off"})
    )
    everything = forms.BooleanField(
        required=False, label="All meters in service that can get a new key", widget=UnfoldBooleanSwitchWidget()
    )
    concentrator = ConcentratorField()
    older_than_days = forms.IntegerField(
        required=False,
        min_value=0,
        max_value=rollouts.AGE_MAX_DAYS,
        label="Key in use for more than (days)",
        widget=UnfoldAdminIntegerFieldWidget(),
    )
    group = GroupsField(label="Meters in the group or with the tag", help_text="several with | between them: in any")
    derived_from = forms.ModelChoiceField(
        FleetKey.objects.defer("wrapped").order_by("name"),
        required=False,
        label="Key derived from fleet key",
        empty_label="any key",
        widget=UnfoldAdminSelectWidget,
    )
    compromised = forms.BooleanField(
        required=False, label="Newest key compromised, no other usable", widget=UnfoldBooleanSwitchWidget()
    )
    titles = TitlesField(
        _TITLES_MAX,
        rows=3,
        required=False,
        label="These system titles",
        help_text="16 hex digits each, separated by spaces or lines",
    )
    rate_per_hour = forms.IntegerField(
        min_value=1,
        max_value=rollouts.NUMBER_MAX,
        initial=1000,
        label="Most key commands per hour",
        widget=UnfoldAdminIntegerFieldWidget(),
    )
    failure_budget = forms.IntegerField(
        min_value=0,
        max_value=rollouts.NUMBER_MAX,
        initial=10,
        label="Failure budget",
        help_text="the wave stops if more commands are refused or expire",
        widget=UnfoldAdminIntegerFieldWidget(),
    )
    fleet_key = forms.ModelChoiceField(
        FleetKey.objects.defer("wrapped").order_by("name"),
        required=False,
        label="New keys derived from",
        empty_label="nothing: like the old ones, derived or random",
        widget=UnfoldAdminSelectWidget,
    )

    which = ("everything", "concentrator", "group", "older_than_days", "derived_from", "compromised", "titles")
    how = ("rate_per_hour", "failure_budget", "scheme", "algorithm", "agreement_key", "fleet_key")

    def selection(self) -> Selection:
        """Return the selection of a valid form."""
        given = self.cleaned_data
        return Selection(
            system_titles=given["titles"] or None,
            concentrator=given["concentrator"],
            groups=given["group"],
            older_than_days=given["older_than_days"],
            compromised=given["compromised"],
            derived_from=given["derived_from"],
            everything=given["everything"],
        )


class NewWavePage(ConsolePage):
    """A new wave: fill in, count its meters, begin."""

    route = "keys/waves/new/"
    name = "wave-new"
    title = "New rotation wave"
    icon = "waves"
    back = ("admin:waves", "All waves")
    permission_required = (SEE, rights.ROTATE_DEVICE_KEYS)
    template_name = "console/keys/wave_new.html"

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        form: WaveForm = kwargs.pop("form", None) or WaveForm()
        return super().get_context_data(
            form=form, which=[form[name] for name in form.which], how=[form[name] for name in form.how], **kwargs
        )

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        """Count the selected meters, or begin a wave over them."""
        form, now = WaveForm(request.POST), timezone.now()
        context: dict[str, Any] = {}
        if form.is_valid():
            try:
                if request.POST.get("act") == "begin":
                    return self._begin(request, form, now)
                context = _preview(form, web_actor(request), now)
            except REFUSALS as error:
                form.add_error(None, sentence(error))
        return self.render_to_response(self.get_context_data(form=form, **context))

    def _begin(self, request: HttpRequest, form: WaveForm, now: datetime) -> HttpResponse:
        if not request.user.has_perm(rights.ROTATE_DEVICE_KEYS):
            raise PermissionDenied
        given = form.cleaned_data
        wave = rollouts.begin(
            given["name"],
            form.selection(),
            web_actor(request),
            now,
            given["rate_per_hour"],
            given["failure_budget"],
            given["algorithm"],
            given["fleet_key"],
            given["scheme"],
            given["agreement_key"],
        )
        return HttpResponseRedirect(reverse("admin:wave", args=[wave.pk]))


def _preview(form: WaveForm, actor: Actor, now: datetime) -> dict[str, Any]:
    found = rollouts.selected(form.selection(), now)
    count = found.count()
    if not count:
        raise WaveError("none of these meters can get a new key now")
    in_service = Meter.objects.filter(status="commissioned").count()
    takes = timedelta(hours=count / form.cleaned_data["rate_per_hour"])
    return {
        "count": count,
        "in_service": in_service,
        "held": guard.forecast(actor, CommandKind.SET_KEY, count, now),
        "takes": duration(takes.total_seconds()),
        "sample": [str(meter) for meter in found[:_SAMPLE]],
        "more": max(0, count - _SAMPLE),
    }


def counted(progress: RolloutProgress) -> int:
    """Return the number of meters whose command has ended."""
    return progress.meters - progress.waiting - progress.open


def _table(found: Sequence[RotationWave], progress: Mapping[int, RolloutProgress], now: datetime) -> HtmlTable:
    return table(
        columns_of("wave", "state", "#meters", "#through", "-#new keys in use", "-#failed, of budget", "-begun", "-by"),
        [
            [
                link(reverse("admin:wave", args=[wave.pk]), wave.name),
                label(WaveState(wave.state).label, WAVE_COLOURS[WaveState(wave.state)]),
                thousands(progress[wave.pk].meters),
                percent(counted(progress[wave.pk]), progress[wave.pk].meters),
                thousands(progress[wave.pk].states.get(CommandState.DONE, 0)),
                f"{progress[wave.pk].failures:,} of {wave.failure_budget:,}",
                ago(wave.created_at, now),
                wave.created_by,
            ]
            for wave in found
        ],
    )
