"""Deadlines of readings: was a day delivered in time, which concentrators were worst, and how the last days were."""

from collections.abc import Collection, Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Any, NamedTuple

from django import forms
from django.contrib import messages
from django.http import HttpRequest, HttpResponseBase, HttpResponseRedirect
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils import timezone
from django.utils.http import urlencode
from unfold.widgets import UnfoldAdminTextInputWidget

from ami_headend.console import list_exports
from ami_headend.console.figures import Figure
from ami_headend.console.formatting import NOTHING, label, link, percent, thousands
from ami_headend.console.list_exports import ListExport
from ami_headend.console.lists import FilteredPage, choice
from ami_headend.core.text import counted
from ami_headend.web.forms import KnownParametersForm
from ami_headend.web.tables import HtmlTable, columns_of, table
from concentrators.fleet import groups
from concentrators.models import ReadDay, ReadDeadline, ReadShare
from concentrators.totals import meter_success, read_deadlines, read_success, success_tables
from concentrators.totals.read_deadlines import DayStatus
from concentrators.totals.read_success import Success
from meters.group_forms import GroupsField, ids
from meters.group_models import FleetGroup
from meters.models import Meter

SEE_DEADLINES = "concentrators.view_intervaltotal"
STRIP_DAYS = 28
_WORST = 10
_GROUPS = 200
_ALMOST = 0.95
_COLOURS = {DayStatus.MET: "success", DayStatus.MISSED: "danger", DayStatus.NOTHING: "info", DayStatus.OPEN: "info"}
_TONES = {DayStatus.MET: "good", DayStatus.MISSED: "bad"}


class DeadlineFilters(KnownParametersForm):
    """A day, a deadline, and groups of concentrators; the newest day and the soonest deadline where nothing is said."""

    day = forms.DateField(
        required=False, widget=UnfoldAdminTextInputWidget(attrs={"type": "date"}), help_text="whose readings were due"
    )
    deadline = choice("deadline", (), "the soonest")
    group = GroupsField()

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.deadlines = list(ReadDeadline.objects.order_by("days_after", "due_time", "pk"))
        names = [(one.pk, one.name) for one in self.deadlines]
        self.fields["deadline"].choices = [("", "the soonest"), *names]  # type: ignore[attr-defined]


class StripDay(NamedTuple):
    """A day of a strip: its colour, what it says, and the link to it."""

    tone: str
    said: str
    url: str


