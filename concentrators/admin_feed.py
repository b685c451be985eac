"""Deliveries of the feed in the admin: where the rows of a subscription are sent, and how that stands."""

from collections.abc import Sequence
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils import timezone
from unfold.decorators import action, display
from unfold.widgets import UnfoldAdminPasswordWidget, UnfoldAdminSelectWidget, UnfoldAdminTextInputWidget

from ami_headend.core import rows
from ami_headend.core.text import counted
from ami_headend.web.admin import AuditedAdmin, form_page, shown
from concentrators.feed.deliveries import configuration
from concentrators.feed.deliveries.configuration import DeliverySettingError, Made, Wanted
from concentrators.feed.rows import Resource
from concentrators.models import DeliveryKind, FeedDelivery
from keyvault.audit.chain import AuditError, web_actor
from keyvault.master_key import MasterKeyError
from keyvault.receiver_logins import PASSWORD_OCTETS_MAX, LoginError
from meters.admin_groups import OF_GROUPS
from meters.group_forms import GroupField

_STATES = {"delivering": "success", "failing": "danger", "paused": "warning", "nothing sent yet": "info"}


class DeliveryForm(forms.ModelForm[FeedDelivery]):
    """A delivery, and of a new one the subscription; checked as for the API and the command."""

    name = forms.CharField(
        max_length=60, label="Subscription", widget=UnfoldAdminTextInputWidget, help_text="made if it is not there yet"
    )
    resource = forms.ChoiceField(
        choices=[(one.value, one.value) for one in Resource], label="What is sent", widget=UnfoldAdminSelectWidget,
        help_text="what the subscription follows, if it is there already",
    )  # fmt: skip
    group = GroupField(help_text="only its meters, as of now; empty for all")
    password = forms.CharField(
        max_length=PASSWORD_OCTETS_MAX, required=False, strip=False,
        widget=UnfoldAdminPasswordWidget(attrs={"autocomplete": "off"}),
        help_text="of the SFTP server, if it takes no key; empty: as before",
    )  # fmt: skip

    class Meta:
        model = FeedDelivery
        fields = ["kind", "address", "format", "rows", "wait_minutes", "group", "host_key", "is_enabled"]
        help_texts = {
            "address": "https://... of a webhook; an absolute path in FEED_FOLDERS; or sftp://user@host:port/folder",
            "rows": "the most of one batch; empty: 1,000 for a webhook, 50,000 for files",
            "wait_minutes": "a batch that is not full goes out when its oldest row has this age; empty: 0, files 15",
            "host_key": "of an SFTP server, as in known_hosts: compare its fingerprint with the server's operator",
        }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name in ("rows", "wait_minutes"):
            if name in self.fields:
                self.fields[name].required = False
        if self.instance.pk is not None:
            for name in ("name", "resource"):
                self.fields.pop(name, None)

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        kind = cleaned.get("kind") or self.instance.kind
        if kind in DeliveryKind.values:
            usual = dict(zip(("rows", "wait_minutes"), configuration.USUAL[DeliveryKind(kind)], strict=True))
            cleaned |= {name: value for name, value in usual.items() if cleaned.get(name) is None}
        if cleaned.get("password"):
            try:
                configuration.check_password(kind, cleaned["password"])
            except DeliverySettingError as error:
                self.add_error("password", str(error))
        if "name" in cleaned and "resource" in cleaned:
            try:
                configuration.check_new(cleaned["name"], Resource(cleaned["resource"]))
            except DeliverySettingError as error:
                self.add_error("name", str(error))
        return cleaned

    def _post_clean(self) -> None:
        super()._post_clean()  # type: ignore[misc]
        if not self.errors and configuration.is_to_check(self.instance, self.changed_data):
            try:
                configuration.check(self.instance)
            except DeliverySettingError as error:
                self.add_error(None, str(error))

    def wanted(self) -> Wanted:
        """Return what the form asks for."""
        asked = self.cleaned_data
        names = ("kind", "address", "format", "rows", "wait_minutes", "group", "host_key", "is_enabled")
        given = {name: asked.get(name) for name in names}
        return Wanted(**given, for_all=given["group"] is None, password=asked.get("password") or None)


