"""The pages of alerts: open, snoozed and ended ones; one alert with its history, and the form to handle it."""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

from django import forms
from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, QueryDict
from django.shortcuts import get_object_or_404
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.http import urlencode
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextInputWidget

from ami_headend.alerts import handling, queries
from ami_headend.alerts.advice import advice
from ami_headend.alerts.handling import HandlingError
from ami_headend.alerts.models import Alert, AlertStep, Channel, Rule, Step
from ami_headend.alerts.reminders import Word
from ami_headend.alerts.reminders_store import REPLACED
from ami_headend.console.alert_export import exported
from ami_headend.console.alert_links import links
from ami_headend.console.figures import Figure
from ami_headend.console.formatting import SEVERITY_COLOURS, ago, in_zone, label, link, moment, thousands
from ami_headend.console.list_exports import ListExport
from ami_headend.console.lists import ListPage, choice, number_of, page_key, time_of
from ami_headend.console.page import ConsolePage
from ami_headend.core import clock
from ami_headend.core.numbers import row_numbers
from ami_headend.core.text import NOTE_LENGTH, counted
from ami_headend.health.doctor import EVALUATED_LATE
from ami_headend.web.forms import KnownParametersForm
from ami_headend.web.tables import Column, HtmlTable, columns_of, table
from concentrators.failures.kinds import Severity
from meters.group_forms import GroupsField, ids

HANDLE = "alerts.handle_alert"
ROWS = 100
STATES = ("open", "snoozed", "ended")

_KNOWN = {Word.NOTHING: "nothing yet", Word.OPEN: "open", Word.OVER: "over", Word.UNSURE: "not sure"}
_WORD_COLOURS = {Word.NOTHING: "", Word.OPEN: "danger", Word.OVER: "success", Word.UNSURE: "warning"}
_PERIODS = [(60, "an hour"), (240, "4 hours"), (1_440, "a day"), (10_080, "a week"), (43_200, "30 days")]


class HandlingForm(forms.Form):
    """An act on alerts, with a note."""

    note = forms.CharField(
        required=False,
        max_length=NOTE_LENGTH - 50,
        widget=UnfoldAdminTextInputWidget(attrs={"autocomplete": "off"}),
        help_text="What you found or will do; it is added to the alert's history.",
    )
    minutes = forms.TypedChoiceField(
        label="Snooze for",
        choices=_PERIODS,
        coerce=int,
        initial=60,
        required=False,
        widget=UnfoldAdminSelectWidget,
    )


class AlertFilters(KnownParametersForm):
    """Filters alerts by their rule, and by the groups of their meters and concentrators."""

    others = KnownParametersForm.others | {"state"}

    rule = choice("rule", ())
    group = GroupsField()

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        rules = Rule.objects.order_by("name").values_list("pk", "name")
        self.fields["rule"].choices = [("", "all"), *rules]  # type: ignore[attr-defined]


class AlertsPage(ListPage):
    """Open, snoozed or ended alerts; many can be acknowledged or snoozed at once."""

    route = "alerts/"
    name = "alerts"
    title = "Alerts"
    icon = "notifications_active"
    permission_required = ("alerts.view_alert",)
    template_name = "console/alerts/page.html"
    live_template_name = "console/alerts/live.html"
    live_every_s = 10
    form_class = AlertFilters

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        figures = _figures(timezone.now())
        if self.is_live_request:
            return ConsolePage.get_context_data(self, figures=figures, **kwargs)
        state = self.state
        kept = _kept(self.request.GET)
        return super().get_context_data(
            figures=figures,
            state=state,
            kept=kept,
            tabs=[(name, f"?{urlencode({'state': name, **kept})}", name == state) for name in STATES],
            handling=HandlingForm() if self._may_handle() else None,
            **kwargs,
        )

    @property
    def state(self) -> str:
        """The state of the address; open, unless it names another one."""
        state = self.request.GET.get("state", "open")
        return state if state in STATES else "open"

    def _may_handle(self) -> bool:
        return self.state != "ended" and self.request.user.has_perm(HANDLE)

    def _rows(self, filters: dict[str, Any], now: datetime) -> QuerySet[Alert]:
        rule_id = int(filters["rule"]) if filters["rule"] else None
        return queries.of_state(self.state, now, ids(filters["group"]), rule_id)

    def find(self, filters: dict[str, Any], after: list[str] | None) -> tuple[HtmlTable, Sequence[Any] | None]:
        now = timezone.now()
        alerts, key = _page(self._rows(filters, now), self.state, after)
        return alerts_table(alerts, now, selectable=self._may_handle()), key

    def exported(self, filters: dict[str, Any]) -> ListExport:
        return exported(self._rows(filters, timezone.now()))

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        """Acknowledge or snooze the chosen alerts, or end their snooze."""
        ids = row_numbers(request.POST.getlist("alert"))
        _handle(request, ids)
        state = request.POST.get("state", "open")
        where = urlencode({"state": state if state in STATES else "open", **_kept(request.POST)})
        return HttpResponseRedirect(f"{reverse('admin:alerts')}?{where}")


