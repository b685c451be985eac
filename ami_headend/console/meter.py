"""The page of one meter: what it says, what is missing, its keys, commands, failures and events."""

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from typing import Any

import pyarrow as pa
from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.db.models import Max, OuterRef, Subquery
from django.http import (
    Http404,
    HttpRequest,
    HttpResponse,
    HttpResponseBase,
    HttpResponseRedirect,
    StreamingHttpResponse,
)
from django.urls import reverse
from django.utils import timezone
from django.utils.functional import cached_property
from django.utils.html import format_html
from django.utils.http import urlencode

from ami_headend.console import profiles
from ami_headend.console.failures import failures_table, failures_url
from ami_headend.console.figures import Figure
from ami_headend.console.formatting import NOTHING, ago, energy, label, moment, percent, power, thousands
from ami_headend.console.meters import HEARD_PERIOD, STATUS_COLOURS
from ami_headend.console.page import ConsolePage
from ami_headend.console.periods import KINDS, ShownPeriod, day_of, midnight, period_of
from ami_headend.console.tables import Column, Table, table
from concentrators import failure_queries, orders
from concentrators.colours import COMMAND_COLOURS
from concentrators.commands import DownlinkError
from concentrators.failure_queries import FailureSelection
from concentrators.models import Assignment, Command, CommandKind, CommandState
from concentrators.resends import LOAD_PROFILE
from keyvault.audit import AuditError, web_actor
from keyvault.colours import KEY_COLOURS
from keyvault.masterkey import MasterKeyError
from keyvault.models import DeviceKey, InvocationCounter, KeyState
from meters import exports, queries
from meters.gaps import Gap, GapsError, expected_periods, gap_report
from meters.models import Installation, Meter, MeterEvent, MeterStatus, Register
from meters.obis import RegisterKind
from meters.partitions import retention_start

READ_READINGS = "meters.view_reading"
GIVE, CANCEL = "concentrators.add_command", "concentrators.delete_command"
_ROWS = 10
_DAYS = 35
_AHEAD = timedelta(hours=1)  # a meter's clock may be ahead of ours
_GAPS_SCHEMA = pa.schema(
    [
        ("system_title", pa.string()),
        ("obis_code", pa.string()),
        ("from", pa.timestamp("us", tz="UTC")),
        ("to", pa.timestamp("us", tz="UTC")),
        ("intervals", pa.int64()),
    ]
)
_ACTS = {"read-now": CommandKind.READ_NOW, "set-clock": CommandKind.SET_CLOCK, "resend": CommandKind.RESEND}


class _OfMeter(ConsolePage):
    """What an address of a meter names: the meter, a period, and a register."""

    @cached_property
    def meter(self) -> Meter:
        """The meter of the address, or 404."""
        chosen = Meter.objects.filter(pk=min(self.kwargs["pk"], 2**31 - 1))
        found = queries.with_length(chosen, timezone.now()).first()
        if found is None:
            raise Http404("There is no such meter.")
        return found

    @cached_property
    def shown(self) -> ShownPeriod:
        """The period that the address names; today where it names none."""
        try:
            day = date.fromisoformat(self.request.GET.get("on", ""))
        except ValueError:
            day = day_of(timezone.now())
        kind = self.request.GET.get("period", "")
        return period_of(kind if kind in KINDS else "day", min(max(day, date(1970, 1, 2)), date(9990, 1, 1)))

    @cached_property
    def registers(self) -> list[Register]:
        """What there is a load profile of: interval registers of energy."""
        return list(Register.objects.filter(kind=RegisterKind.INTERVAL, unit="Wh").order_by("obis_code"))

    @property
    def register(self) -> Register:
        """The register that the address names; the load profile where it names none."""
        by_code = {register.obis_code: register for register in self.registers}
        return by_code.get(self.request.GET.get("register", ""), by_code[LOAD_PROFILE])


