"""Rules, channels and deliveries in the admin. Alerts have pages of their own (ami_headend/console/alerts.py)."""

from collections.abc import Sequence
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db import transaction
from django.db.models import Count, Max, Q, QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from unfold.contrib.filters.admin import AutocompleteSelectFilter
from unfold.decorators import action, display
from unfold.enums import ActionVariant

from ami_headend.alerts import channels, notices, queries, rules, tasks
from ami_headend.alerts.forms import ChannelForm, RuleForm
from ami_headend.alerts.models import Channel, ChannelKind, Condition, Delivery, Rule
from ami_headend.alerts.parameters import PARAMETERS
from ami_headend.alerts.reminders import MessageType
from ami_headend.alerts.reminders_store import REPLACED
from ami_headend.core.text import counted
from ami_headend.web.admin import AuditedAdmin, ReadOnlyAdmin, form_page, shown
from keyvault.audit.chain import AuditError, web_actor
from keyvault.master_key import MasterKeyError
from meters.admin_groups import OF_GROUPS, group_filter

_ON_OFF = {"on": "success", "off": "warning", "cannot be evaluated": "danger"}
_HEALTH = {"delivering": "success", "failing": "danger", "off": "warning", "nothing sent yet": "info"}
_OUTCOMES = {"delivered": "success", "given up": "danger", "withdrawn": "info", "waits": "warning"}
_ROW_FIELDS = ("selector", "threshold", "period_minutes")


@admin.register(Rule)
class RuleAdmin(AuditedAdmin):
    """Rules: condition, thresholds, and how often receivers are reminded."""

    when_empty = "There is no rule, so no alert is raised."
    form = RuleForm
    list_display = ["name", "what", "state", "severity_name", "open_alerts", "last_evaluated"]
    list_filter = [OF_GROUPS, "condition", "is_enabled"]
    search_fields = ["name__icontains"]
    ordering = ["-severity", "name"]
    readonly_fields = ["state", "last_evaluated", "last_error"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Rule]:
        rows: QuerySet[Rule] = super().get_queryset(request)
        return (
            rows.select_related("group")
            .annotate(open=Count("alerts", filter=Q(alerts__resolved_at=None)))
            .order_by("-severity", "name")
        )

    def get_readonly_fields(self, request: HttpRequest, obj: Rule | None = None) -> Sequence[str]:
        return [*(["condition"] if obj else []), *self.readonly_fields]

    def get_fields(self, request: HttpRequest, obj: Rule | None = None) -> Sequence[str]:
        parts: list[str] = ["name", "condition"]
        if obj is None:
            return [*parts, *_ROW_FIELDS, "group", "severity", "quiet_minutes", "is_enabled"]
        needed = PARAMETERS[Condition(obj.condition)]
        numbers = zip(_ROW_FIELDS, (needed.selector, needed.threshold, needed.period), strict=True)
        parts += [name for name, what in numbers if what is not None]
        parts += ["group"] if needed.may_have_group else []
        return [*parts, "severity", "quiet_minutes", "is_enabled", "state", "last_evaluated", "last_error"]

    def save_model(self, request: HttpRequest, obj: Rule, form: Any, change: bool) -> None:
        channel_ids = rules.save(obj, web_actor(request), timezone.now())
        transaction.on_commit(lambda: tasks.enqueue(channel_ids))

    def delete_model(self, request: HttpRequest, obj: Rule) -> None:
        rules.delete(obj, web_actor(request))

    @display(description="looks for")
    def what(self, rule: Rule) -> str:
        needed = PARAMETERS[Condition(rule.condition)]
        what = Condition(rule.condition).label
        if needed.selector:
            what += f": {dict(needed.selectors).get(rule.selector, rule.selector)}"
        parts = [what]
        if needed.threshold and rule.threshold is not None:
            parts.append(f"{needed.threshold}: {rule.threshold:g}")
        if needed.period and rule.period_minutes is not None:
            parts.append(f"{needed.period.removesuffix(', minutes')} {_minutes(rule.period_minutes)}")
        if rule.group is not None:
            parts.append(f"in {rule.group}")
        return "; ".join(parts)

    @display(description="state", label=_ON_OFF)
    def state(self, rule: Rule) -> str:
        if not rule.is_enabled:
            return "off"
        return "cannot be evaluated" if rule.last_error else "on"

    @display(
        description="severity", ordering="severity", label={"info": "info", "warning": "warning", "critical": "danger"}
    )
    def severity_name(self, rule: Rule) -> str:
        return rule.get_severity_display()

    @display(description="open alerts", ordering="open")
    def open_alerts(self, rule: Rule) -> int:
        return int(rule.open)  # type: ignore[attr-defined]

    @display(description="evaluated", ordering="evaluated_at")
    def last_evaluated(self, rule: Rule) -> str:
        return shown(rule.evaluated_at)


