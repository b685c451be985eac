"""The list of concentrators: which post, lag behind or are silent."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils import timezone
from django.utils.safestring import SafeString

from ami_headend import cached_answers
from ami_headend.alerts import silence
from ami_headend.console.fleet_queries import PROFILES
from ami_headend.console.formatting import NOTHING, ago, label, link, percent, thousands
from ami_headend.console.groups import fill, filling
from ami_headend.console.list_exports import ListExport
from ami_headend.console.lists import ROWS, ListPage, box, choice, chosen, number_of, page_key, text
from ami_headend.console.meters import meters_url
from ami_headend.console.registry_queries import TRAFFIC, Traffic
from ami_headend.web.forms import KnownParametersForm
from ami_headend.web.tables import Column, HtmlTable, columns_of, table
from concentrators.fleet import groups
from concentrators.fleet.groups import Members
from concentrators.fleet.health import Health
from concentrators.totals.completeness import IntervalShare
from meters.group_forms import GroupsField, ids

LAGGING_AFTER = timedelta(minutes=2)
_STATES = {"active": True, "inactive": False}


class ConcentratorFilters(KnownParametersForm):
    """Filters concentrators by name and by state."""

    others = KnownParametersForm.others | {"sort"}

    search = text("search", "a part of its name")
    state = choice("state", [(state, state) for state in _STATES])
    group = GroupsField()


def health_label(row: Health, now: datetime) -> SafeString:
    """Return the health of a concentrator in a word; only ``lagging`` is the fault of the head-end."""
    if not row.is_active:
        return label("inactive")
    if row.posted_at is None:
        return label("never posted", "danger" if row.is_silent else "")
    if row.oldest_waiting_at is not None and now - row.oldest_waiting_at > LAGGING_AFTER:
        return label("lagging", "warning")
    return label("silent", "danger") if row.is_silent else label("posting", "success")


class _Shown(NamedTuple):
    """All data of a concentrator in the list."""

    row: Health
    traffic: Traffic
    share: IntervalShare | None


class ConcentratorRow(NamedTuple):
    """A concentrator in the export; intervals, frames and rejected ones are of the last 24 hours."""

    name: str
    is_active: bool
    is_silent: bool
    posted_at: datetime | None
    intervals_counted: int | None
    intervals_expected: int | None
    meters: int
    frames: int
    rejected: int
    uplinks_waiting: int


def _row(shown: _Shown) -> ConcentratorRow:
    row, traffic, share = shown
    counted, expected = (None, None) if share is None else (share.counted, share.expected)
    state = (row.name, row.is_active, row.is_silent, row.posted_at, counted, expected)
    return ConcentratorRow(*state, traffic.meters, traffic.frames, traffic.rejected, row.waiting)


def _completeness(shown: _Shown) -> float:
    return shown.share.counted / shown.share.expected if shown.share is not None else 2


# The columns to sort by; equal rows are in order of their names.
_SORTS: dict[str, Callable[[_Shown], Any]] = {
    "name": lambda shown: shown.row.name,
    "heard": lambda shown: (shown.row.posted_at is not None, shown.row.posted_at),
    "completeness": _completeness,
    "meters": lambda shown: shown.traffic.meters,
    "frames": lambda shown: shown.traffic.frames,
    "rejected": lambda shown: shown.traffic.rejected,
    "waiting": lambda shown: shown.row.waiting,
}


class ConcentratorsPage(ListPage):
    """Concentrators, by name or by the column in ``sort`` (with - for the largest first)."""

    route = "concentrators/"
    name = "concentrators"
    title = "Concentrators"
    icon = "router"
    permission_required = ("concentrators.view_concentrator",)
    template_name = "console/concentrators/page.html"
    live_template_name = "console/concentrators/live.html"
    live_every_s = 10
    form_class = ConcentratorFilters
    orders = frozenset(_SORTS)

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        return super().get_context_data(group_acts=filling(self.request.user), **kwargs)

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        """Put the chosen concentrators into a group, or take them out."""
        fill(request, Members(concentrators=chosen(request, "concentrator")))
        return HttpResponseRedirect(request.get_full_path())

    def find(self, filters: dict[str, Any], after: list[str] | None) -> tuple[HtmlTable, Sequence[Any] | None]:
        now = timezone.now()
        can = self.request.user.has_perm
        sees_shares = can("concentrators.view_intervaltotal")
        found = self._sorted(_found(filters, now, with_shares=sees_shares))
        with page_key():
            first = number_of(after[0]) if after else 0
        see_meters = can("meters.view_meter")
        columns = [
            self._sorted_by("concentrator", "name"),
            Column("health"),
            self._sorted_by("last post", "heard"),
            self._sorted_by("completeness, 24\N{NO-BREAK SPACE}h", "completeness", is_number=True),
            self._sorted_by("meters", "meters", is_number=True, is_minor=True),
            self._sorted_by("frames, 24\N{NO-BREAK SPACE}h", "frames", is_number=True, is_minor=True),
            self._sorted_by("rejected, 24\N{NO-BREAK SPACE}h", "rejected", is_number=True, is_minor=True),
            self._sorted_by("uplinks waiting", "waiting", is_number=True, is_minor=True),
        ]
        page = found[first : first + ROWS]
        lines = [_line(shown, now, see_meters=see_meters) for shown in page]
        if filling(self.request.user):
            columns.insert(0, Column(""))
            for one, line in zip(page, lines, strict=True):
                line.insert(0, box("fill", "concentrator", one.row.id, f"choose concentrator {one.row.name}"))
        rest = first + ROWS if len(found) > first + ROWS else None
        return table(columns, lines), None if rest is None else [rest]

    def exported(self, filters: dict[str, Any]) -> ListExport:
        sees_shares = self.request.user.has_perm("concentrators.view_intervaltotal")
        found = self._sorted(_found(filters, timezone.now(), with_shares=sees_shares))
        return ListExport(ConcentratorRow, [[_row(shown) for shown in found]], lambda most: min(len(found), most))

    def _sorted(self, found: list[_Shown]) -> list[_Shown]:
        sort = self.request.GET.get("sort", "name")
        by = _SORTS.get(sort.removeprefix("-"), _SORTS["name"])
        return sorted(found, key=by, reverse=sort.startswith("-"))

    def _sorted_by(self, title: str, key: str, **more: Any) -> Column:
        """Return a column whose title sorts by it; a second click reverses the order."""
        query = self.request.GET.copy()
        query.pop("after", None)
        here = query.get("sort", "name")
        query["sort"] = f"-{key}" if here == key else key
        order = {key: "ascending", f"-{key}": "descending"}.get(here, "")
        return Column(title, url=f"?{query.urlencode()}", order=order, **more)


def _found(filters: dict[str, Any], now: datetime, *, with_shares: bool) -> list[_Shown]:
    """Return the concentrators that match the filters, by name."""
    part, is_active = filters["search"].casefold(), _STATES.get(filters["state"])
    mine = set(groups.concentrator_ids(ids(filters["group"]) or ())) if filters["group"] else None
    answers = cached_answers.answers([TRAFFIC, *([PROFILES] if with_shares else [])], now)
    traffic = answers[TRAFFIC.name].found
    shares = {share.concentrator_id: share for share in answers[PROFILES.name].found.shares} if with_shares else {}
    return [
        _Shown(row, traffic.get(row.id, Traffic()), shares.get(row.id))
        for row in silence.of_concentrators(now)
        if part in row.name.casefold() and is_active in (None, row.is_active) and (mine is None or row.id in mine)
    ]


def concentrators_table(filters: dict[str, Any], now: datetime, user: Any, most: int) -> HtmlTable:
    """Return concentrators that match the filters as a table, the least complete first."""
    found = _found(filters, now, with_shares=user.has_perm("concentrators.view_intervaltotal"))
    titles = ["concentrator", "health", "last post", "#complete, 24\N{NO-BREAK SPACE}h", "-#meters"]
    columns = columns_of(
        *titles, "-#frames, 24\N{NO-BREAK SPACE}h", "-#rejected, 24\N{NO-BREAK SPACE}h", "-#uplinks waiting"
    )
    see_meters = user.has_perm("meters.view_meter")
    worst = sorted(found, key=_completeness)[:most]
    return table(columns, [_line(shown, now, see_meters=see_meters) for shown in worst])


def _line(shown: _Shown, now: datetime, *, see_meters: bool) -> list[Any]:
    row, traffic, share = shown
    meters = thousands(traffic.meters)
    return [
        link(reverse("admin:concentrator", args=[row.id]), row.name),
        health_label(row, now),
        ago(row.posted_at, now),
        NOTHING if share is None else percent(share.counted, share.expected),
        link(meters_url(concentrator=row.name), meters) if see_meters else meters,
        thousands(traffic.frames),
        f"{thousands(traffic.rejected)} ({percent(traffic.rejected, traffic.frames)})" if traffic.rejected else "0",
        thousands(row.waiting),
    ]
