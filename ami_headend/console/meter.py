"""The page of one meter: its readings, missing intervals, keys, commands, failures and events."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa
from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.db.models import OuterRef, Subquery
from django.db.models.functions import Coalesce
from django.http import (
    HttpRequest,
    HttpResponse,
    HttpResponseBase,
    HttpResponseRedirect,
)
from django.shortcuts import get_object_or_404
from django.urls import reverse
from django.utils import timezone
from django.utils.functional import cached_property
from django.utils.html import format_html

from ami_headend.console.deadlines import SEE_DEADLINES, strip_of_meter
from ami_headend.console.events import events_of, events_url
from ami_headend.console.failures import failures_table, failures_url
from ami_headend.console.figures import Figure
from ami_headend.console.formatting import (
    NOTHING,
    ago,
    energy,
    label,
    link,
    moment,
    power,
    protection,
    thousands,
)
from ami_headend.console.groups import group_links
from ami_headend.console.keys.compromise import compromise_url
from ami_headend.console.keys.enrolment import allow_url
from ami_headend.console.load_profile import READ_READINGS, LoadProfilePage, exports, green_button, recent_since
from ami_headend.console.meters import STATUS_COLOURS
from ami_headend.console.periods import midnight
from ami_headend.console.records import signatures_url
from ami_headend.console.register_differences import open_differences
from ami_headend.core.numbers import row_number
from ami_headend.core.text import counted
from ami_headend.web.tables import HtmlTable, columns_of, table
from concentrators.colours import COMMAND_COLOURS
from concentrators.commands import guard, operator
from concentrators.commands.queue import NOT_FETCHED, UNDER_WAY, DownlinkError
from concentrators.failures import queries as failure_queries
from concentrators.failures.queries import FailureSelection
from concentrators.models import Assignment, Command, CommandKind, CommandState
from keyvault import rights
from keyvault.audit.chain import AuditError, web_actor
from keyvault.colours import KEY_COLOURS
from keyvault.coupons import inventory as coupons
from keyvault.coupons.inventory import CouponsStanding
from keyvault.device_keys import last_heard, schemes_in_use
from keyvault.enrolment import inventory as enrolment
from keyvault.master_key import MasterKeyError
from keyvault.models import DeviceKey, InvocationCounter, KeyState, Session
from keyvault.schemes.table import MASKED, SCHEMES, algorithm_name
from meters.contents.signed import SIGNED
from meters.models import Installation, Meter, MeterStatus
from meters.readings import export as files
from meters.readings import last_values, queries
from meters.readings.gaps import GapsError, expected_periods, gap_report
from meters.readings.partitions import retention_start
from meters.registry import access_record, groups
from meters.registry.place_rights import may_see_places

GIVE, CANCEL = "concentrators.add_command", "concentrators.delete_command"
_ROWS = 10
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


class _OfMeter(LoadProfilePage):
    """The meter, period and register that an address names."""

    @cached_property
    def meter(self) -> Meter:
        """Return the meter of the address, or 404."""
        known = Meter.objects.annotate(heard_at=last_heard.last_at("system_title"))
        return get_object_or_404(queries.with_length(known, timezone.now()), pk=self.kwargs["pk"])

    @cached_property
    def installation(self) -> Installation | None:
        """Return where the meter hangs now; None if nowhere."""
        standing = Installation.objects.filter(meter=self.meter, removed_at=None)
        return standing.select_related("place").first()


class MeterPage(_OfMeter):
    """One meter. Figures and commands refresh by themselves; the chart shows the period of the address."""

    route = "meters/<int:pk>/"
    name = "meter"
    title = "Meter"
    icon = "electric_meter"
    back = ("admin:meters", "All meters")
    permission_required = ("meters.view_meter",)
    template_name = "console/meter/page.html"
    live_template_name = "console/meter/live.html"
    live_every_s = 10

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        context = super().get_context_data(**kwargs)
        meter, now = self.meter, context["now"]
        can = self.request.user.has_perm
        heard_at: datetime | None = meter.heard_at  # type: ignore[attr-defined]
        context |= {
            "meter": meter,
            "title": f"Meter {meter}",
            "figures": _figures(meter, heard_at, now),
            "commands": _commands(meter, now) if can("concentrators.view_command") else None,
            "may_cancel": can(CANCEL),
        }
        if self.is_live_request:
            return context
        scheme = _scheme_in_use(meter)
        if can(READ_READINGS) or can("meters.view_meterevent") or may_see_places(self.request.user):
            access_record.note(self.request, meters=[meter.pk])
        context |= {
            "system_title": bytes(meter.system_title).hex(),
            "status": label(MeterStatus(meter.status).label, STATUS_COLOURS.get(MeterStatus(meter.status), "")),
            "may_see_places": may_see_places(self.request.user),
            "assignment": Assignment.objects.filter(meter=meter, valid_to=None).select_related("concentrator").first(),
            "groups": group_links(groups.of_meter(meter.pk)) if can("meters.view_fleetgroup") else None,
            "may_give": can(GIVE) and meter.status == MeterStatus.COMMISSIONED,
            "protection": _protection(scheme),
            "coupons": _coupons(meter, scheme),
            "masks": _content(scheme) == MASKED,
            "enrolment": enrolment.of_device(bytes(meter.system_title)),
            "keys": _keys(meter, now, may_retire=can(rights.ROTATE_DEVICE_KEYS)) if can(rights.SEE_KEYS) else None,
            "events": events_of(meter, _ROWS) if can("meters.view_meterevent") else None,
            "events_url": events_url(meter=meter.serial_number),
        }
        if context["may_see_places"]:
            context["place"] = self.installation
        if can("concentrators.view_integrityfailure"):
            rows, _ = failure_queries.failures(FailureSelection(meter_id=meter.pk), _ROWS)
            context["failures"] = failures_table(rows, now)
            context["failures_url"] = failures_url(meter=meter.serial_number)
        if can(rights.COMPROMISE) and can(rights.SEE_KEYS):
            context["compromise_url"] = compromise_url(bytes(meter.system_title))
        if can(rights.ROTATE_DEVICE_KEYS) and meter.status == MeterStatus.COMMISSIONED:
            context["new_key_url"] = reverse("admin:meter-new-key", args=[meter.pk])
        if can(rights.PROVISION) and can(rights.SEE_KEYS):
            context["allow_url"] = allow_url(bytes(meter.system_title))
        if can(READ_READINGS):
            context |= self._readings(meter, heard_at, now)
        if can(SEE_DEADLINES):
            context |= strip_of_meter(meter, now)
        return context

    def _readings(self, meter: Meter, heard_at: datetime | None, now: datetime) -> dict[str, Any]:
        """Return the context of readings: the chart of the period, its gaps, recent days, and the last values."""
        shown, register = self.shown, self.register
        expected = expected_periods([meter], midnight(self.first_day(now)), now, now)
        recent = queries.load_curve(meter.pk, register.pk, recent_since(now), now)
        curve = queries.load_curve(meter.pk, register.pk, shown.start, shown.end)
        report = gap_report(meter, register, shown.start, shown.end, now)
        return {
            **self.load_profile(curve, recent, expected, report, now),
            **open_differences([meter.pk], register, shown.start, shown.end),
            "exports": exports(meter, shown.start, shown.end, register) + self._green_button(),
            "signatures_url": signatures_url(bytes(meter.system_title).hex(), shown.start, shown.end),
            "gaps_export": f"{reverse('admin:meter-gaps-export', args=[meter.pk])}{self.link()}",
            "last_values": _last_values(meter, heard_at, now),
        }

    def _green_button(self) -> list[tuple[str, str]]:
        """Return the download of the meter's place, for those who may see it."""
        if not may_see_places(self.request.user) or self.installation is None:
            return []
        return [green_button(self.installation.place, self.shown.start, self.shown.end)]

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        """Give the meter a command, or cancel one that nobody has fetched."""
        act = request.POST.get("act", "")
        if not request.user.has_perm(CANCEL if act == "cancel" else GIVE):
            raise PermissionDenied
        try:
            said = self._cancel(request) if act == "cancel" else self._give(request, act)
        except (MasterKeyError, AuditError):
            messages.error(request, "Nothing was done: it cannot be audited while the master key cannot be used.")
        except (DownlinkError, GapsError) as error:
            messages.error(request, f"Nothing was done: {error}.")
        else:
            messages.success(request, said)
        return HttpResponseRedirect(request.get_full_path())

    def _give(self, request: HttpRequest, act: str) -> str:
        if act not in _ACTS:
            raise DownlinkError("there is no such command")
        kind = _ACTS[act]
        order = operator.OperatorOrder(kind)
        if kind is CommandKind.RESEND:
            order = operator.OperatorOrder(kind, start=self.shown.start, end=self.shown.end, register=self.register)
        given = operator.give(self.meter, order, web_actor(request), timezone.now())
        if not given:
            return "Nothing to order: no interval is missing, or each gap has been ordered already."
        if given[0].approval is not None:
            return f"{counted(len(given), 'command')} held: {kind.label}. {guard.told(given[0].approval)}."
        return f"{counted(len(given), 'command')} queued: {kind.label}. A concentrator fetches them next."

    def _cancel(self, request: HttpRequest) -> str:
        number = request.POST.get("number", "")
        command = None
        if (known := row_number(number)) is not None:
            command = Command.objects.filter(pk=known, meter=self.meter).defer("octets").first()
        if command is None or command.kind == CommandKind.SET_KEY:
            raise DownlinkError("the meter has no such command that can be cancelled here")
        if not operator.cancel(command, web_actor(request), timezone.now()):
            raise DownlinkError("a concentrator has fetched it, or it has ended")
        return f"Command {command.pk} is cancelled."