@admin.register(Channel)
class ChannelAdmin(AuditedAdmin):
    """Channels with their receivers. The signing secret of a webhook is shown once, when it is made."""

    when_empty = (
        "Nobody is notified of alerts yet: they appear only on the page Alerts. Add a channel, e-mail or webhook, "
        "and send a test."
    )
    form = ChannelForm
    list_display = ["name", "kind", "least_severity", "health", "last_delivered"]
    search_fields = ["name__icontains"]
    ordering = ["name"]
    readonly_fields = ["health", "last_delivered", "last_failure", "created_at"]
    actions_detail = ["send_test", "rotate_secret", "show_deliveries"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Channel]:
        rows: QuerySet[Channel] = super().get_queryset(request)
        waiting = Q(deliveries__delivered_at=None, deliveries__given_up_at=None, deliveries__attempts__gt=0)
        return rows.annotate(
            delivered=Max("deliveries__delivered_at"), failing=Count("deliveries", filter=waiting)
        ).order_by("name")

    def get_fields(self, request: HttpRequest, obj: Channel | None = None) -> Sequence[str]:
        own = ["name", "kind", "address", "least_severity", "deadline", "group", "is_enabled"]
        if obj is not None:
            needless = {"least_severity"} if obj.kind == ChannelKind.DEADLINE else {"deadline", "group"}
            own = [name for name in own if name not in needless]
        return own if obj is None else [*own, *self.readonly_fields]

    def get_readonly_fields(self, request: HttpRequest, obj: Channel | None = None) -> Sequence[str]:
        return [*(["kind"] if obj else []), *self.readonly_fields]

    def has_test_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("alerts.change_channel")

    def has_secret_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("alerts.rotate_channel_secret")

    def has_deliveries_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("alerts.view_delivery")

    def save_model(self, request: HttpRequest, obj: Channel, form: Any, change: bool) -> None:
        obj.shown_once = channels.save(obj, web_actor(request), timezone.now())  # type: ignore[attr-defined]
        transaction.on_commit(lambda: tasks.enqueue([obj.pk]))

    def get_deleted_objects(
        self, objs: Any, request: HttpRequest
    ) -> tuple[list[str], dict[str, int], set[str], list[str]]:
        """Return what is deleted: the channel, its secrets and its conversations. Its messages stay."""
        return (
            [f"{channel}, its signing secrets and its unsent messages; sent messages stay" for channel in objs],
            {},
            set(),
            [],
        )

    def delete_model(self, request: HttpRequest, obj: Channel) -> None:
        channels.delete(obj, web_actor(request), timezone.now())

    def response_add(self, request: HttpRequest, obj: Channel, post_url_continue: str | None = None) -> HttpResponse:
        # The answer itself shows the secret: a message or a redirect would store it on the way.
        if obj.shown_once:  # type: ignore[attr-defined]
            return self._show_secret(request, obj, obj.shown_once)  # type: ignore[attr-defined]
        response: HttpResponse = super().response_add(request, obj, post_url_continue)
        return response

    @display(description="state", label=_HEALTH)
    def health(self, channel: Channel) -> str:
        if not channel.is_enabled:
            return "off"
        if channel.failing:  # type: ignore[attr-defined]
            return "failing"
        return "delivering" if channel.delivered else "nothing sent yet"  # type: ignore[attr-defined]

    @display(description="last delivery")
    def last_delivered(self, channel: Channel) -> str:
        return shown(channel.delivered)  # type: ignore[attr-defined]

    @display(description="last failure")
    def last_failure(self, channel: Channel) -> str:
        failed = channel.deliveries.exclude(last_error="").order_by("-pk").first()
        return "none" if failed is None else f"{failed.last_error} ({counted(failed.attempts, 'attempt')})"

    @action(description="Send a test", icon="send", permissions=["test"], variant=ActionVariant.PRIMARY)
    def send_test(self, request: HttpRequest, object_id: str) -> HttpResponse:
        channel = self._channel(request, object_id)
        back = reverse("admin:alerts_channel_change", args=[channel.pk])
        if request.method == "POST":
            notices.test(channel, request.user.get_username(), timezone.now())
            tasks.enqueue([channel.pk])
            self.message_user(request, "A test message is on its way; its outcome appears below within seconds.")
            return HttpResponseRedirect(back)
        context = {"title": f"Send a test to {channel}", "submit_text": "Send", "back": back}
        return form_page(
            self, request, forms.Form(), text=f"A message of the type “test” goes to {channel}.", **context
        )

    @action(description="New secret", icon="key", permissions=["secret"])
    def rotate_secret(self, request: HttpRequest, object_id: str) -> HttpResponse:
        channel = self._channel(request, object_id)
        back = reverse("admin:alerts_channel_change", args=[channel.pk])
        if channel.kind != ChannelKind.WEBHOOK:
            self.message_user(request, "E-mails are not signed: this channel has no secret.", messages.WARNING)
            return HttpResponseRedirect(back)
        if request.method == "POST":
            try:
                secret = channels.rotate_secret(channel, web_actor(request), timezone.now())
            except (AuditError, MasterKeyError) as error:
                self.message_user(request, f"No secret was made: {error}", messages.ERROR)
                return HttpResponseRedirect(back)
            return self._show_secret(request, channel, secret)
        text = (
            "This makes a new signing secret. For 24 hours messages are signed with the old one too: give the new one "
            "to the receiver within that time."
        )
        context = {"title": f"A new secret for {channel}", "submit_text": "Make a new secret", "back": back}
        return form_page(self, request, forms.Form(), text=text, **context)

    @action(description="Messages", icon="outbox", permissions=["deliveries"])
    def show_deliveries(self, request: HttpRequest, object_id: str) -> HttpResponse:
        channel = self._channel(request, object_id)
        return HttpResponseRedirect(f"{reverse('admin:alerts_delivery_changelist')}?channel__id__exact={channel.pk}")

    def _channel(self, request: HttpRequest, object_id: str) -> Channel:
        channel: Channel | None = self.get_object(request, object_id)
        if channel is None:
            raise Http404("There is no such channel.")
        return channel

    def _show_secret(self, request: HttpRequest, channel: Channel, secret: str) -> HttpResponse:
        return form_page(
            self,
            request,
            forms.Form(),
            title=f"The secret of {channel}",
            secret=secret,
            shown_once="Signing secret",
            explanation="Copy it to the receiver now: it is shown only once (Standard Webhooks, whsec_...).",
            back=reverse("admin:alerts_channel_change", args=[channel.pk]),
        )


