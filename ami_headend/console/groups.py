"""The list of groups and tags, with the number of their members, and what other lists share to fill them."""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from django import forms
from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html_join
from django.utils.safestring import SafeString
from unfold.widgets import UnfoldAdminTextInputWidget

from ami_headend import cached_answers
from ami_headend.console.formatting import clipped, link, thousands
from ami_headend.console.group_queries import GROUP_SIZES, standing
from ami_headend.console.list_exports import ROWS_MAX, ListExport
from ami_headend.console.lists import ROWS, ListPage, NoSuchPageError, sentence, text
from ami_headend.core.names import Alike, alike
from ami_headend.web.forms import KnownParametersForm
from ami_headend.web.tables import HtmlTable, columns_of, table
from concentrators.fleet import groups as acts
from concentrators.fleet.groups import Counts, Members
from keyvault.audit.chain import AuditError, web_actor
from keyvault.master_key import MasterKeyError
from meters.group_forms import GroupNameField
from meters.group_models import TAG, FleetGroup, Via
from meters.registry import groups
from meters.registry.groups import GroupError
from meters.registry.search import Condition

ADD, CHANGE, REMOVE = (f"meters.{act}_fleetgroup" for act in ("add", "change", "delete"))


class GroupFilters(KnownParametersForm):
    """Filters groups by kind, and by the beginning of their name."""

    kind = text("kind", "district, feeder, tag ...")
    search = text("search", "the beginning of its name")


class NewGroupForm(forms.Form):
    """The name of a new group, and what it is for."""

    name = GroupNameField(
        required=True, label="Name", help_text="kind:name, as in district:North; or the word of a tag"
    )
    note = forms.CharField(
        max_length=250,
        required=False,
        help_text="what it is for",
        widget=UnfoldAdminTextInputWidget(attrs={"autocomplete": "off"}),
    )


class GroupRow(NamedTuple):
    """A group in the export, with the numbers of its members."""

    kind: str
    name: str
    note: str
    meters: int
    places: int
    concentrators: int
    created_at: datetime


class GroupsPage(ListPage):
    """Groups by kind and name."""

    route = "groups/"
    name = "groups"
    title = "Groups and tags"
    icon = "workspaces"
    permission_required = ("meters.view_fleetgroup",)
    template_name = "console/groups/page.html"
    form_class = GroupFilters

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        new = kwargs.pop("new", None) or (NewGroupForm() if self.request.user.has_perm(ADD) else None)
        return super().get_context_data(new=new, **kwargs)

    def exported(self, filters: dict[str, Any]) -> ListExport:
        sizes = cached_answers.answers([GROUP_SIZES], timezone.now())[GROUP_SIZES.name].found
        rows = _matching(filters).order_by("kind_alike", "name_alike")
        found = [_row(group, sizes.get(group.pk, Counts())) for group in rows[:ROWS_MAX]]
        return ListExport(GroupRow, [found], lambda most: min(len(found), most))

    def find(self, filters: dict[str, Any], after: list[str] | None) -> tuple[HtmlTable, Sequence[Any] | None]:
        rows = _matching(filters)
        if after:
            kind, name = _key(after)
            rows = rows.filter(Q(kind_alike__gt=kind) | Q(kind_alike=kind, name_alike__gt=name))
        shown = list(rows.order_by("kind_alike", "name_alike")[:ROWS])
        sizes = cached_answers.answers([GROUP_SIZES], timezone.now())[GROUP_SIZES.name].found
        lines = [_line(group, sizes.get(group.pk, Counts())) for group in shown]
        key = [shown[-1].kind_alike, shown[-1].name_alike] if len(shown) == ROWS else None
        return table(columns_of("group", "-kind", "#meters", "-#concentrators", "-#places", "-note"), lines), key

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        """Make a group."""
        if not request.user.has_perm(ADD):
            raise PermissionDenied
        form = NewGroupForm(request.POST)
        if form.is_valid():
            try:
                made = acts.make(form.cleaned_data["name"], web_actor(request), form.cleaned_data["note"])
                return HttpResponseRedirect(reverse("admin:group", args=[made.pk]))
            except GroupError as error:
                form.add_error("name", sentence(error))
            except (AuditError, MasterKeyError):
                messages.error(request, "Nothing was made: it cannot be audited while the master key cannot be used.")
        return self.render_to_response(self.get_context_data(new=form))


