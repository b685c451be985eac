"""The page of one concentrator: its last post, the completeness of its meters, its uplinks and its tokens."""

from datetime import datetime, timedelta
from typing import Any, NamedTuple

from django import forms
from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.db.models import Sum
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.urls import reverse
from django.utils import timezone
from django.utils.functional import cached_property
from django.utils.html import format_html
from django.utils.http import urlencode
from unfold.widgets import UnfoldAdminTextInputWidget

from ami_headend.alerts import silence
from ami_headend.console import charts, concentrator_keys
from ami_headend.console.charts import Chart, Series
from ami_headend.console.concentrators import health_label
from ami_headend.console.deadlines import strip_of
from ami_headend.console.failures import failures_table, failures_url
from ami_headend.console.figures import Figure
from ami_headend.console.formatting import (
    NOTHING,
    ago,
    completeness_tone,
    energy,
    label,
    link,
    moment,
    percent,
    thousands,
)
from ami_headend.console.groups import group_links
from ami_headend.console.meters import meters_url
from ami_headend.console.page import ConsolePage
from ami_headend.console.periods import day_of, labels, midnight
from ami_headend.console.registry_queries import TRAFFIC_PERIOD
from ami_headend.core.clock import WITHIN_TIMES
from ami_headend.core.numbers import row_number
from ami_headend.web.tables import HtmlTable, columns_of, table
from concentrators.failures import queries
from concentrators.failures.queries import FailureSelection
from concentrators.fleet import groups, registry, tokens
from concentrators.models import Assignment, Concentrator, ConcentratorToken, Uplink
from concentrators.totals import completeness, expected
from concentrators.totals.completeness import Hour
from keyvault.audit.chain import AuditError, web_actor
from keyvault.master_key import MasterKeyError
from meters.group_models import Via

MAKE, END = "concentrators.add_concentratortoken", "concentrators.change_concentratortoken"
_DAYS = 7
_ROWS = 10
_TOKENS = 20
_INCOMPLETE = 50
_LONGEST_LOOK = timedelta(days=1, hours=1)  # the longest day, with 25 hours
_HOUR = timedelta(hours=1)
_TOKEN_COLOURS = {"valid": "success", "expired": "warning", "revoked": "danger"}


class TokenForm(forms.Form):
    """The purpose of a new token, and its end of validity."""

    label = forms.CharField(
        max_length=120,
        required=False,
        help_text="what the token is for",
        widget=UnfoldAdminTextInputWidget(attrs={"autocomplete": "off"}),
    )
    expires_at = forms.DateTimeField(
        label="Valid until",
        required=False,
        help_text="in your time zone; leave empty for a token that is valid until it is revoked",
        widget=UnfoldAdminTextInputWidget(attrs={"type": "datetime-local"}),
        validators=WITHIN_TIMES,
    )

    def clean_expires_at(self) -> datetime | None:
        at: datetime | None = self.cleaned_data["expires_at"]
        if at is not None and at <= timezone.now():
            raise forms.ValidationError("This time has passed: the token would never be valid.")
        return at


class HeatCell(NamedTuple):
    """An hour of the heat map: its tone from 0 (nothing) to 5 (complete), its text, and the link to its meters."""

    tone: str
    said: str
    url: str