class MeterGapsExport(_OfMeter):
    """The missing intervals of the period as CSV: a row for each gap."""

    route = "meters/<int:pk>/gaps/"
    name = "meter-gaps-export"
    title = "Export of missing intervals"
    permission_required = ("meters.view_meter", READ_READINGS)

    def get(  # type: ignore[override]  # a page of Django's is never a stream
        self, request: HttpRequest, *args: Any, **kwargs: Any
    ) -> HttpResponseBase:
        register = self.register
        access_record.note(self.request, meters=[self.meter.pk])
        report = gap_report(self.meter, register, self.shown.start, self.shown.end, timezone.now())
        title = bytes(self.meter.system_title).hex()
        rows = [(title, register.obis_code, gap.start, gap.end, gap.intervals) for gap in report.gaps]
        return files.csv_answer(f"missing-{title}", _GAPS_SCHEMA, [rows] if rows else [])


def _figures(meter: Meter, heard_at: datetime | None, now: datetime) -> list[Figure]:
    counted = failure_queries.open_of_meter(meter.pk)
    waiting = Command.objects.filter(meter=meter, state__in=UNDER_WAY).count()
    fresh = heard_at is not None and now - heard_at < last_heard.PERIOD
    minutes = meter.length_minutes  # type: ignore[attr-defined]
    return [
        Figure("Last frame", ago(heard_at, now), "accepted frames only", "sensors", tone="good" if fresh else "bad"),
        Figure("Interval", f"{minutes} min", "of its load profile", "timelapse"),
        Figure(
            "Open failures",
            thousands(counted),
            "stored and not acknowledged",
            "gpp_maybe",
            failures_url(meter=meter.serial_number, state="open"),
            "bad" if counted else "good",
        ),
        Figure("Commands under way", thousands(waiting), "held, queued, offered or delivered", "outgoing_mail"),
    ]


