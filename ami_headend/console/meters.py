"""The list of meters: which are active, which are silent, and which have open failures."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils import timezone
from django.utils.http import urlencode
from django.utils.safestring import SafeString

from ami_headend import cached_answers
from ami_headend.console import list_exports, registry_queries
from ami_headend.console.failures import failures_url
from ami_headend.console.fleet_queries import METERS_HEARD
from ami_headend.console.formatting import NOTHING, ago, clipped, label, link, thousands
from ami_headend.console.groups import FILLING, PUT_ALL, fill, fill_with, filling
from ami_headend.console.keys.compromise import compromise_url
from ami_headend.console.list_exports import ListExport, paged
from ami_headend.console.lists import ROWS, ListPage, box, choice, chosen, number_of, page_key, text, text_of
from ami_headend.console.registry_queries import MeterRow, MeterSelection
from ami_headend.core import clock
from ami_headend.core.text import counted
from ami_headend.web.forms import KnownParametersForm
from ami_headend.web.tables import Column, HtmlTable, columns_of, table
from concentrators.admin_forms import ConcentratorField
from concentrators.commands import guard, operator
from concentrators.commands.operator import OperatorOrder
from concentrators.commands.queue import DownlinkError
from concentrators.fleet.groups import Members
from concentrators.models import CommandKind
from keyvault import rights
from keyvault.audit.chain import AuditError, web_actor
from keyvault.device_keys import last_heard
from keyvault.master_key import MasterKeyError
from keyvault.schemes.table import scheme_choices
from meters.group_forms import GroupsField, ids
from meters.models import Meter, MeterStatus
from meters.registry.lookup import RegistryError, parse_system_title

GIVE = "concentrators.add_command"
_KINDS = {"read-now": CommandKind.READ_NOW, "set-clock": CommandKind.SET_CLOCK}
_COUNTED_MAX = 100_000  # a confirmation names no more
_SAID_AFTER = timedelta(seconds=15)  # older counts show their time
STATUS_COLOURS = {MeterStatus.COMMISSIONED: "success", MeterStatus.SUSPENDED: "warning"}  # the others have none


class MeterFilters(KnownParametersForm):
    """Filters meters by name, status, scheme, health and concentrator."""

    search = text("search", "serial number or its last digits, name, system title")
    health = choice(
        "health",
        [
            ("heard", "active"),
            ("silent", "silent for 24 h"),
            ("never", "no frame yet"),
            ("enrolling", "awaits enrolment"),
        ],
    )
    status = choice("status", MeterStatus.choices)
    scheme = choice("scheme", scheme_choices())
    concentrator = ConcentratorField()
    group = GroupsField()


def health_label(row: MeterRow, now: Any) -> SafeString:
    """Return the health of a meter in a word."""
    if row.status != MeterStatus.COMMISSIONED:
        return label(MeterStatus(row.status).label, STATUS_COLOURS.get(MeterStatus(row.status), ""))
    if row.may_enrol and row.heard_at is None:
        return label("awaits enrolment", "info")
    if row.heard_at is None:
        return label("no frame yet", "danger")
    return label("active", "success") if now - row.heard_at < last_heard.PERIOD else label("silent", "warning")


def meters_url(**filters: Any) -> str:
    """Return the address of the list under filters, as the form writes them."""
    return f"{reverse('admin:meters')}?{urlencode(filters)}"


class MetersActingPage(ListPage):
    """A list of meters (``meters_table``) with acts for all chosen ones."""

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        return super().get_context_data(meter_acts=self.meter_acts(), group_acts=self.group_acts(), **kwargs)

    def meter_acts(self) -> dict[str, str]:
        """Return the acts on chosen meters by name."""
        can = self.request.user.has_perm
        acts = {"read-now": "Read now", "set-clock": "Set clock"} if can(GIVE) else {}
        return acts | ({"compromise": "Compromised keys …"} if can(rights.COMPROMISE) else {})

    def group_acts(self) -> dict[str, str]:
        """Return the acts by which meters come into a group or go, by name."""
        return filling(self.request.user)

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        """Give each chosen meter the command, or open the page of compromised keys with them."""
        act = request.POST.get("act", "")
        if act in FILLING:
            fill(request, Members(meters=chosen(request, "meter")))
            return HttpResponseRedirect(request.get_full_path())
        if act not in self.meter_acts():
            raise PermissionDenied
        meters = list(Meter.objects.filter(pk__in=chosen(request, "meter")).order_by("serial_number"))
        if not meters:
            messages.error(request, "Nothing was done: choose meters first.")
        elif act == "compromise":
            return HttpResponseRedirect(compromise_url(*(bytes(meter.system_title) for meter in meters)))
        else:
            _give(request, meters, OperatorOrder(_KINDS[act]))
        return HttpResponseRedirect(request.get_full_path())


class MetersPage(MetersActingPage):
    """Meters by serial number; those of groups by their ids."""

    route = "meters/"
    name = "meters"
    title = "Meters"
    icon = "electric_meter"
    permission_required = ("meters.view_meter",)
    template_name = "console/meters/page.html"
    form_class = MeterFilters

    counted_at: datetime | None = None

    def group_acts(self) -> dict[str, str]:
        acts = super().group_acts()
        return acts | PUT_ALL if acts else {}

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        """Do the same, or put all meters that the filters find into a group."""
        if request.POST.get("act") not in PUT_ALL:
            return super().post(request, *args, **kwargs)
        query = request.GET.copy()
        query.pop("after", None)
        form = MeterFilters(query)
        if form.is_valid():
            selection = self.selection(form.cleaned_data)
            if request.POST.get("sure") == "yes":
                fill_with(request, registry_queries.all_ids(selection))
            else:
                found = registry_queries.count(selection, _COUNTED_MAX + 1)
                more = "more than " * (found > _COUNTED_MAX)
                number = counted(min(found, _COUNTED_MAX), "meter")
                said = f"Nothing was done: {more}{number} would be put in. Tick that all are meant."
                messages.error(request, said)
        else:
            messages.error(request, "Nothing was done: correct the filters first.")
        return HttpResponseRedirect(request.get_full_path())

    def known_ids(self, health: str, now: datetime) -> list[int] | None:
        """Return the meters that were silent at the last count; None if they were too many to list."""
        if health not in ("silent", "never"):
            return None
        answer = cached_answers.answers([METERS_HEARD], now)[METERS_HEARD.name]
        found: list[int] | None = answer.found.silent_ids if health == "silent" else answer.found.never_ids
        if found is not None and not clock.is_within(answer.taken_at, _SAID_AFTER, now):
            self.counted_at = answer.taken_at
        return found

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        return {**super().get_context_data(**kwargs), "counted_at": self.counted_at}

    def find(self, filters: dict[str, Any], after: list[str] | None) -> tuple[HtmlTable, Sequence[Any] | None]:
        selection = self.selection(filters)
        if after:
            with page_key():
                place = str(number_of(after[0], 2**31)) if selection.is_by_id else text_of(after)
            selection = replace(selection, after=place)
        return meters_table(selection, self.request.user, choose=bool(self.meter_acts() or self.group_acts()))

    def exported(self, filters: dict[str, Any]) -> ListExport:
        selection = self.selection(filters)

        def page(key: tuple[str | int] | None) -> tuple[list[MeterRow], Any]:
            place = selection if key is None else replace(selection, after=str(key[0]))
            return registry_queries.meters(place, list_exports.BATCH)

        return ListExport(MeterRow, paged(page), lambda most: registry_queries.count(selection, most))

    def selection(self, filters: dict[str, Any]) -> MeterSelection:
        """Return the selection of valid filters, from its beginning."""
        now = timezone.now()
        concentrator, group_ids = filters["concentrator"], ids(filters["group"])
        is_free = concentrator is None and group_ids is None and not filters["search"]
        title = None
        with suppress(RegistryError):
            title = parse_system_title(filters["search"].strip())
        return MeterSelection(
            search=filters["search"].strip(),
            system_title=title,
            status=filters["status"],
            scheme=filters["scheme"],
            concentrator_id=None if concentrator is None else concentrator.pk,
            heard="" if filters["health"] == "enrolling" else filters["health"],
            may_enrol=filters["health"] == "enrolling",
            heard_since=now - last_heard.PERIOD,
            ids=self.known_ids(filters["health"], now) if is_free else None,
            group_ids=group_ids,
        )


def meters_table(selection: MeterSelection, user: Any, *, choose: bool) -> tuple[HtmlTable, Sequence[Any] | None]:
    """Return meters as a table and the key of the next page; ``choose`` adds boxes to choose some."""
    now = timezone.now()
    rows, key = registry_queries.meters(selection, ROWS)
    see_failures = user.has_perm("concentrators.view_integrityfailure")
    columns = columns_of(
        "meter", "health", "last frame", "-name", "-concentrator", "-scheme", "-#interval", "-#open failures"
    )
    lines = [
        [
            link(reverse("admin:meter", args=[row.id]), row.serial_number),
            health_label(row, now),
            ago(row.heard_at, now),
            clipped(row.name or NOTHING),
            clipped(row.concentrator or "none"),
            row.scheme or "no key",
            f"{row.interval_minutes} min",
            link(failures_url(meter=row.serial_number, state="open"), thousands(row.open_failures))
            if row.open_failures and see_failures
            else thousands(row.open_failures),
        ]
        for row in rows
    ]
    if choose:
        columns.insert(0, Column(""))
        for row, line in zip(rows, lines, strict=True):
            line.insert(0, box("act", "meter", row.id, f"choose meter {row.serial_number}"))
    return table(columns, lines), key


def _give(request: HttpRequest, meters: Sequence[Meter], order: OperatorOrder) -> None:
    """Give each meter the command; a message names each meter that cannot get it, with the reason."""
    try:
        given = operator.give_to_many(meters, order, web_actor(request), timezone.now())
    except DownlinkError as error:
        messages.error(request, f"Nothing was done: {error}.")
        return
    except (AuditError, MasterKeyError):
        messages.error(request, "Nothing was done: it cannot be audited while the master key cannot be used.")
        return
    for meter, why in given.refused:
        messages.warning(request, f"Meter {meter}: {why}.")
    if given.commands:
        said = f"{order.kind.label.capitalize()}: {counted(len(given.commands), 'command')}"
        approval = given.commands[0].approval
        messages.success(request, f"{said} queued." if approval is None else f"{said} held. {guard.told(approval)}.")