class ConcentratorPage(ConsolePage):
    """One concentrator. Figures, uplinks and failures refresh by themselves."""

    route = "concentrators/<int:pk>/"
    name = "concentrator"
    title = "Concentrator"
    icon = "router"
    back = ("admin:concentrators", "All concentrators")
    permission_required = ("concentrators.view_concentrator",)
    template_name = "console/concentrator/page.html"
    live_template_name = "console/concentrator/live.html"
    live_every_s = 10

    @cached_property
    def concentrator(self) -> Concentrator:
        """Return the concentrator of the address, or 404."""
        return get_object_or_404(Concentrator, pk=self.kwargs["pk"])

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        context = super().get_context_data(**kwargs)
        concentrator, now = self.concentrator, context["now"]
        can = self.request.user.has_perm
        context |= {"concentrator": concentrator, "title": f"Concentrator {concentrator}"}
        if can("concentrators.view_uplink"):
            context |= {"figures": _figures(concentrator, now), "uplinks": _uplinks(concentrator, now)}
        if can("concentrators.view_integrityfailure"):
            rows, _ = queries.failures(FailureSelection(concentrator_id=concentrator.pk), _ROWS)
            context["failures"] = failures_table(rows, now)
            context["failures_url"] = failures_url(concentrator=concentrator.name)
        if self.is_live_request:
            return context
        context |= concentrator_keys.blocks(self.request, concentrator, now)
        if can("meters.view_fleetgroup"):
            context["groups"] = group_links((one, [Via.METER]) for one in groups.of_concentrator(concentrator.pk))
        if can("concentrators.view_intervaltotal"):
            context |= self._completeness(now) | strip_of(concentrator.pk, now)
        if can("concentrators.view_concentratortoken"):
            context |= {"tokens": _tokens(concentrator, now), "may_make": can(MAKE), "may_end": can(END)}
            context.setdefault("token_form", TokenForm())
        return context

    def _completeness(self, now: datetime) -> dict[str, Any]:
        """Return completeness and energy of seven days by hour, and the meters that lack intervals in the requested
        hours.
        """
        today = day_of(now)
        start = midnight(today - timedelta(days=_DAYS - 1))
        end = start + (now - start) // _HOUR * _HOUR
        pk = self.concentrator.pk
        spans = expected.spans(start, end, concentrator_ids=[pk])
        hours = completeness.hours(spans, start, end, pk)
        counted, due = sum(hour.counted for hour in hours), sum(hour.expected for hour in hours)
        found: dict[str, Any] = {
            "heat": _heat_map(hours, self.request.path),
            "share": percent(counted, due),
            "tone": completeness_tone(counted, due),
            "counted": counted,
            "expected": due,
            "energy": _energy(hours),
            "assigned": Assignment.objects.filter(concentrator=pk, valid_to=None).count(),
            "meters_url": meters_url(concentrator=self.concentrator.name),
        }
        asked = _asked(self.request)
        if asked is not None:
            rows = completeness.incomplete_meters(pk, asked[0], min(asked[1], now), _INCOMPLETE)
            found |= {"asked": asked, "incomplete": _incomplete(rows, asked[0])}
        return found

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        """Make, rotate or revoke a token. Only this very answer shows a new one."""
        act = request.POST.get("act", "")
        if not request.user.has_perm(MAKE if act == "make" else END) or (
            act == "rotate" and not request.user.has_perm(MAKE)
        ):
            raise PermissionDenied
        try:
            if act == "make":
                return self._make(request)
            return self._rotate_or_revoke(request, act)
        except (MasterKeyError, AuditError) as error:
            messages.error(request, f"Nothing was done: {error}")
            return HttpResponseRedirect(request.path)

    def _make(self, request: HttpRequest) -> HttpResponse:
        form = TokenForm(request.POST)
        if not form.is_valid():
            return self.render_to_response(self.get_context_data(token_form=form))
        given = form.cleaned_data
        secret = registry.issue_token(web_actor(request), self.concentrator, given["label"], given["expires_at"])
        return self.render_to_response(self.get_context_data(secret=secret))

    def _rotate_or_revoke(self, request: HttpRequest, act: str) -> HttpResponse:
        number = request.POST.get("token", "")
        rows = ConcentratorToken.objects.select_related("concentrator").filter(concentrator=self.concentrator)
        token = rows.filter(pk=row_number(number) or 0).first()
        if token is None or tokens.state(token, timezone.now()) == "revoked":
            messages.error(request, "Nothing was done: there is no such token, or it has already been revoked.")
        elif act == "rotate":
            secret = registry.rotate_token(web_actor(request), token)
            return self.render_to_response(self.get_context_data(secret=secret, replaced=token))
        elif act == "revoke" and "confirmed" not in request.POST:
            return self.render_to_response(self.get_context_data(revoking=_revoking(token, timezone.now())))
        elif act == "revoke":
            registry.revoke_token(web_actor(request), token)
            messages.success(request, f"Token {token} is refused from now on. Other tokens stay valid.")
        return HttpResponseRedirect(request.path)


def _revoking(token: ConcentratorToken, now: datetime) -> dict[str, Any]:
    """Return the warnings to show before a token is revoked."""
    others = [other for other in token.concentrator.tokens.exclude(pk=token.pk) if tokens.state(other, now) == "valid"]
    return {"id": token.pk, "name": str(token), "used": ago(token.last_used_at, now), "others": len(others)}


def _figures(concentrator: Concentrator, now: datetime) -> list[Figure]:
    posted = Uplink.objects.filter(concentrator=concentrator)
    (health,) = silence.of_concentrators(now, concentrator.pk)
    last_day = posted.filter(received_at__gte=now - TRAFFIC_PERIOD)
    sums = last_day.aggregate(frames=Sum("frames", default=0), rejected=Sum("rejected", default=0))
    frames, rejected = sums["frames"], sums["rejected"]
    waits_since = health.oldest_waiting_at
    oldest = "nothing waits" if waits_since is None else format_html("oldest {}", ago(waits_since, now))
    return [
        Figure("Last post", ago(health.posted_at, now), health_label(health, now), "sensors"),
        Figure("Uplinks waiting", thousands(health.waiting), oldest, "hourglass_empty"),
        Figure("Frames", thousands(frames), "posted in the last 24 hours", "upload"),
        Figure(
            "Rejected",
            thousands(rejected),
            percent(rejected, frames),
            "gpp_bad",
            failures_url(concentrator=concentrator.name),
            "bad" if rejected else "good",
        ),
    ]


