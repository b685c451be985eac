"""The page of one group: its figures, its concentrators and their load, and the acts on it."""

from datetime import datetime, timedelta
from typing import Any

from django import forms
from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.urls import reverse
from django.utils.functional import cached_property
from django.utils.html import format_html
from django.utils.http import urlencode
from unfold.widgets import UnfoldAdminTextInputWidget

from ami_headend import cached_answers
from ami_headend.console import charts, group_queries
from ami_headend.console.charts import Chart, Series
from ami_headend.console.concentrators import ConcentratorFilters, concentrators_table
from ami_headend.console.deadlines import SEE_DEADLINES, group_figures
from ami_headend.console.events import SEE_EVENTS
from ami_headend.console.failures import failures_url
from ami_headend.console.figures import Figure
from ami_headend.console.fleet_queries import PROFILES
from ami_headend.console.formatting import ago, completeness_tone, energy, percent, thousands
from ami_headend.console.group_queries import GROUP_SIZES, GroupStanding
from ami_headend.console.groups import CHANGE, REMOVE
from ami_headend.console.lists import sentence
from ami_headend.console.meters import meters_url
from ami_headend.console.page import ConsolePage
from ami_headend.console.periods import labels
from ami_headend.core.text import counted
from concentrators.fleet import groups as acts
from concentrators.fleet import outages
from concentrators.totals import completeness
from keyvault.audit.chain import AuditError, web_actor
from keyvault.master_key import MasterKeyError
from meters.group_forms import GroupNameField
from meters.group_models import FleetGroup
from meters.registry import site_codes
from meters.registry.groups import GroupError

_HOURS = 48
_CONCENTRATORS = 10


class RenameForm(forms.Form):
    """Another name and note of a group."""

    name = GroupNameField(required=True, label="Name", help_text="what refers to the group follows")
    note = forms.CharField(max_length=250, required=False, widget=UnfoldAdminTextInputWidget)


class GroupPage(ConsolePage):
    """One group: how its meters are doing."""

    route = "groups/<int:pk>/"
    name = "group"
    title = "Group"
    icon = "workspaces"
    back = ("admin:groups", "All groups and tags")
    permission_required = ("meters.view_fleetgroup",)
    template_name = "console/groups/group.html"

    @cached_property
    def group(self) -> FleetGroup:
        """Return the group of the address, or 404."""
        return get_object_or_404(FleetGroup, pk=self.kwargs["pk"])

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        context = super().get_context_data(**kwargs)
        now, can = context["now"], self.request.user.has_perm
        group = self.group
        mine = acts.concentrator_ids([group.pk])
        context |= {
            "group": group,
            "title": f"Group {group}",
            "figures": [*self._figures(mine, now), *self._outage(now)],
            "lists": self._lists(),
            "concentrators_number": len(mine),
        }
        if can("concentrators.view_concentrator"):
            context["concentrators"] = concentrators_table(_filters(group), now, self.request.user, _CONCENTRATORS)
        if can("concentrators.view_intervaltotal") and mine:
            context["load"] = _load(mine, now)
        if can(CHANGE):
            context.setdefault("rename", RenameForm(initial={"name": str(group), "note": group.note}))
        context["may_remove"] = can(REMOVE)
        return context

    def _figures(self, mine: list[int], now: datetime) -> list[Figure]:
        can = self.request.user.has_perm
        question = group_queries.standing(self.group)
        asked = [question, *([PROFILES] if can("concentrators.view_intervaltotal") else [])]
        answers = cached_answers.answers(asked, now)
        found: GroupStanding = answers[question.name].found
        figures = _of_meters(found, str(self.group), can)
        if PROFILES.name in answers:
            shares = [share for share in answers[PROFILES.name].found.shares if share.concentrator_id in set(mine)]
            there, due = sum(share.counted for share in shares), sum(share.expected for share in shares)
            said = f"{thousands(there)} of {counted(due, 'interval')} of its {counted(len(mine), 'concentrator')}"
            if not mine:
                said = "it has no concentrator: totals and completeness are those of concentrators"
            tone = completeness_tone(there, due) if due else ""
            url = f"{reverse('admin:interval_totals')}?{urlencode({'group': str(self.group)})}"
            share = percent(there, due) if due else "none"
            figures[1:1] = group_figures(mine, self.group, now)
            figures.insert(1, Figure("Completeness, 24 hours", share, said, "stacked_bar_chart", url, tone))
        return figures

    def _outage(self, now: datetime) -> list[Figure]:
        """Return how many of its meters have no power. Two queries."""
        if not self.request.user.has_perm(SEE_EVENTS):
            return []
        found = outages.by_group(site_codes.events(), now, [self.group.pk])
        out, said = (
            (found[0].out, format_html("the first {}", ago(found[0].since, now))) if found else (0, "none is out")
        )
        url = f"{reverse('admin:outages')}?{urlencode({'group': str(self.group)})}"
        return [Figure("Without power", thousands(out), said, "power_off", url, "bad" if out else "good")]

    def _lists(self) -> list[tuple[str, str]]:
        """Return the titles and addresses of lists of this group that the user may see."""
        query = urlencode({"group": str(self.group)})
        pages = [
            ("Meters", "admin:meters", "meters.view_meter"),
            ("Concentrators", "admin:concentrators", "concentrators.view_concentrator"),
            ("Places", "admin:places", "meters.view_place"),
            ("Failures", "admin:failures", "concentrators.view_integrityfailure"),
            ("Alerts", "admin:alerts", "alerts.view_alert"),
            ("Events", "admin:events", SEE_EVENTS),
            ("Outages", "admin:outages", SEE_EVENTS),
            ("Deadlines", "admin:deadlines", SEE_DEADLINES),
            ("Keys", "admin:keyvault_devicekey_changelist", "keyvault.view_devicekey"),
            ("Commands", "admin:concentrators_command_changelist", "concentrators.view_command"),
            ("Readings", "admin:readings", "meters.view_reading"),
            ("Totals", "admin:interval_totals", "concentrators.view_intervaltotal"),
        ]
        can = self.request.user.has_perm
        return [(title, f"{reverse(name)}?{query}") for title, name, right in pages if can(right)]

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        """Rename the group, or remove it after a confirmation."""
        act = request.POST.get("act", "")
        if act not in ("rename", "remove") or not request.user.has_perm(CHANGE if act == "rename" else REMOVE):
            raise PermissionDenied
        try:
            if act == "rename":
                return self._rename(request)
            if "confirmed" not in request.POST:
                return self.render_to_response(self.get_context_data(removing=True))
            name = str(self.group)
            acts.remove(self.group, web_actor(request))
        except GroupError as error:
            messages.error(request, f"Nothing was done: {sentence(error)}")
        except (AuditError, MasterKeyError):
            messages.error(request, "Nothing was done: it cannot be audited while the master key cannot be used.")
        else:
            cached_answers.forget(GROUP_SIZES)
            messages.success(request, f"Removed {name}. Its meters, places and concentrators stay.")
            return HttpResponseRedirect(reverse("admin:groups"))
        return HttpResponseRedirect(request.path)

    def _rename(self, request: HttpRequest) -> HttpResponse:
        form = RenameForm(request.POST)
        if not form.is_valid():
            return self.render_to_response(self.get_context_data(rename=form))
        acts.change(self.group, web_actor(request), form.cleaned_data["name"], form.cleaned_data["note"])
        messages.success(request, f"It is {self.group} now.")
        return HttpResponseRedirect(request.path)