class MeterPage(_OfMeter):
    """One meter. Its figures and commands renew themselves; the chart shows the period of the address."""

    route = "meters/<int:pk>/"
    name = "meter"
    title = "Meter"
    icon = "electric_meter"
    permission_required = ("meters.view_meter",)
    template_name = "console/meter/page.html"
    live_template_name = "console/meter/live.html"
    live_every_s = 10

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        context = super().get_context_data(**kwargs)
        meter, now = self.meter, context["now"]
        can = self.request.user.has_perm
        counters = InvocationCounter.objects.filter(key__system_title=meter.system_title, key__epoch__gt=0)
        heard = counters.aggregate(at=Max("heard_at"))["at"]
        context |= {
            "meter": meter,
            "title": f"Meter {meter}",
            "figures": _figures(meter, heard, now),
            "commands": _commands(meter, now) if can("concentrators.view_command") else None,
            "may_cancel": can(CANCEL),
        }
        if self.is_live_request:
            return context
        context |= {
            "system_title": bytes(meter.system_title).hex(),
            "status": label(MeterStatus(meter.status).label, STATUS_COLOURS[MeterStatus(meter.status)]),
            "place": Installation.objects.filter(meter=meter, removed_at=None).select_related("place").first(),
            "assignment": Assignment.objects.filter(meter=meter, valid_to=None).select_related("concentrator").first(),
            "may_give": can(GIVE) and meter.status == MeterStatus.COMMISSIONED,
            "keys": _keys(meter, now) if can("keyvault.view_devicekey") else None,
            "events": _events(meter) if can("meters.view_meterevent") else None,
            "events_url": f"{reverse('admin:meters_meterevent_changelist')}?meter__id__exact={meter.pk}",
        }
        if can("concentrators.view_integrityfailure"):
            rows, _ = failure_queries.failures(FailureSelection(meter_id=meter.pk), _ROWS)
            context["failures"] = failures_table(rows, now)
            context["failures_url"] = failures_url(meter=meter.serial_number)
        if can(READ_READINGS):
            context |= self._readings(meter, heard, now)
        return context

    def _readings(self, meter: Meter, heard: datetime | None, now: datetime) -> dict[str, Any]:
        """What the meter said: the chart of the period, its gaps, the days before it, and the last values."""
        shown = self.shown
        registers, register = self.registers, self.register
        today = day_of(now)
        first = min(shown.first_day, today - timedelta(days=_DAYS - 1))
        expected = expected_periods([meter], midnight(first), now, now)
        recent = queries.load_curve(meter.pk, register.pk, midnight(today - timedelta(days=_DAYS - 1)), now)
        curve = queries.load_curve(meter.pk, register.pk, shown.start, shown.end)
        report = gap_report(meter, register, shown.start, shown.end, now)
        days = [today - timedelta(days=n) for n in reversed(range(_DAYS))]
        address = {"period": shown.kind, "on": shown.first_day.isoformat(), "register": register.obis_code}
        return {
            "shown": shown,
            "profile": profiles.profile(shown, curve, expected, register, now),
            "register": register,
            "registers": registers if len(registers) > 1 else None,
            "periods": [(kind, _link(address, period=kind)) for kind in KINDS],
            "previous": _link(address, on=shown.previous.isoformat()),
            "following": _link(address, on=shown.following.isoformat()) if shown.end <= now else None,
            "today": _link(address, on=today.isoformat()) if not shown.start <= now < shown.end else None,
            "days": [_day(share, today) for share in profiles.by_day(days, recent, expected)],
            "report": report,
            "missing": percent(report.expected - report.missing, report.expected),
            "gaps": _gaps(report.gaps[:_ROWS]),
            "more_gaps": max(0, len(report.gaps) - _ROWS),
            "exports": _exports(meter, shown, register),
            "gaps_export": f"{reverse('admin:meter-gaps-export', args=[meter.pk])}{_link(address)}",
            "last_values": _last_values(
                queries.last_values(meter.pk, now + _AHEAD, retention_start(now)) if heard else [], now
            ),
        }

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        """Give the meter a command, or take one back that nobody has fetched."""
        act = request.POST.get("act", "")
        if not request.user.has_perm(CANCEL if act == "cancel" else GIVE):
            raise PermissionDenied
        try:
            said = self._cancel(request) if act == "cancel" else self._give(request, act)
        except (MasterKeyError, AuditError):
            messages.error(request, "Nothing was done: while the master key cannot be used, nothing can be audited.")
        except (DownlinkError, GapsError) as error:
            messages.error(request, f"Nothing was done: {error}.")
        else:
            messages.success(request, said)
        return HttpResponseRedirect(request.get_full_path())

    def _give(self, request: HttpRequest, act: str) -> str:
        if act not in _ACTS:
            raise DownlinkError("there is no such command")
        kind = _ACTS[act]
        order = orders.Order(kind)
        if kind is CommandKind.RESEND:
            order = orders.Order(kind, start=self.shown.start, end=self.shown.end, register=self.register)
        given = orders.give(self.meter, order, web_actor(request), timezone.now())
        if not given:
            return "Nothing to ask for: no interval is missing, or each gap was asked for already."
        return f"{len(given)} command{'s' * (len(given) != 1)} queued: {kind.label}. A concentrator fetches them next."

    def _cancel(self, request: HttpRequest) -> str:
        number = request.POST.get("number", "")
        command = None
        if number.isascii() and number.isdigit():
            command = Command.objects.filter(pk=min(int(number), 2**63 - 1), meter=self.meter).defer("octets").first()
        if command is None or command.kind == CommandKind.SET_KEY:
            raise DownlinkError("the meter has no such command that can be taken back here")
        if not orders.cancel(command, web_actor(request), timezone.now()):
            raise DownlinkError("a concentrator has fetched it, or it has ended")
        return f"Command {command.pk} is cancelled."