class DeadlinesPage(FilteredPage):
    """One day of one deadline, and the days before."""

    route = "deadlines/"
    name = "deadlines"
    title = "Deadlines"
    icon = "alarm"
    permission_required = (SEE_DEADLINES,)
    template_name = "console/deadlines/page.html"
    form_class = DeadlineFilters
    can_export = True

    def get(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:  # type: ignore[override]
        """Show the day, or save it and the days before, by concentrator, as a file (``export``)."""
        if "export" not in request.GET:
            return super().get(request, *args, **kwargs)
        query = request.GET.copy()
        query.pop("export")
        back = f"{request.path}?{query.urlencode()}" if query else request.path
        form = DeadlineFilters(query)
        day = _chosen(form.cleaned_data, timezone.now()) if form.is_valid() else None
        if day is None:
            messages.error(request, "Nothing was exported: no day was counted that these filters mean.")
            return HttpResponseRedirect(back)
        return list_exports.answer(request, self.name, _exported(day, _mine(form.cleaned_data)), back)

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        context = super().get_context_data(**kwargs)
        form = DeadlineFilters(self.request.GET)
        context |= {
            "form": form,
            "is_filtered": bool(self.request.GET.get("group")),
            "query": self.request.GET.urlencode(),
        }
        context["unset_zone"] = ", ".join(one.name for one in form.deadlines if one.is_active and one.is_zone_unset)
        return {**context, **_shown(form.cleaned_data, context["now"])} if form.is_valid() else context


def _exported(day: ReadDay, mine: Sequence[int] | None) -> ListExport:
    """Return the rows of a counted day and of those of its strip, for each concentrator or for some."""
    days = read_success.history(day.deadline, day.day, STRIP_DAYS)
    return ListExport(
        success_tables.schema_of("concentrator"),
        success_tables.of_concentrators(days, mine),
        lambda most: min(most, success_tables.number_of(days, mine)),
    )


def figure(day: ReadDay, counted: Success, now: datetime, url: str) -> Figure:
    """Return the share that had arrived by a deadline."""
    status = read_deadlines.status(counted.expected, counted.in_time, day.target_percent)
    missing = counted.expected - counted.in_time - counted.late
    target = f"target {day.target_percent.normalize():f} %"
    note = (
        f"{target}; {thousands(counted.late)} late, {thousands(missing)} missing" if counted.expected else str(status)
    )
    share = percent(counted.in_time, counted.expected)
    return Figure(f"{_named(day, now)} by {_due(day)}", share, note, "alarm", url, _TONES.get(status, ""))


def newest_figures(now: datetime) -> list[Figure]:
    """Return the figure of the soonest deadline for the newest day that was counted; none before the first. A query."""
    return [figure(day, _fleet(day), now, _url(day)) for day in read_success.newest_days(now)[:1]]


def group_figures(concentrator_ids: Collection[int], group: FleetGroup, now: datetime) -> list[Figure]:
    """Return the same figure over the concentrators of a group. At most two queries."""
    newest = read_success.newest_days(now)[:1]
    counted = read_success.sums(newest, concentrator_ids) if concentrator_ids else {}
    query = {"group": str(group)}
    return [figure(day, counted[day.pk], now, _url(day, query)) for day in newest if day.pk in counted]


def strip_of(concentrator_id: int, now: datetime) -> dict[str, Any]:
    """Return the last days of one concentrator by the soonest deadline; empty before the first. Three queries."""
    for newest in read_success.newest_days(now)[:1]:
        days = read_success.history(newest.deadline, newest.day, STRIP_DAYS)
        mine = read_success.history_of(days, [concentrator_id]).get(concentrator_id, {})
        return _strip_card(newest, days, mine)
    return {}


def _strip_card(newest: ReadDay, days: Collection[ReadDay], counted: Mapping[int, Success]) -> dict[str, Any]:
    strip = _strip(newest.day, days, counted, {"deadline": newest.deadline_id})
    return {"deadline": newest.deadline, "deadline_strip": strip}


def strip_of_meter(meter: Meter, now: datetime) -> dict[str, Any]:
    """Return the last days of one meter by the soonest deadline; empty if nothing was due of it. Five queries."""
    for newest in read_success.newest_days(now)[:1]:
        days = read_success.history(newest.deadline, newest.day, STRIP_DAYS)
        mine = meter_success.of_meter(meter, days, now)
        if not any(counted.expected for counted in mine.values()):
            return {}
        return _strip_card(newest, days, mine)
    return {}


def _shown(asked: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    day = _chosen(asked, now)
    if day is None:
        return {"nothing": "Nothing was counted for this day and deadline: it is not due yet, or from before."}
    mine = _mine(asked)
    query = {"deadline": day.deadline_id, **({"group": _written(asked["group"])} if mine is not None else {})}
    days = read_success.history(day.deadline, day.day, STRIP_DAYS)
    counted = {one.pk: _fleet(one) for one in days} if mine is None else read_success.sums(days, mine)
    return {
        "day": day,
        "whose": query.get("group", ""),
        "figures": [figure(day, counted[day.pk], now, ""), *_parts(counted[day.pk])],
        "strip": _strip(day.day, days, counted, query),
        "worst": _worst(read_success.worst(day, _WORST, mine), days),
        "groups": None if mine is not None else _groups(day),
        "earlier": _query(day.day - timedelta(days=1), query),
        "later": _query(day.day + timedelta(days=1), query) if _is_followed(day) else "",
    }


def _mine(asked: Mapping[str, Any]) -> Sequence[int] | None:
    """Return the concentrators that the filters mean; None for all."""
    return None if asked["group"] is None else groups.concentrator_ids(ids(asked["group"]) or ())


def _chosen(asked: Mapping[str, Any], now: datetime) -> ReadDay | None:
    """Return the day that the filters mean, if it was counted."""
    if asked["day"] is None and not asked["deadline"]:
        return next(iter(read_success.newest_days(now)), None)
    rows = ReadDay.objects.select_related("deadline")
    if asked["deadline"]:
        rows = rows.filter(deadline=int(asked["deadline"]))
    if asked["day"] is not None:
        rows = rows.filter(day=asked["day"])
    return rows.order_by("-day", "deadline__days_after", "deadline__due_time", "deadline_id").first()


def _is_followed(day: ReadDay) -> bool:
    return ReadDay.objects.filter(deadline=day.deadline_id, day=day.day + timedelta(days=1)).exists()


def _parts(success: Success) -> list[Figure]:
    missing = success.expected - success.in_time - success.late
    return [
        Figure("In time", thousands(success.in_time), f"of {counted(success.expected, 'interval')}", "check"),
        Figure("Late so far", thousands(success.late), "arrived after the deadline", "schedule"),
        Figure("Missing", thousands(missing), "have not arrived", "block", "", "" if not missing else "unsure"),
    ]


def _worst(rows: Sequence[ReadShare], days: Collection[ReadDay]) -> HtmlTable:
    histories = read_success.history_of(days, [row.concentrator_id for row in rows])
    return table(
        columns_of("concentrator", "state", "#in time", "-#late", "-#missing", f"-{STRIP_DAYS} days"),
        [
            [
                link(reverse("admin:concentrator", args=[row.concentrator_id]), row.concentrator.name),
                _state(row, row.of_day),
                _share(row),
                thousands(row.late),
                thousands(row.expected - row.in_time - row.late),
                _small_strip(_strip(row.of_day.day, days, histories.get(row.concentrator_id, {}))),
            ]
            for row in rows
        ],
    )


def _groups(day: ReadDay) -> HtmlTable:
    return table(
        columns_of("group", "state", "#in time", "-#late", "-#missing"),
        [
            [
                link(_url(day, {"group": str(group)}), str(group)),
                _state(counted, day),
                _share(counted),
                thousands(counted.late),
                thousands(counted.expected - counted.in_time - counted.late),
            ]
            for group, counted in success_tables.of_groups(day)[:_GROUPS]
        ],
    )


def _share(counted: Success | ReadShare) -> str:
    return percent(counted.in_time, counted.expected) if counted.in_time else "0 %"


def _state(counted: Success | ReadShare, day: ReadDay) -> str:
    status = read_deadlines.status(counted.expected, counted.in_time, day.target_percent)
    return label(str(status), _COLOURS[status])


def _small_strip(days: Sequence[StripDay]) -> str:
    return render_to_string("console/deadlines/strip.html", {"days": days, "is_small": True})


def _strip(
    last: date, days: Collection[ReadDay], counted: Mapping[int, Success], query: Mapping[str, Any] | None = None
) -> list[StripDay]:
    """Return STRIP_DAYS days up to ``last``; with ``query`` they link to the page of their day."""
    known = {one.day: one for one in days}
    shown = [last - timedelta(days=n) for n in reversed(range(STRIP_DAYS))]
    return [_strip_day(day, known.get(day), counted, query) for day in shown]


def _strip_day(
    day: date, found: ReadDay | None, counted: Mapping[int, Success], query: Mapping[str, Any] | None
) -> StripDay:
    name = f"{day:%a} {day.day} {day:%B}"
    if found is None:
        return StripDay("none", f"{name}: not counted", "")
    url = "" if query is None else f"{reverse('admin:deadlines')}{_query(day, query)}"
    own = counted.get(found.pk, Success(0, 0, 0))
    status = read_deadlines.status(own.expected, own.in_time, found.target_percent)
    if status is DayStatus.NOTHING:
        return StripDay("none", f"{name}: {status}", url)
    tone = (
        "5" if status is DayStatus.MET else str((own.in_time > 0) * (3 if own.in_time >= _ALMOST * own.expected else 1))
    )
    return StripDay(tone, f"{name}: {_share(own)} in time, {status}", url)


def _fleet(day: ReadDay) -> Success:
    return Success(day.expected, day.in_time, day.late)


def _named(day: ReadDay, now: datetime) -> str:
    """Name a day as it is called in the zone of its deadline."""
    today = now.astimezone(day.deadline.terms.zone).date()
    return "Yesterday" if day.day == today - timedelta(days=1) else f"{day.day:%a} {day.day.day} {day.day:%B}"


def _due(day: ReadDay) -> str:
    """Write when a day was due, in the zone of its deadline, with the number of days if they are several."""
    due_at = day.due_at.astimezone(day.deadline.terms.zone)
    after = (due_at.date() - day.day).days
    return f"{due_at:%H:%M}" if after == 1 else f"{due_at:%H:%M}, {after} days after"


def _url(day: ReadDay, query: Mapping[str, Any] | None = None) -> str:
    return f"{reverse('admin:deadlines')}{_query(day.day, {'deadline': day.deadline_id, **(query or {})})}"


def _query(day: date, query: Mapping[str, Any]) -> str:
    return f"?{urlencode({'day': day.isoformat(), **query})}"


def _written(found: Sequence[Any]) -> str:
    return "|".join(map(str, found)) or NOTHING
