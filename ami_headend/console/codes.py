"""The tables of codes: what events, registers and qualities are called outside, and what the site puts instead."""

from collections.abc import Mapping, Sequence
from typing import Any

from django import forms
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone
from django.utils.functional import cached_property
from django.utils.html import format_html
from django.utils.http import urlencode
from unfold.widgets import UnfoldAdminTextInputWidget

from ami_headend.console.acts import Act, ActingPage, Wrong
from ami_headend.console.formatting import NOTHING, label, link, moment
from ami_headend.console.lists import sentence
from ami_headend.web.tables import HtmlTable, columns_of, table
from keyvault.audit.chain import web_actor
from meters.codes import tables
from meters.codes.tables import CodeError, Table
from meters.registry import site_codes
from meters.registry.site_codes import Listed

CHANGE, RESET = "meters.change_sitecode", "meters.delete_sitecode"


class EntryForm(forms.Form):
    """An entry of the site: its key, and the fields of its table."""

    def __init__(self, of_table: Table, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        said = {"key": tables.key_help(of_table), **tables.fields(of_table)}
        for name, help_text in said.items():
            self.fields[name] = forms.CharField(
                max_length=250,
                required=False,
                help_text=help_text,
                widget=UnfoldAdminTextInputWidget(attrs={"spellcheck": "false"}),
            )


class CodesPage(ActingPage):
    """One table of codes (``table``); ``key`` names an entry to change."""

    route = "codes/"
    name = "codes"
    title = "Codes"
    icon = "translate"
    permission_required = ("meters.view_sitecode",)
    template_name = "console/codes/page.html"

    @cached_property
    def table(self) -> Table:
        """Return the table that the address names; that of events by default."""
        named = self.request.GET.get("table", "")
        return Table(named) if named in list(Table) else Table.EVENTS

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        context = super().get_context_data(**kwargs)
        listed = site_codes.entries(self.table)
        key = self.request.GET.get("key", "")
        chosen = next((one for one in listed if one.key == key), None)
        initial = {"key": key, **(chosen.value if chosen else {})}
        return {
            **context,
            "tabs": [(one.label, self._address(table=one.value), one is self.table) for one in Table],
            "entries": self._entries(listed, may_change="put" in context["may"]),
            "entry_form": EntryForm(self.table, initial=initial),
            "chosen": chosen,
            "of_site": sum(one.is_of_site for one in listed),
        }

    def acts(self) -> Mapping[str, Act]:
        return {"put": Act(CHANGE, self._put), "reset": Act(RESET, self._reset)}

    def next_page(self) -> str:
        return self._address(table=self.table.value)

    def _put(self, request: HttpRequest) -> str:
        key = request.POST.get("key", "").strip()
        value: dict[str, Any] = {name: request.POST.get(name, "").strip() for name in tables.fields(self.table)}
        if "espi" in value:
            value["espi"] = int(value["espi"]) if value["espi"].isascii() and value["espi"].isdecimal() else -1
        try:
            site_codes.put(self.table, {key: value}, web_actor(request), timezone.now())
        except CodeError as error:
            raise Wrong(f"Nothing was changed. {sentence(error)}") from None
        return f"{key} is stored."

    def _reset(self, request: HttpRequest) -> str:
        key = request.POST.get("key", "").strip()
        if not site_codes.reset(self.table, key, web_actor(request)):
            raise Wrong(f"Nothing was changed. The site has no entry {key[:60]}.")
        return f"The shipped entry for {key} is in force again, if there is one."

    def _address(self, **query: str) -> str:
        return f"{reverse('admin:codes')}?{urlencode(query)}"

    def _entries(self, listed: Sequence[Listed], *, may_change: bool) -> HtmlTable:
        names = list(tables.fields(self.table))
        columns = columns_of("key", *names, "from", "-changed")
        rows = []
        for one in listed:
            key = one.key
            if may_change:
                key = link(f"{self._address(table=self.table.value, key=one.key)}#entry", one.key)
            rows.append(
                [key, *(one.value.get(name, NOTHING) or NOTHING for name in names), _origin(one), _changed(one)]
            )
        return table(columns, rows)


def _origin(one: Listed) -> Any:
    if one.is_of_site:
        return label("site", "info")
    return "shipped" if one.is_verified else label("shipped, unsure", "warning", "public uses do not agree on it")


def _changed(one: Listed) -> Any:
    return format_html("{} by {}", moment(one.changed_at), one.changed_by) if one.is_of_site else NOTHING