@admin.register(FeedDelivery)
class FeedDeliveryAdmin(AuditedAdmin):
    """Deliveries by subscription. What a receiver needs is shown once, when it is made."""

    when_empty = "Nothing is delivered: consumers ask for the rows of the feed themselves. Add a delivery to send them."
    form = DeliveryForm
    refusals = (DeliverySettingError,)
    list_display = ["subscription", "kind", "format", "health", "last_delivered", "sent"]
    list_filter = [OF_GROUPS]
    list_select_related = ["subscription"]
    search_fields = ["subscription__name__icontains"]
    ordering = ["pk"]
    readonly_fields = ["health", "last_delivered", "sent", "last_failure", "our_key", "created_at"]
    actions_detail = ["new_secret"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[FeedDelivery]:
        rows: QuerySet[FeedDelivery] = super().get_queryset(request)
        return rows.select_related("subscription", "group").order_by("pk")

    def get_fields(self, request: HttpRequest, obj: FeedDelivery | None = None) -> Sequence[str]:
        own = ["kind", "address", "format", "rows", "wait_minutes", "group", "host_key", "password", "is_enabled"]
        if obj is None:
            return ["name", "resource", *own]
        if not self.has_change_permission(request, obj):
            own.remove("password")
        return [*own, *self.readonly_fields]

    def get_readonly_fields(self, request: HttpRequest, obj: FeedDelivery | None = None) -> Sequence[str]:
        return [*(["kind"] if obj else []), *self.readonly_fields]

    def has_secret_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("concentrators.change_feeddelivery")

    def save_model(self, request: HttpRequest, obj: FeedDelivery, form: Any, change: bool) -> None:
        name = obj.subscription.name if change else form.cleaned_data["name"]
        resource = None if change else Resource(form.cleaned_data["resource"])
        made = configuration.save(name, form.wanted(), web_actor(request), timezone.now(), resource=resource)
        obj.pk, obj.subscription = made.delivery.pk, made.delivery.subscription
        obj.made = made  # type: ignore[attr-defined]

    def hold(self, row: FeedDelivery) -> None:
        """Its subscription first, as all who change both do."""
        rows.hold(row.subscription)
        rows.hold(row)

    def delete_model(self, request: HttpRequest, obj: FeedDelivery) -> None:
        configuration.remove(obj.subscription.name, web_actor(request))

    def get_deleted_objects(
        self, objs: Any, request: HttpRequest
    ) -> tuple[list[str], dict[str, int], set[str], list[str]]:
        """Return what is deleted: the delivery with its secrets. The subscription stays where it is."""
        return [f"{one}, with its secrets; the subscription stays" for one in objs], {}, set(), []

    def response_add(
        self, request: HttpRequest, obj: FeedDelivery, post_url_continue: str | None = None
    ) -> HttpResponse:
        made: Made = obj.made  # type: ignore[attr-defined]
        if made.secret or made.public_key:
            return self._show(request, made)
        response: HttpResponse = super().response_add(request, obj, post_url_continue)
        return response

    @display(description="state", label=_STATES)
    def health(self, delivery: FeedDelivery) -> str:
        if not delivery.is_enabled:
            return "paused"
        if delivery.attempts:
            return "failing"
        return "delivering" if delivery.delivered_at else "nothing sent yet"

    @display(description="last delivery")
    def last_delivered(self, delivery: FeedDelivery) -> str:
        return shown(delivery.delivered_at)

    @display(description="sent")
    def sent(self, delivery: FeedDelivery) -> str:
        return f"{counted(delivery.rows_sent, 'row')} in {counted(delivery.batches, 'batch', 'batches')}"

    @display(description="last failure")
    def last_failure(self, delivery: FeedDelivery) -> str:
        return f"{delivery.last_error} ({counted(delivery.attempts, 'attempt')})" if delivery.last_error else "none"

    @display(description="our public key")
    def our_key(self, delivery: FeedDelivery) -> str:
        try:
            return configuration.public_key(delivery) or "none: it needs none, or has a password"
        except (LoginError, MasterKeyError) as error:
            return str(error)

    @action(description="New secret", icon="key", permissions=["secret"])
    def new_secret(self, request: HttpRequest, object_id: str) -> HttpResponse:
        delivery: FeedDelivery | None = self.get_object(request, object_id)
        if delivery is None:
            raise Http404("There is no such delivery.")
        back = reverse("admin:concentrators_feeddelivery_change", args=[delivery.pk])
        if request.method == "POST":
            try:
                return self._show(
                    request, configuration.new_secret(delivery.subscription.name, web_actor(request), timezone.now())
                )
            except (AuditError, MasterKeyError, DeliverySettingError) as error:
                self.message_user(request, f"Nothing was made: {error}", messages.ERROR)
                return HttpResponseRedirect(back)
        text = (
            "A webhook gets a new signing secret; the one before signs, too, for 24 hours. A delivery by SFTP gets a "
            "new key instead of its key or password at once: enter its public half at the server."
        )
        context = {"title": f"A new secret for {delivery.subscription}", "submit_text": "Make it", "back": back}
        return form_page(self, request, forms.Form(), text=text, **context)

    def _show(self, request: HttpRequest, made: Made) -> HttpResponse:
        is_secret = bool(made.secret)
        return form_page(
            self,
            request,
            forms.Form(),
            title=f"For the receiver of {made.delivery.subscription}",
            secret=made.secret or made.public_key,
            shown_once="Signing secret" if is_secret else "Public key",
            explanation="Copy it to the receiver now: it is shown only once (Standard Webhooks, whsec_...)."
            if is_secret
            else "A line of authorized_keys for the user of the SFTP server.",
            back=reverse("admin:concentrators_feeddelivery_change", args=[made.delivery.pk]),
        )
