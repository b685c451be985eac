"""The outage view: which meters said that their power went, by concentrator, since when, and who is asked."""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from django.http import HttpRequest
from django.shortcuts import get_object_or_404
from django.urls import reverse
from django.utils import timezone
from django.utils.functional import cached_property
from django.utils.http import urlencode

from ami_headend.console.acts import Act, ActingPage, Wrong
from ami_headend.console.events import SEE_EVENTS
from ami_headend.console.figures import Figure
from ami_headend.console.formatting import NOTHING, ago, duration, label, link, moment, thousands
from ami_headend.console.list_exports import ListExport
from ami_headend.console.lists import ListPage, sentence
from ami_headend.console.periods import as_filters, day_of, midnight
from ami_headend.core import clock
from ami_headend.core.text import counted
from ami_headend.web.forms import KnownParametersForm
from ami_headend.web.tables import HtmlTable, columns_of, table
from concentrators.commands import guard, status_check
from concentrators.commands.queue import DownlinkError
from concentrators.commands.status_check import StatusCheck
from concentrators.fleet import outage_history, outages
from concentrators.fleet.outage_history import Restored
from concentrators.fleet.outages import ConcentratorOutage, GroupOutage, MeterOutage
from concentrators.models import Concentrator
from keyvault.audit.chain import web_actor
from meters.group_forms import GroupsField, ids
from meters.registry import access_record, site_codes

GIVE = "concentrators.add_command"
_LISTED = 500
_DAY = timedelta(days=1)
_EVENING, _MORNING = timedelta(hours=6), timedelta(hours=8)  # before and after midnight: the night


class OutageFilters(KnownParametersForm):
    """Filters meters that are out by their groups."""

    group = GroupsField()


class OutagesPage(ListPage, ActingPage):
    """Concentrators with meters that are out."""

    route = "outages/"
    name = "outages"
    title = "Outages"
    icon = "power_off"
    permission_required = (SEE_EVENTS,)
    template_name = "console/outages/page.html"
    live_template_name = "console/outages/live.html"
    live_every_s = 15
    form_class = OutageFilters

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        self.found: list[ConcentratorOutage] = []
        context = super().get_context_data(tabs=tabs(self.request), **kwargs)
        if "content" not in context:
            return context
        now, chosen = context["now"], self.groups()
        access_record.note(self.request)
        codes = site_codes.events()
        ended = outage_history.restored(codes, now, _DAY, chosen)
        out = sum(one.out for one in self.found)
        oldest = min((one.since for one in self.found), default=None)
        hubs = sum(one.id is not None for one in self.found)
        yesterday = past_url(self.request, **as_filters(now - _DAY, now))
        return {
            **context,
            "figures": [
                Figure("Meters out", thousands(out), "and not back yet", "power_off", "", "bad" if out else "good"),
                Figure("Concentrators", thousands(hubs), "with such meters", "hub"),
                Figure("Since", NOTHING if oldest is None else ago(oldest, now), "the oldest of them", "schedule"),
                Figure("Back within a day", thousands(ended.meters), _times(ended), "power", yesterday),
            ],
            "groups": _groups(outages.by_group(codes, now, chosen), now),
            "out": out,
            "most": min(out, status_check.MOST),
        }

    def groups(self) -> list[int] | None:
        """Return the ids of the groups of the address; Wrong if there is no such group."""
        form = self.form_class(self.request.GET)
        if not form.is_valid():
            raise Wrong("Nothing was done: correct the filters first.")
        return ids(form.cleaned_data["group"])

    def find(self, filters: dict[str, Any], after: list[str] | None) -> tuple[HtmlTable, Sequence[Any] | None]:
        now = timezone.now()
        self.found = outages.by_concentrator(site_codes.events(), now, None, ids(filters["group"]))
        return _concentrators(self.found, now), None

    def exported(self, filters: dict[str, Any]) -> ListExport:
        found = outages.by_concentrator(site_codes.events(), timezone.now(), None, ids(filters["group"]))
        return ListExport(ConcentratorOutage, [found], lambda most: len(found))

    def acts(self) -> Mapping[str, Act]:
        return {"check": Act(GIVE, lambda request: checked(request, None, self.groups()))}


class OutagePage(ActingPage):
    """The meters of one concentrator that are out."""

    route = "outages/<int:pk>/"
    name = "outage"
    title = "Outage"
    icon = "power_off"
    back = ("admin:outages", "All outages")
    permission_required = (SEE_EVENTS,)
    template_name = "console/outages/concentrator.html"
    live_template_name = "console/outages/concentrator_live.html"
    live_every_s = 15

    @cached_property
    def concentrator(self) -> Concentrator:
        """Return the concentrator of the address, or 404."""
        return get_object_or_404(Concentrator, pk=self.kwargs["pk"])

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        context = super().get_context_data(**kwargs)
        now, one = context["now"], self.concentrator
        found = outages.meters_out(site_codes.events(), now, one.pk)
        access_record.note(self.request, meters=[row.meter_id for row in found[:_LISTED]])
        return {
            **context,
            "title": f"Outage at {one}",
            "concentrator": one,
            "found": _meters(found[:_LISTED], now),
            "out": len(found),
            "more": max(0, len(found) - _LISTED),
            "most": min(len(found), status_check.MOST),
        }

    def acts(self) -> Mapping[str, Act]:
        return {"check": Act(GIVE, lambda request: checked(request, self.concentrator.pk))}


