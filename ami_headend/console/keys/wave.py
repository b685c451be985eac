"""One rotation wave, watched live: its progress, the outcome of each meter, and buttons to control it."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from django.db.models import QuerySet
from django.http import HttpRequest
from django.shortcuts import get_object_or_404
from django.urls import reverse
from django.utils import timezone
from django.utils.functional import cached_property

from ami_headend.console import list_exports
from ami_headend.console.acts import Act, ActingPage, Wrong
from ami_headend.console.figures import Figure
from ami_headend.console.formatting import NOTHING, ago, duration, label, link, percent, thousands
from ami_headend.console.keys import questions
from ami_headend.console.keys.waves import SEE, counted
from ami_headend.console.list_exports import ListExport, paged
from ami_headend.console.lists import ROWS, ListPage, MeterField, choice, number_of, page_key
from ami_headend.core.numbers import row_number
from ami_headend.web.forms import KnownParametersForm
from ami_headend.web.tables import HtmlTable, columns_of, table
from concentrators.colours import COMMAND_COLOURS, WAVE_COLOURS
from concentrators.commands import guard, rollouts
from concentrators.commands.rollouts import RolloutProgress
from concentrators.models import Command, CommandState, RotationWave, WaveMeter, WaveState
from keyvault import rights
from keyvault.audit.chain import web_actor
from meters.group_forms import GroupsField, ids
from meters.registry import groups

_WAITING = "waiting"
_MEANINGS = {
    CommandState.QUEUED: ("Queued", "no concentrator has fetched it", "schedule_send"),
    CommandState.OFFERED: ("Fetched", "by the concentrator", "router"),
    CommandState.DELIVERED: (
        "Delivered",
        "reported by the concentrator; the meter has yet to prove it",
        "electric_meter",
    ),
    CommandState.DONE: ("New key in use", "the meter's own frame proves it", "task_alt"),
}


class WaveMeterFilters(KnownParametersForm):
    """Filters meters of a wave by outcome and group."""

    state = choice("outcome", [(_WAITING, "not queued yet"), *CommandState.choices])
    meter = MeterField()
    group = GroupsField()
    field_order = ["state", "meter", "group"]


class WaveRow(NamedTuple):
    """A meter of the wave in the export, and how its command stands."""

    meter: str
    outcome: str
    epoch: int | None
    offers: int | None
    queued_at: datetime | None
    ended_at: datetime | None


class WavePage(ListPage, ActingPage):
    """One wave."""

    route = "keys/waves/<int:wave_id>/"
    name = "wave"
    title = "Rotation wave"
    icon = "waves"
    back = ("admin:waves", "All waves")
    permission_required = (SEE,)
    template_name = "console/keys/wave.html"
    live_template_name = "console/keys/wave_live.html"
    live_every_s = 3
    form_class = WaveMeterFilters

    def acts(self) -> Mapping[str, Act]:
        return {
            "pause": Act(rights.ROTATE_DEVICE_KEYS, self._pause),
            "resume": Act(rights.ROTATE_DEVICE_KEYS, self._resume),
            "cancel": Act(rights.ROTATE_DEVICE_KEYS, self._cancel),
        }

    @cached_property
    def wave(self) -> RotationWave:
        """Return the wave of the address; Http404 if there is none."""
        return get_object_or_404(
            RotationWave.objects.select_related("fleet_key", "approval"), pk=self.kwargs["wave_id"]
        )

    def find(self, filters: dict[str, Any], after: list[str] | None) -> tuple[HtmlTable, Sequence[Any] | None]:
        rows = self._matching(filters)
        if after is not None:
            with page_key():
                (last,) = after
                rows = rows.filter(pk__gt=number_of(last))
        found = list(rows.order_by("pk")[: ROWS + 1])
        return _meters(found[:ROWS]), [found[ROWS - 1].pk] if len(found) > ROWS else None

    def _matching(self, filters: dict[str, Any]) -> QuerySet[WaveMeter]:
        rows = WaveMeter.objects.filter(wave=self.wave).select_related("meter", "command").defer("command__octets")
        state, meter = filters.get("state"), filters.get("meter")
        if state:
            rows = rows.filter(command=None) if state == _WAITING else rows.filter(command__state=state)
        if meter is not None:
            rows = rows.filter(meter=meter)
        if filters.get("group"):
            rows = rows.filter(groups.of_meters(ids(filters["group"]) or ()))
        return rows

    def exported(self, filters: dict[str, Any]) -> ListExport:
        rows = self._matching(filters).order_by("pk")

        def page(key: int | None) -> tuple[list[WaveRow], int | None]:
            found = list(rows.filter(pk__gt=key or 0)[: list_exports.BATCH])
            return [_row(one) for one in found], found[-1].pk if len(found) == list_exports.BATCH else None

        return ListExport(WaveRow, paged(page), lambda most: rows.order_by()[:most].count())

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        wave = self.wave
        context = super().get_context_data(**kwargs)
        progress = questions.progress_of(wave)
        return {
            **context,
            "title": f"Rotation wave: {wave.name}",
            "wave": wave,
            "label": label(WaveState(wave.state).label, WAVE_COLOURS[WaveState(wave.state)]),
            "progress": progress,
            "through": counted(progress),
            "percent": percent(counted(progress), progress.meters),
            "figures": _figures(wave, progress),
            "takes": duration(3600 * progress.waiting / wave.rate_per_hour) if progress.waiting else None,
            "is_held": wave.state == WaveState.HELD,
            "held": guard.told(wave.approval),
            "is_running": wave.state == WaveState.RUNNING,
            "is_paused": wave.state == WaveState.PAUSED,
            "is_stopped": wave.state == WaveState.STOPPED,
            "is_over": wave.state in (WaveState.FINISHED, WaveState.CANCELLED),
            "higher_budget": min(rollouts.NUMBER_MAX, progress.failures + max(10, wave.failure_budget)),
        }

    def _pause(self, request: HttpRequest) -> str:
        rollouts.pause(self.wave.pk, web_actor(request))
        return "Paused: no more commands are queued; queued ones continue."

    def _resume(self, request: HttpRequest) -> str:
        written = request.POST.get("failure_budget", "").strip()
        number = row_number(written)
        if written and (number is None or number > rollouts.NUMBER_MAX):
            raise Wrong(f"Nothing was done: a failure budget is a number up to {rollouts.NUMBER_MAX:,}.")
        wave = rollouts.resume(self.wave.pk, web_actor(request), int(written) if written else None)
        return f"The wave continues, with a failure budget of {wave.failure_budget:,}."

    def _cancel(self, request: HttpRequest) -> str:
        rollouts.cancel(self.wave.pk, web_actor(request), timezone.now())
        return "Cancelled: commands not fetched yet are withdrawn; meters that have the new key continue with it."


def _figures(wave: RotationWave, progress: RolloutProgress) -> list[Figure]:
    states = progress.states
    figures = [Figure("Waiting", thousands(progress.waiting), _waiting_note(wave), "hourglass_empty", "?state=waiting")]
    figures += [
        Figure(title, thousands(states.get(state, 0)), note, icon, f"?state={state.value}")
        for state, (title, note, icon) in _MEANINGS.items()
    ]
    spent = progress.failures
    tone = "bad" if spent > wave.failure_budget else ("unsure" if spent else "good")
    note = f"of a budget of {wave.failure_budget:,}; refused or expired"
    figures.append(Figure("Failed", thousands(spent), note, "gpp_bad", "?state=refused", tone))
    if cancelled := states.get(CommandState.CANCELLED, 0):
        figures.append(Figure("Cancelled", thousands(cancelled), "withdrawn", "block", "?state=cancelled"))
    return figures


def _waiting_note(wave: RotationWave) -> str:
    return "keep their keys: it was cancelled" if wave.state == WaveState.CANCELLED else "not queued yet"


def _meters(rows: Sequence[WaveMeter]) -> HtmlTable:
    columns = columns_of("meter", "outcome", "-#epoch", "-#offers", "-queued", "ended")
    return table(columns, [_meter(row) for row in rows])


def _meter(row: WaveMeter) -> list[Any]:
    meter = link(reverse("admin:meter", args=[row.meter_id]), row.meter)
    command: Command | None = row.command
    if command is None:
        return [meter, label("waiting"), NOTHING, NOTHING, NOTHING, NOTHING]
    state = CommandState(command.state)
    return [
        meter,
        label(state.value, COMMAND_COLOURS[state]),
        command.parameters.get("epoch", NOTHING),
        command.attempts,
        ago(command.created_at),
        NOTHING if command.ended_at is None else ago(command.ended_at),
    ]


def _row(row: WaveMeter) -> WaveRow:
    command: Command | None = row.command
    if command is None:
        return WaveRow(row.meter.serial_number, "waiting", None, None, None, None)
    times = command.created_at, command.ended_at
    return WaveRow(row.meter.serial_number, command.state, command.parameters.get("epoch"), command.attempts, *times)
