"""Limits of commands in the admin: made, changed and removed, each act audited."""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from unfold.contrib.filters.admin import ChoicesDropdownFilter
from unfold.decorators import display

from ami_headend.web.admin import AuditedAdmin
from concentrators.commands import guard
from concentrators.models import CommandLimit
from keyvault.audit.chain import web_actor


@admin.register(CommandLimit)
class CommandLimitAdmin(AuditedAdmin):
    """How many commands an account may give without a second person."""

    when_empty = "There is no limit, so one account can reach every meter. Add one."
    fields = ["kind", "span", "most", "share_percent", "account"]
    list_display = ["kind", "span", "at_most", "share", "whose"]
    list_filter = [("kind", ChoicesDropdownFilter), ("span", ChoicesDropdownFilter)]
    search_fields = ["account__icontains"]
    ordering = ["kind", "account", "id"]

    @display(description="at most", ordering="most")
    def at_most(self, limit: CommandLimit) -> str:
        return f"{limit.most:,}"

    @display(description="share of the meters")
    def share(self, limit: CommandLimit) -> str:
        return "-" if limit.share_percent is None else f"{limit.share_percent} %"

    @display(description="applies to", ordering="account")
    def whose(self, limit: CommandLimit) -> str:
        return limit.account or "every account"

    def save_model(self, request: HttpRequest, obj: CommandLimit, form: Any, change: bool) -> None:
        guard.save_limit(web_actor(request), obj)

    def delete_model(self, request: HttpRequest, obj: CommandLimit) -> None:
        guard.delete_limit(web_actor(request), obj)