def tabs(request: HttpRequest) -> list[tuple[str, str, bool]]:
    """Return the ways to the present, the last night, and the last week: titles, addresses, and which is shown."""
    now = timezone.now()
    here = request.get_full_path()
    today = midnight(day_of(now))
    night = as_filters(today - _EVENING, today + _MORNING)
    group = {"group": request.GET["group"]} if request.GET.get("group") else {}
    present = reverse("admin:outages")
    ways = [
        ("Now", f"{present}?{urlencode(group)}" if group else present),
        ("Last night", past_url(request, **night)),
        ("7 days", past_url(request)),
    ]
    return [(title, url, url == here) for title, url in ways]


def past_url(request: HttpRequest, **filters: str) -> str:
    """Return the address of outages of a period, of the groups of this address."""
    if request.GET.get("group"):
        filters = {"group": request.GET["group"], **filters}
    return f"{reverse('admin:past-outages')}{f'?{urlencode(filters)}' if filters else ''}"


def checked(request: HttpRequest, concentrator_id: int | None, group_ids: Sequence[int] | None = None) -> str:
    """Ask as many meters that are out as the user has confirmed; return what was done. Wrong for a refusal."""
    sure = request.POST.get("sure", "")
    most = int(sure) if re.fullmatch("[0-9]{1,4}", sure) else 0
    if not 1 <= most <= status_check.MOST:
        raise Wrong("Nothing was ordered: confirm that so many meters are to be asked.")
    try:
        done = status_check.check(concentrator_id, web_actor(request), timezone.now(), most, group_ids)
    except DownlinkError as error:
        raise Wrong(f"Nothing was ordered. {sentence(error)}") from None
    return in_words(done)


def in_words(done: StatusCheck) -> str:
    """Say what a check did."""
    others = (
        (done.heard, "was heard since", "were heard since"),
        (done.asked_before, "has been asked already", "have been asked already"),
        (done.cannot, "takes no such command", "take no such command"),
        (done.left, "is left for the next check", "are left for the next check"),
    )
    said = [f"{number:,} {is_one if number == 1 else are}" for number, is_one, are in others if number]
    held = done.approval is not None
    one = done.asked == 1
    asked = f"{counted(done.asked, 'meter')} {'is' if one else 'are'} {'to be ' * held}asked to read now"
    why = f" {guard.told(done.approval)}." if held else ""
    return f"{asked}{''.join(f'; {other}' for other in said)}.{why}"


def _times(ended: Restored) -> str:
    if not ended.meters:
        return "no meter said so"
    mean, longest = (duration(one.total_seconds()) for one in (ended.mean, ended.longest))
    return f"out for {mean} on average, {longest} at most"


def _lasted(since: datetime, now: datetime) -> str:
    return duration(max(0.0, clock.age_s(since, now)))


def _concentrators(found: Sequence[ConcentratorOutage], now: datetime) -> HtmlTable:
    columns = columns_of("concentrator", "#meters out", "-#of", "since", "lasts", "-the latest")
    rows = []
    for one in found:
        name: Any = "meters without a concentrator"
        if one.id is not None:
            name = link(reverse("admin:outage", args=[one.id]), one.name)
        of = thousands(one.meters) if one.id is not None else NOTHING
        rows.append([name, thousands(one.out), of, moment(one.since), _lasted(one.since, now), moment(one.latest)])
    return table(columns, rows)


def _groups(found: Sequence[GroupOutage], now: datetime) -> HtmlTable:
    columns = columns_of("group", "#meters out", "-#of", "since", "lasts", "-the latest")
    rows = []
    for one in found:
        name = link(reverse("admin:group", args=[one.id]), one.name)
        since = moment(one.since), _lasted(one.since, now), moment(one.latest)
        rows.append([name, thousands(one.out), thousands(one.meters), *since])
    return table(columns, rows)


def _meters(found: Sequence[MeterOutage], now: datetime) -> HtmlTable:
    columns = columns_of("meter", "since", "lasts", "state", "-heard", "-reported")
    rows = []
    for one in found:
        meter = link(reverse("admin:meter", args=[one.meter_id]), one.serial_number)
        state, heard = label("out", "danger"), NOTHING
        if one.heard_at is not None:
            state, heard = label("heard since", "warning"), ago(one.heard_at, now)
        rows.append([meter, moment(one.since), _lasted(one.since, now), state, heard, moment(one.received_at)])
    return table(columns, rows)