class MeterGapsExport(_OfMeter):
    """The missing intervals of the period of the address as CSV: a row for each gap."""

    route = "meters/<int:pk>/gaps/"
    name = "meter-gaps-export"
    title = "Export of missing intervals"
    permission_required = ("meters.view_meter", READ_READINGS)

    def get(  # type: ignore[override]  # a page of Django's is never a stream
        self, request: HttpRequest, *args: Any, **kwargs: Any
    ) -> HttpResponseBase:
        register = self.register
        report = gap_report(self.meter, register, self.shown.start, self.shown.end, timezone.now())
        title = bytes(self.meter.system_title).hex()
        rows = [(title, register.obis_code, gap.start, gap.end, gap.intervals) for gap in report.gaps]
        return StreamingHttpResponse(
            exports.stream_csv(_GAPS_SCHEMA, [rows] if rows else []),
            content_type="text/csv; charset=utf-8",
            headers={"Content-Disposition": f'attachment; filename="missing-{title}.csv"'},
        )


def _link(address: dict[str, str], **changes: str) -> str:
    return f"?{urlencode({**address, **changes})}"


def _figures(meter: Meter, heard: datetime | None, now: datetime) -> list[Figure]:
    counted = failure_queries.open_of_meter(meter.pk)
    waiting = Command.objects.filter(
        meter=meter, state__in=[CommandState.QUEUED, CommandState.OFFERED, CommandState.DELIVERED]
    ).count()
    fresh = heard is not None and now - heard < HEARD_PERIOD
    minutes = meter.length_minutes  # type: ignore[attr-defined]
    return [
        Figure("Last heard", ago(heard, now), "accepted frames only", "sensors", tone="good" if fresh else "bad"),
        Figure("Interval", f"{minutes} min", "of its load profile", "timelapse"),
        Figure(
            "Open failures",
            thousands(counted),
            "kept, and not acknowledged",
            "gpp_maybe",
            failures_url(meter=meter.serial_number, state="open"),
            "bad" if counted else "good",
        ),
        Figure("Commands under way", thousands(waiting), "queued, offered or delivered", "outgoing_mail"),
    ]


def _commands(meter: Meter, now: datetime) -> list[dict[str, Any]]:
    rows = Command.objects.filter(meter=meter).select_related("offered_to").defer("octets").order_by("-pk")[:_ROWS]
    return [
        {
            "number": row.pk,
            "kind": row.get_kind_display(),
            "parameters": _parameters(row),
            "state": label(row.state, COMMAND_COLOURS[CommandState(row.state)]),
            "since": ago(row.ended_at or row.delivered_at or row.offered_at or row.created_at, now),
            "by": row.created_by,
            "through": str(row.offered_to or NOTHING),
            "can_be_cancelled": row.state == CommandState.QUEUED and row.kind != CommandKind.SET_KEY,
        }
        for row in rows
    ]