def group_links(found: Iterable[tuple[FleetGroup, Sequence[Via]]]) -> SafeString:
    """Return groups as links to their pages, each with why it is one if it is by another way than itself."""
    return format_html_join(
        ", ",
        '<a class="console-link" href="{}">{}</a>{}',
        (
            (reverse("admin:group", args=[group.pk]), str(group), "" if Via.METER in via else f" (by {via[0].label})")
            for group, via in found
        ),
    )


FILLING = {"put-in": "Put in", "take-out": "Take out"}  # acts of lists on their chosen rows, beside a group's name
PUT_ALL = {"put-all": "Put all found in"}


def filling(user: Any) -> dict[str, str]:
    """Return the acts by which a list's chosen rows come into a group, or go, by name; none for who may not."""
    return FILLING if user.has_perm(CHANGE) else {}


def fill(request: HttpRequest, members: Members) -> None:
    """Do the act of the request (FILLING) with the chosen rows and the group that it names; a message says what."""
    if not request.user.has_perm(CHANGE):
        raise PermissionDenied
    is_taken = request.POST.get("act") == "take-out"

    def do(group: FleetGroup) -> str:
        if not any((members.meters, members.places, members.concentrators)):
            raise GroupError("choose rows first")
        counts = (acts.take if is_taken else acts.put)(group, members, web_actor(request))
        if is_taken:
            return f"{sum(counts):,} taken out of {group}. A meter may still be in it by its place or concentrator."
        return f"{sum(counts):,} put into {group}."

    _said(request, do)


def fill_with(request: HttpRequest, chosen: Condition) -> None:
    """Put all meters that a statement selects into the group that the request names; a message says how many."""
    if not request.user.has_perm(CHANGE):
        raise PermissionDenied
    _said(request, lambda group: f"{acts.put_meters(group, chosen, web_actor(request)):,} put into {group}.")


def _said(request: HttpRequest, do: Callable[[FleetGroup], str]) -> None:
    try:
        written = request.POST.get("group", "")
        if not written.strip():
            raise GroupError("name the group")
        (group,) = groups.find([written])
        said = do(group)
        cached_answers.forget(GROUP_SIZES)
        cached_answers.forget(standing(group))
        messages.success(request, said)
    except GroupError as error:
        messages.error(request, f"Nothing was done: {error}.")
    except (AuditError, MasterKeyError):
        messages.error(request, "Nothing was done: it cannot be audited while the master key cannot be used.")


def _matching(filters: dict[str, Any]) -> QuerySet[Any]:
    rows = FleetGroup.objects.annotate(kind_alike=Alike("kind"), name_alike=Alike("name"))
    if kind := filters["kind"].strip():
        rows = rows.filter(kind_alike=alike(kind))
    if start := filters["search"].strip():
        rows = rows.filter(name_alike__startswith=alike(start))
    return rows


def _key(after: list[str]) -> tuple[str, str]:
    kind, *name = after
    if "\0" in "".join(after) or not name:
        raise NoSuchPageError
    return kind, "~".join(name)


def _line(group: FleetGroup, size: Counts) -> list[Any]:
    return [
        link(reverse("admin:group", args=[group.pk]), group.name),
        "tag" if group.kind == TAG else group.kind,
        thousands(size.meters),
        thousands(size.concentrators),
        thousands(size.places),
        clipped(group.note),
    ]


def _row(group: FleetGroup, size: Counts) -> GroupRow:
    numbers = size.meters, size.places, size.concentrators
    return GroupRow(group.kind, group.name, group.note, *numbers, group.created_at)