def _kept(asked: QueryDict) -> dict[str, str]:
    """Return the filters that stay when the tab changes, or an alert was handled."""
    return {name: value for name in ("rule", "group") if (value := asked.get(name))}


class AlertPage(ConsolePage):
    """One alert: its meaning, steps, links, history and messages."""

    route = "alerts/<int:pk>/"
    name = "alert"
    title = "Alert"
    permission_required = ("alerts.view_alert",)
    template_name = "console/alert/page.html"

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        context = super().get_context_data(**kwargs)
        alert = get_object_or_404(Alert.objects.select_related("rule"), pk=kwargs["pk"])
        user, now = self.request.user, context["now"]
        is_open = alert.resolved_at is None
        return {
            **context,
            "title": f"{alert.rule}: {alert.subject}",
            "alert": alert,
            "severity": severity_label(alert.severity),
            "state": state_label(alert, now),
            "is_snoozed": is_open and alert.snoozed_until is not None and alert.snoozed_until > now,
            "advice": advice(alert.rule),
            "links": [one for one in links(alert) if user.has_perm(one.permission)],
            "rule_url": reverse("admin:alerts_rule_change", args=[alert.rule_id])
            if user.has_perm("alerts.view_rule")
            else None,
            "steps": _steps_table(alert.steps.order_by("-pk")[:ROWS]),
            "receivers": _receivers_table(alert) if user.has_perm("alerts.view_channel") else None,
            "deliveries": _deliveries_table(alert) if user.has_perm("alerts.view_delivery") else None,
            "form": HandlingForm() if user.has_perm(HANDLE) else None,
            "is_open": is_open,
        }

    def post(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Acknowledge, snooze, end a snooze, or add a note."""
        _handle(request, [get_object_or_404(Alert, pk=pk).pk])
        return HttpResponseRedirect(reverse("admin:alert", args=[pk]))


def alerts_table(alerts: Iterable[Alert], now: datetime, *, selectable: bool = False) -> HtmlTable:
    """Return alerts as a table."""
    columns = columns_of("severity", "alert", "-what was found", "-since", "-state")
    rows = [
        [
            severity_label(alert.severity),
            format_html(
                '<a class="console-link" href="{}">{}</a><br><span>{}</span>',
                reverse("admin:alert", args=[alert.pk]),
                alert.subject,
                alert.rule.name,
            ),
            format_html('<span class="console-wrap">{}</span>', in_zone(alert.summary)),
            ago(alert.opened_at, now),
            state_label(alert, now),
        ]
        for alert in alerts
    ]
    if selectable:
        columns = [Column(""), *columns]
        ticks = [
            format_html(
                '<input type="checkbox" name="alert" value="{}" aria-label="{}: {}">',
                alert.pk,
                alert.rule.name,
                alert.subject,
            )
            for alert in alerts
        ]
        rows = [[tick, *row] for tick, row in zip(ticks, rows, strict=True)]
    return table(columns, rows)


def severity_label(severity: int) -> Any:
    """Return a severity in its colour."""
    known = Severity(severity)
    return label(known.name.lower(), SEVERITY_COLOURS[known])


def state_label(alert: Alert, now: datetime) -> Any:
    """Return the state of an alert in words: open, acknowledged, snoozed or over."""
    if alert.resolved_at is not None:
        return format_html("{} {}", label("over", "success"), ago(alert.resolved_at, now))
    if alert.snoozed_until is not None and alert.snoozed_until > now:
        return format_html("{} until {}", label("snoozed"), moment(alert.snoozed_until))
    if alert.acknowledged_at is not None:
        return format_html("{} by {}", label("acknowledged", "info"), alert.acknowledged_by)
    return label("open", "danger")


def _figures(now: datetime) -> list[Figure]:
    counts = queries.count_by_severity(now)
    tones = {Severity.CRITICAL: "bad", Severity.WARNING: "unsure", Severity.INFO: ""}
    icons = {Severity.CRITICAL: "emergency_home", Severity.WARNING: "warning", Severity.INFO: "info"}
    figures = [
        Figure(
            f"Open, {severity.name.lower()}",
            thousands(counts.get(severity.value, 0)),
            "not snoozed",
            icons[severity],
            tone=tones[severity] if counts.get(severity.value) else "good",
        )
        for severity in sorted(Severity, reverse=True)
    ]
    return [*figures, _evaluated(now)]


def _evaluated(now: datetime) -> Figure:
    """Show when rules were last evaluated: without beat or workers no alert is raised."""
    rules = Rule.objects.filter(is_enabled=True).values_list("evaluated_at", "last_error")
    times = [at for at, _ in rules if at is not None]
    failing = sum(bool(error) for _, error in rules)
    if not clock.is_within(max(times, default=None), EVALUATED_LATE, now):
        said = "never" if not times else ago(max(times), now)
        return Figure("Rules evaluated", str(said), "beat or the workers are not running", "heart_broken", tone="bad")
    note = f"{counted(failing, 'rule')} cannot be evaluated" if failing else counted(len(rules), "rule")
    return Figure("Rules evaluated", ago(max(times), now), note, "monitor_heart", tone="bad" if failing else "good")


def _page(rows: QuerySet[Alert], state: str, after: list[str] | None) -> tuple[list[Alert], list[Any] | None]:
    """Return the alerts of a page, and the key of the next page of ended ones; NoSuchPageError if ``after`` is none."""
    if state != "ended":
        return list(rows[: 10 * ROWS]), None
    if after is not None:
        with page_key():
            at, pk = time_of(after[0]), number_of(after[-1])
        rows = rows.filter(Q(resolved_at__lt=at) | Q(resolved_at=at, pk__lt=pk))
    found = list(rows[: ROWS + 1])
    last = found[ROWS - 1] if len(found) > ROWS else None
    return found[:ROWS], None if last is None else [last.resolved_at, last.pk]


def _handle(request: HttpRequest, ids: Sequence[int]) -> None:
    """Perform the act of the form and show a message about the result."""
    if not request.user.has_perm(HANDLE):
        raise PermissionDenied
    form, who, now = HandlingForm(request.POST), request.user.get_username(), timezone.now()
    if not form.is_valid():
        messages.error(request, " ".join(str(error) for errors in form.errors.values() for error in errors))
        return
    if not ids:
        messages.warning(request, "No alert was chosen.")
        return
    note, minutes = form.cleaned_data["note"], form.cleaned_data["minutes"] or _PERIODS[0][0]
    try:
        match request.POST.get("do"):
            case "acknowledge":
                done, said = handling.acknowledge(ids, who, note, now), "acknowledged"
            case "snooze":
                until = now + timedelta(minutes=minutes)
                done, said = handling.snooze(ids, until, who, note, now), "snoozed"
            case "wake":
                done, said = handling.wake(ids, who, now), "taken out of the snooze"
            case "note":
                handling.add_note(ids[0], who, note, now)
                messages.success(request, "The note was added to the history.")
                return
            case _:
                raise HandlingError("Choose what to do.")
    except HandlingError as error:
        messages.error(request, str(error))
        return
    many = counted(done, "alert")
    messages.success(request, f"{many} {said}." if done else f"No alert was left to be {said}.")


def _steps_table(steps: Iterable[AlertStep]) -> HtmlTable:
    return table(
        columns_of("when", "what", "-who", "note"),
        [
            [
                moment(step.at),
                Step(step.step).label,
                step.actor or "the head-end",
                format_html('<span class="console-wrap">{}</span>', in_zone(step.note)),
            ]
            for step in steps
        ],
    )


def _receivers_table(alert: Alert) -> HtmlTable:
    """Show what each receiver knows, and when its next message is due if nothing changes."""
    rows = alert.conversations.select_related("channel").order_by("channel__name", "recipient")[:ROWS]
    return table(
        columns_of("channel", "knows it as", "-next message"),
        [
            [
                _receiver(row.channel, row.channel.name, row.recipient),
                label(_KNOWN[Word(row.word)], _WORD_COLOURS[Word(row.word)]),
                moment(row.look_at) if row.look_at else "when it changes",
            ]
            for row in rows
        ],
    )


def _receiver(channel: Channel | None, name: str, recipient: str) -> Any:
    """Return a channel, or its former name, with the receiver's address."""
    shown = (
        format_html("{} (removed)", name)
        if channel is None
        else link(reverse("admin:alerts_channel_change", args=[channel.pk]), channel)
    )
    return format_html('{}<br><span class="console-wrap">{}</span>', shown, recipient) if recipient else shown


def _deliveries_table(alert: Alert) -> HtmlTable:
    rows = alert.deliveries.select_related("channel").order_by("-pk")[:ROWS]
    return table(
        columns_of("written", "channel", "event", "outcome"),
        [
            [
                moment(row.created_at),
                _receiver(row.channel, row.channel_name, row.recipient),
                row.event,
                delivery_label(row),
            ]
            for row in rows
        ],
    )


def delivery_label(row: Any) -> Any:
    """Return the outcome of a delivery in words."""
    if row.delivered_at is not None:
        return label("delivered", "success")
    if row.given_up_at is not None and row.last_error == REPLACED:
        return format_html('{} <span class="console-wrap">{}</span>', label("withdrawn"), row.last_error)
    if row.given_up_at is not None:
        return format_html('{} <span class="console-wrap">{}</span>', label("given up", "danger"), row.last_error)
    if row.attempts:
        said = f"{counted(row.attempts, 'attempt')}, next at "
        return format_html(
            '{} {}{} <span class="console-wrap">{}</span>',
            label("waits", "warning"),
            said,
            moment(row.due_at),
            row.last_error,
        )
    return label("waits")