def _heat_map(hours: list[Hour], path: str) -> list[dict[str, Any]]:
    """Arrange hours by days in the viewer's zone; where clocks were set back, one cell holds both hours."""
    days: dict[Any, dict[int, list[Hour]]] = {}
    for hour in hours:
        local = timezone.localtime(hour.start)
        days.setdefault(local.date(), {}).setdefault(local.hour, []).append(hour)
    return [
        {
            "day": day,
            "url": f"{path}?{_span(midnight(day), midnight(day + timedelta(days=1)))}#missing",
            "cells": [_cell(by_hour.get(n, []), path) for n in range(24)],
        }
        for day, by_hour in sorted(days.items(), reverse=True)
    ]


def _cell(hours: list[Hour], path: str) -> HeatCell | None:
    if not hours:
        return None
    counted, due = sum(hour.counted for hour in hours), sum(hour.expected for hour in hours)
    start, end = hours[0].start, hours[-1].start + _HOUR
    local = timezone.localtime(start)
    when = f"{local:%a} {local.day} {local:%B}, {local:%H:%M} to {timezone.localtime(end):%H:%M %Z}"
    if not due:
        return HeatCell("none", f"{when}: nothing expected", "")
    share = counted / due
    tone = str(sum((counted > 0, share >= 0.5, share >= 0.8, share >= 0.95, share >= 1)))
    said = f"{when}: {percent(counted, due)}, {counted:,} of {due:,} intervals"
    return HeatCell(tone, said, f"{path}?{_span(start, end)}#missing")


def _span(start: datetime, end: datetime) -> str:
    return urlencode({"from": start.isoformat(), "to": end.isoformat()})


def _asked(request: HttpRequest) -> tuple[datetime, datetime] | None:
    """Return the hours that the query names; None unless they lie within one day."""
    try:
        start, end = (datetime.fromisoformat(request.GET[name]) for name in ("from", "to"))
    except (KeyError, ValueError):
        return None
    is_span = start.tzinfo is not None and end.tzinfo is not None and timedelta() < end - start <= _LONGEST_LOOK
    return (start, end) if is_span else None


def _energy(hours: list[Hour]) -> Chart:
    total = sum(hour.energy_wh for hour in hours)
    values = [round(hour.energy_wh / 1000, 3) if hour.counted else None for hour in hours]
    whole = [None if hour.counted < hour.expected else value for hour, value in zip(hours, values, strict=True)]
    part = [value if hour.counted < hour.expected else None for hour, value in zip(hours, values, strict=True)]
    return charts.bars(
        "totals",
        f"Energy of all meters by the hour: {energy(total)} in all",
        labels([hour.start for hour in hours], "%a %H:%M"),
        [Series("complete", whole), Series("readings are missing", part, charts.UNSURE)],
        "kWh",
    )


def _incomplete(rows: list[completeness.IncompleteMeter], start: datetime) -> HtmlTable:
    day = urlencode({"period": "day", "on": day_of(start).isoformat()})
    return table(
        columns_of("meter", "#missing", "#expected"),
        [
            [
                link(f"{reverse('admin:meter', args=[row.id])}?{day}", row.serial_number),
                thousands(row.missing),
                thousands(row.expected),
            ]
            for row in rows
        ],
    )


def _uplinks(concentrator: Concentrator, now: datetime) -> HtmlTable:
    rows = Uplink.objects.filter(concentrator=concentrator).defer("body", "waiting_frames").order_by("-received_at")
    return table(
        columns_of("uplink", "received", "-#octets", "#frames", "-#accepted", "-#duplicate", "#rejected"),
        [
            [
                link(reverse("admin:concentrators_uplink_change", args=[row.pk]), row.pk),
                ago(row.received_at, now),
                thousands(row.octets),
                thousands(row.frames),
                *(
                    (thousands(row.accepted), thousands(row.duplicate), thousands(row.rejected))
                    if row.verified_at
                    else (label("waiting", "warning"), NOTHING, NOTHING)
                ),
            ]
            for row in rows[:_ROWS]
        ],
    )


def _tokens(concentrator: Concentrator, now: datetime) -> list[dict[str, Any]]:
    rows = concentrator.tokens.defer("digest").order_by("-pk")[:_TOKENS]
    return [
        {
            "id": row.pk,
            "name": str(row),
            "state": label(tokens.state(row, now), _TOKEN_COLOURS[tokens.state(row, now)]),
            "made": moment(row.created_at),
            "expires": moment(row.expires_at),
            "used": ago(row.last_used_at, now),
            "is_valid": tokens.state(row, now) == "valid",
        }
        for row in rows
    ]