def _commands(meter: Meter, now: datetime) -> list[dict[str, Any]]:
    rows = (
        Command.objects.filter(meter=meter)
        .select_related("offered_to", "offered_elsewhere_to", "approval", "wave_meter__wave")
        .defer("octets")
    )
    return [
        {
            "number": row.pk,
            "kind": row.get_kind_display(),
            "parameters": _parameters(row),
            "state": label(row.state, COMMAND_COLOURS[CommandState(row.state)]),
            "since": ago(row.ended_at or row.delivered_at or row.offered_at or row.created_at, now),
            "by": _given_by(row),
            "through": _through(row),
            "can_be_cancelled": row.state in NOT_FETCHED and row.kind != CommandKind.SET_KEY,
        }
        for row in rows.order_by("-pk")[:_ROWS]
    ]


def _given_by(row: Command) -> Any:
    """Return who gave a command, and why a second person refused it; or a link to its rotation wave."""
    if not hasattr(row, "wave_meter"):
        decided = row.approval
        if decided is not None and decided.refused_by:
            return f"{row.created_by}; refused by {decided.refused_by}: {decided.refusal}"
        return row.created_by
    wave = row.wave_meter.wave
    return link(reverse("admin:wave", args=[wave.pk]), wave.name)


def _through(row: Command) -> str:
    """Return the concentrators of a command, and how often one could not pass it on."""
    names = [one.name for one in (row.offered_to, row.offered_elsewhere_to) if one is not None]
    failed = f" (not passed on {row.failures} times)" if row.failures > 1 else " (not passed on once)"
    return (", ".join(dict.fromkeys(names)) or NOTHING) + (failed if row.failures else "")