def _filters(group: FleetGroup) -> dict[str, Any]:
    return {**dict.fromkeys(ConcentratorFilters.base_fields, ""), "group": [group]}


def _of_meters(found: GroupStanding, name: str, can: Any) -> list[Figure]:
    silent = found.in_service - found.heard - found.never
    meters = f"{thousands(found.in_service)} in service; {thousands(silent)} silent for 24 hours"
    unheard = f", {thousands(found.never)} without any frame" if found.never else ""
    tone = "good" if found.heard == found.in_service else "unsure"
    sees_meters = can("meters.view_meter")
    figures = [
        Figure(
            "Meters active, 24 hours",
            percent(found.heard, found.in_service) if found.in_service else "none",
            meters + unheard,
            "electric_meter",
            meters_url(group=name) if sees_meters else "",
            tone if found.in_service else "",
        )
    ]
    if can("concentrators.view_integrityfailure"):
        url, tone = failures_url(group=name, state="open"), "unsure" if found.open_failures else "good"
        said = "stored failures of its meters that nobody has acknowledged"
        figures.append(Figure("Open failures", thousands(found.open_failures), said, "gpp_maybe", url, tone))
    if can("keyvault.view_devicekey"):
        lacking = found.compromised + found.without_key
        said = f"{thousands(found.compromised)} with compromised keys only, {thousands(found.without_key)} with no key"
        tone = "bad" if lacking else "good"
        figures.append(Figure("Meters without a usable key", thousands(lacking), said, "vpn_key", "", tone))
    return figures


def _load(mine: list[int], now: datetime) -> Chart:
    """Return the energy of the group's concentrators by the hour."""
    end = now.replace(minute=0, second=0, microsecond=0)
    hours = completeness.hours([], end - timedelta(hours=_HOURS), end, *mine)
    values = [round(hour.energy_wh / 1000, 3) if hour.counted else None for hour in hours]
    summary = f"Energy of its concentrators by the hour: {energy(sum(hour.energy_wh for hour in hours))} in all"
    names = labels([hour.start for hour in hours], "%a %H:%M")
    return charts.bars("group-load", summary, names, [Series("energy", values)], "kWh")
