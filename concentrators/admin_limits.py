"""Limits of commands in the admin: made, changed and removed, each act audited."""

from typing import Any

from django import forms
from django.contrib import admin
from django.contrib.auth.models import User
from django.http import HttpRequest
from unfold.contrib.filters.admin import ChoicesDropdownFilter
from unfold.decorators import display

from ami_headend.web.admin import AuditedAdmin
from concentrators.commands import guard
from concentrators.models import CommandLimit
from keyvault.audit.chain import web_actor


class LimitForm(forms.ModelForm[CommandLimit]):
    """A limit: of every account, of one, or of a program or system user by name."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        if self.instance.owner_id is not None:
            self.initial["account"] = ""  # the name that the account had when the limit was made

    def clean_account(self) -> str:
        """Return the name of a program or system user; ValidationError if it is an account's, or one was chosen."""
        name: str = self.cleaned_data["account"].strip()
        if name and self.cleaned_data.get("owner") is not None:
            raise forms.ValidationError("Choose an account, or write a name: a limit has one of them.")
        if User.objects.filter(username=name).exists():
            raise forms.ValidationError("That is an account: choose it above, so that the limit goes with it.")
        return name


@admin.register(CommandLimit)
class CommandLimitAdmin(AuditedAdmin):
    """How many commands an account may give without a second person."""

    when_empty = "There is no limit, so one account can reach every meter. Add one."
    form = LimitForm
    fields = ["kind", "span", "most", "share_percent", "owner", "account"]
    list_select_related = ["owner"]
    list_display = ["kind", "span", "at_most", "share", "whose"]
    list_filter = [("kind", ChoicesDropdownFilter), ("span", ChoicesDropdownFilter)]
    search_fields = ["account__icontains", "owner__username__icontains"]
    ordering = ["kind", "account", "id"]

    @display(description="at most", ordering="most")
    def at_most(self, limit: CommandLimit) -> str:
        return f"{limit.most:,}"

    @display(description="share of the meters")
    def share(self, limit: CommandLimit) -> str:
        return "-" if limit.share_percent is None else f"{limit.share_percent} %"

    @display(description="applies to", ordering="account")
    def whose(self, limit: CommandLimit) -> str:
        return limit.owner.get_username() if limit.owner else limit.account or "every account"

    def save_model(self, request: HttpRequest, obj: CommandLimit, form: Any, change: bool) -> None:
        guard.save_limit(web_actor(request), obj)

    def delete_model(self, request: HttpRequest, obj: CommandLimit) -> None:
        guard.delete_limit(web_actor(request), obj)