def _parameters(row: Command) -> Any:
    given = row.parameters
    if "from_s" in given and "to_s" in given:
        ends = [datetime.fromtimestamp(given[name], tz=timezone.get_current_timezone()) for name in ("from_s", "to_s")]
        return format_html("{} to {}", moment(ends[0]), moment(ends[1]))
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in sorted(given.items())) or NOTHING


def _scheme_in_use(meter: Meter) -> str | None:
    """Return the scheme of the meter's active key."""
    scheme: str | None
    scheme = Meter.objects.filter(pk=meter.pk).values_list(schemes_in_use.of("system_title"), flat=True).get()
    return scheme


def _protection(scheme: str | None) -> str:
    """Return how readings under a key of that scheme are protected."""
    line = SCHEMES.get(scheme) if scheme else None
    return protection(line.name, line.caveat) if line else scheme or "no active key"


def _coupons(meter: Meter, scheme: str | None) -> CouponsStanding | None:
    """Return how the coupons of a meter stand; None where its readings are not signed."""
    return coupons.standing(bytes(meter.system_title)) if _content(scheme) == SIGNED.name else None


def _content(scheme: str | None) -> str | None:
    """Return the content of readings under a key of that scheme."""
    line = SCHEMES.get(scheme) if scheme else None
    return line.content if line else None


def _keys(meter: Meter, now: datetime, *, may_retire: bool) -> HtmlTable:
    counters = InvocationCounter.objects.filter(key=OuterRef("pk"))
    sessions = Session.objects.filter(key=OuterRef("pk")).order_by("-context")[:1]  # by the newest the meter counts
    rows = (
        DeviceKey.objects.filter(system_title=meter.system_title)
        .defer("wrapped")
        .annotate(
            highest=Coalesce(Subquery(sessions.values("highest")), Subquery(counters.values("highest"))),
            gaps=Coalesce(Subquery(sessions.values("gaps")), Subquery(counters.values("gaps"))),
            heard_at=last_heard.last_of_key("pk"),
        )
        .order_by("-epoch")
    )
    return table(
        columns_of("epoch", "state", "-scheme", "#highest counter", "#gaps", "-#skipped", "-last frame", "-since"),
        [
            [
                "transfer key" if row.epoch == 0 else row.epoch,
                _key_state(row, may_retire=may_retire),
                NOTHING if row.epoch == 0 else f"{row.scheme}, {algorithm_name(row.algorithm)}",
                *_counters(row),
                NOTHING if row.epoch == 0 else ago(row.heard_at, now),
                moment(row.activated_at or row.created_at),
            ]
            for row in rows
        ],
    )


def _key_state(row: DeviceKey, *, may_retire: bool) -> Any:
    state = label(row.state, KEY_COLOURS[KeyState(row.state)])
    if not may_retire or row.state != KeyState.RETIRING:
        return state
    return format_html("{} {}", state, link(reverse("admin:key-retire", args=[row.pk]), "retire now …"))


def _counters(row: Any) -> tuple[str, str, str]:
    if row.highest is None or row.highest < 0:
        return NOTHING, NOTHING, NOTHING
    runs = row.gaps or ()
    return thousands(row.highest), thousands(len(runs)), thousands(sum(run.upper - run.lower for run in runs))


def _last_values(meter: Meter, heard_at: datetime | None, now: datetime) -> HtmlTable:
    rows: Sequence[last_values.LastValue] = ()
    if heard_at:
        rows = last_values.last_values(meter.pk, now + _AHEAD, retention_start(now), min(heard_at, now) + _AHEAD)
    return table(
        columns_of("register", "#value", "time", "-OBIS code"),
        [[row.name, _value(row), ago(row.captured_at, now), row.obis_code] for row in rows],
    )


def _value(row: last_values.LastValue) -> Any:
    """Write a value in its unit; the tooltip shows the exact value of energies and powers."""
    scaled = {"Wh": energy, "W": power}.get(row.unit)
    exact = f"{row.quantity} {row.unit}"
    return format_html('<span title="{}">{}</span>', exact, scaled(float(row.quantity)) if scaled else exact)
