"""The page of tokens of programs: what each may do, when it was used, and how one is made, rotated and revoked."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from django import forms
from django.conf import settings
from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.utils import timezone
from unfold.widgets import (
    UnfoldAdminCheckboxSelectMultipleWidget,
    UnfoldAdminIntegerFieldWidget,
    UnfoldAdminTextInputWidget,
)

from ami_headend.api_tokens import tokens
from ami_headend.api_tokens.models import ApiToken
from ami_headend.api_tokens.tokens import Made, TokenError
from ami_headend.console.formatting import ago, label, moment
from ami_headend.console.page import ConsolePage
from ami_headend.core.numbers import row_number
from ami_headend.web.scopes import Scope
from keyvault.audit.chain import AuditError, web_actor
from keyvault.master_key import MasterKeyError
from meters.group_models import FleetGroup
from meters.registry import groups
from meters.registry.groups import GroupError

SEE, MAKE, CHANGE = (f"api_tokens.{act}_apitoken" for act in ("view", "add", "change"))
_LISTED = 200
_COLOURS = {"valid": "success", "expired": "warning", "revoked": "danger"}
_EXPIRES_SOON = timedelta(days=14)


def _days_max() -> int:
    return int(settings.API_TOKEN_DAYS_MAX)


class _DaysField(forms.IntegerField):
    def __init__(self) -> None:
        super().__init__(
            min_value=1,
            initial=_days_max,
            label="Valid for days",
            widget=UnfoldAdminIntegerFieldWidget,
        )


class NewTokenForm(forms.Form):
    """The program, what it may do, and for how long."""

    name = forms.CharField(
        max_length=100,
        label="Program",
        help_text="as records name it",
        widget=UnfoldAdminTextInputWidget(attrs={"autocomplete": "off"}),
    )
    scopes = forms.MultipleChoiceField(
        choices=[(scope.value, f"{scope}: {scope.meaning}") for scope in Scope],
        widget=UnfoldAdminCheckboxSelectMultipleWidget,
        label="May use",
    )
    groups = forms.CharField(
        required=False,
        label="Only for groups",
        help_text="as district:North | important; empty for all meters",
        widget=UnfoldAdminTextInputWidget(attrs={"autocomplete": "off", "spellcheck": "false"}),
    )
    days = _DaysField()

    def clean_groups(self) -> list[FleetGroup] | None:
        text = self.cleaned_data["groups"]
        try:
            return groups.find(map(str, groups.parse_all(text))) if text else None
        except GroupError as error:
            raise forms.ValidationError(f"{error}.") from None


class RotationForm(forms.Form):
    """How long the new secret is valid, and the present one beside it."""

    days = _DaysField()
    overlap_hours = forms.IntegerField(
        min_value=0,
        max_value=tokens.OVERLAP_MAX // timedelta(hours=1),
        initial=tokens.OVERLAP // timedelta(hours=1),
        label="Hours in which both secrets are good",
        help_text="0 if others may know the present one",
        widget=UnfoldAdminIntegerFieldWidget,
    )


class ApiTokensPage(ConsolePage):
    """Tokens of programs. Only the answer to making or rotating shows a secret."""

    route = "api-tokens/"
    name = "api-tokens"
    title = "Tokens of programs"
    icon = "vpn_key"
    permission_required = (SEE,)
    template_name = "console/api_tokens/page.html"

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        can, now = self.request.user.has_perm, timezone.now()
        listed = list(tokens.listed()[:_LISTED])
        limits = {pk for token in listed for pk in token.group_ids or ()}
        names = {group.pk: str(group) for group in FleetGroup.objects.filter(pk__in=limits)}
        context = {
            "tokens": [_row(token, names, now) for token in listed],
            "may_make": can(MAKE),
            "may_change": can(CHANGE),
            "form": NewTokenForm(),
            **kwargs,
        }
        return super().get_context_data(**context)

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        """Make, rotate or revoke a token; rotating and revoking ask before they act."""
        act = request.POST.get("act", "")
        if not request.user.has_perm(MAKE if act == "make" else CHANGE):
            raise PermissionDenied
        try:
            if act == "make":
                return self._make(request)
            return self._change(request, act)
        except (TokenError, MasterKeyError, AuditError) as error:
            messages.error(request, f"Nothing was done: {error}.")
            return HttpResponseRedirect(request.path)

    def _make(self, request: HttpRequest) -> HttpResponse:
        form = NewTokenForm(request.POST)
        if not form.is_valid():
            return self.render_to_response(self.get_context_data(form=form))
        given = form.cleaned_data
        try:
            made = tokens.make(
                web_actor(request), given["name"], given["scopes"], given["days"], timezone.now(), given["groups"]
            )
        except TokenError as error:
            form.add_error(None, f"Nothing was done: {error}.")
            return self.render_to_response(self.get_context_data(form=form))
        return self._shown_once(made)

    def _change(self, request: HttpRequest, act: str) -> HttpResponse:
        token = ApiToken.objects.filter(pk=row_number(request.POST.get("token", "")) or 0, revoked_at=None).first()
        if token is None:
            messages.error(request, "Nothing was done: there is no such token, or it has already been revoked.")
        elif act == "rotate":
            form = RotationForm(request.POST if "confirmed" in request.POST else None)
            if not form.is_valid():
                return self._asked(rotating=token, rotation_form=form)
            overlap = timedelta(hours=form.cleaned_data["overlap_hours"])
            days, now = form.cleaned_data["days"], timezone.now()
            return self._shown_once(tokens.rotate(web_actor(request), token.pk, days, overlap, now))
        elif "confirmed" not in request.POST:
            return self._asked(revoking=token)
        else:
            tokens.revoke(web_actor(request), token.pk, timezone.now())
            messages.success(request, f"Token {token} is refused from now on.")
        return HttpResponseRedirect(request.path)

    def _asked(self, **asked: Any) -> HttpResponse:
        return self.render_to_response(self.get_context_data(**asked))

    def _shown_once(self, made: Made) -> HttpResponse:
        return self.render_to_response(self.get_context_data(secret=made.secret, made=made.token))


def _row(token: ApiToken, groups_by_id: Mapping[int, str], now: datetime) -> dict[str, Any]:
    state = token.state(now)
    is_short = state == "valid" and token.expires_at - now < _EXPIRES_SOON
    return {
        "id": token.pk,
        "name": token.name,
        "scopes": ", ".join(token.scopes),
        "groups": ", ".join(groups_by_id.get(pk, "a removed group") for pk in token.group_ids or ()),
        "state": label("expires soon", "warning") if is_short else label(state, _COLOURS[state]),
        "expires": moment(token.revoked_at or token.expires_at),
        "used": ago(token.last_used_at, now),
        "used_from": token.last_used_from,
        "made": moment(token.created_at),
        "made_by": token.created_by,
        "previous_until": moment(token.previous_until) if token.takes_previous(now) else "",
        "previous_used": ago(token.previous_used_at, now),
        "may_change": state != "revoked",
    }