@admin.register(Delivery)
class DeliveryAdmin(ReadOnlyAdmin):
    """Messages, their receivers, and the outcome of each."""

    when_empty = "No message has been written yet: there was neither an alert that a channel wants nor a test."
    list_display = ["created_at", "receiver", "event", "about", "outcome", "attempts"]
    list_filter = [group_filter(queries.of_alerts_of_groups), ("channel", AutocompleteSelectFilter)]
    list_select_related = ["channel", "alert__rule"]
    ordering = ["-id"]
    fields = ["receiver", "about", "event", "outcome", "attempts", "last_error", "created_at", "due_at", "delivered_at"]
    readonly_fields = ["receiver", "about", "outcome"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Delivery]:
        return super().get_queryset(request).select_related("channel", "alert__rule")

    @display(description="channel", ordering="channel_name")
    def receiver(self, delivery: Delivery) -> str:
        name = delivery.channel_name if delivery.channel is None else delivery.channel.name
        said = name if delivery.channel is not None else f"{name} (removed)"
        return f"{said}, {delivery.recipient}" if delivery.recipient else said

    @display(description="about")
    def about(self, delivery: Delivery) -> str:
        if delivery.event == MessageType.DEADLINE:
            return f"readings of {delivery.body['data']['day']}"
        if delivery.alert is None:
            return "none"
        return format_html('<a href="{}">{}</a>', reverse("admin:alert", args=[delivery.alert_id]), delivery.alert)

    @display(description="outcome", label=_OUTCOMES)
    def outcome(self, delivery: Delivery) -> str:
        if delivery.delivered_at is not None:
            return "delivered"
        if delivery.given_up_at is None:
            return "waits"
        return "withdrawn" if delivery.last_error == REPLACED else "given up"


def _minutes(minutes: int) -> str:
    for unit, name in ((1_440, "days"), (60, "hours")):
        if minutes % unit == 0 and minutes >= 2 * unit:
            return f"{minutes // unit} {name}"
    return counted(minutes, "minute")