def _parameters(row: Command) -> Any:
    given = row.parameters
    if "from_s" in given and "to_s" in given:
        ends = [datetime.fromtimestamp(given[name], tz=timezone.get_current_timezone()) for name in ("from_s", "to_s")]
        return format_html("{} to {}", moment(ends[0]), moment(ends[1]))
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in sorted(given.items())) or NOTHING


def _keys(meter: Meter, now: datetime) -> Table:
    counters = InvocationCounter.objects.filter(key=OuterRef("pk"))
    rows = (
        DeviceKey.objects.filter(system_title=meter.system_title)
        .defer("wrapped")
        .annotate(
            highest=Subquery(counters.values("highest")),
            gaps=Subquery(counters.values("gaps")),
            heard_at=Subquery(counters.values("heard_at")),
        )
        .order_by("-epoch")
    )
    return table(
        [
            Column("epoch"),
            Column("state"),
            Column("highest counter", is_number=True),
            Column("gaps", is_number=True),
            Column("skipped", is_number=True, is_minor=True),
            Column("last frame", is_minor=True),
            Column("since", is_minor=True),
        ],
        [
            [
                "transfer key" if row.epoch == 0 else row.epoch,
                label(row.state, KEY_COLOURS[KeyState(row.state)]),
                *_counters(row),
                NOTHING if row.epoch == 0 else ago(row.heard_at, now),
                moment(row.activated_at or row.created_at),
            ]
            for row in rows
        ],
    )


def _counters(row: Any) -> tuple[str, str, str]:
    if row.highest is None or row.highest < 0:
        return NOTHING, NOTHING, NOTHING
    runs = row.gaps or ()
    return thousands(row.highest), thousands(len(runs)), thousands(sum(run.upper - run.lower for run in runs))


def _events(meter: Meter) -> Table:
    rows = MeterEvent.objects.filter(meter=meter).select_related("register").order_by("-captured_at", "-id")[:_ROWS]
    return table(
        [Column("time"), Column("event"), Column("value", is_number=True)],
        [[moment(row.captured_at), row.register.name, thousands(row.value)] for row in rows],
    )


def _gaps(gaps: Sequence[Gap]) -> Table:
    return table(
        [Column("from"), Column("to"), Column("intervals", is_number=True)],
        [[moment(gap.start), moment(gap.end), thousands(gap.intervals)] for gap in gaps],
    )


def _last_values(rows: Sequence[queries.LastValue], now: datetime) -> Table:
    return table(
        [Column("register"), Column("value", is_number=True), Column("time"), Column("OBIS code", is_minor=True)],
        [[row.name, _value(row), ago(row.captured_at, now), row.obis_code] for row in rows],
    )


def _value(row: queries.LastValue) -> Any:
    """A value in its unit; of energies and powers the exact one is the tooltip."""
    scaled = {"Wh": energy, "W": power}.get(row.unit)
    exact = f"{row.quantity} {row.unit}"
    return format_html('<span title="{}">{}</span>', exact, scaled(float(row.quantity)) if scaled else exact)


def _day(share: profiles.DayShare, today: date) -> dict[str, Any]:
    """A day of the strip: how complete it is, in a word and a colour, and the way to it."""
    if not share.expected:
        tone, said = "none", "nothing expected"
    elif share.counted >= share.expected:
        tone, said = "whole", "complete"
    else:
        tone = "part" if share.counted else "empty"
        said = f"{share.expected - share.counted} of {share.expected} intervals missing"
    return {
        "day": share.day,
        "tone": tone,
        "said": f"{share.day:%a} {share.day.day} {share.day:%B}: {said}",
        "url": f"?{urlencode({'period': 'day', 'on': share.day.isoformat()})}",
        "is_today": share.day == today,
    }


def _exports(meter: Meter, shown: ShownPeriod, register: Register) -> list[tuple[str, str]]:
    """Addresses of the readings of the period, from the API."""
    asked = {
        "meter": bytes(meter.system_title).hex(),
        "register": register.obis_code,
        "from": shown.start.isoformat().replace("+00:00", "Z"),
        "to": shown.end.isoformat().replace("+00:00", "Z"),
    }
    return [
        (name, f"{reverse('readings')}?{urlencode({**asked, 'format': name.lower()})}") for name in ("CSV", "Parquet")
    ]
