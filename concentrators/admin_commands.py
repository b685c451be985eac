"""Commands to meters and waves of new keys in the admin, read-only: they are given over REST or by commands."""

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from unfold.contrib.filters.admin import AutocompleteSelectFilter, ChoicesDropdownFilter
from unfold.decorators import display

from ami_headend.web.admin import PeriodFilter, ReadOnlyAdmin, hex_of
from concentrators.colours import COMMAND_COLOURS, WAVE_COLOURS
from concentrators.models import Command, CommandState, RotationWave, WaveMeter, WaveState
from meters.admin_groups import GroupFilter
from meters.registry.search import of_meters


@admin.register(Command)
class CommandAdmin(ReadOnlyAdmin):
    """Commands and how they stand; never their octets."""

    when_empty = (
        "No command was given to a meter yet. They are given on a meter's page, by a rotation wave, or over the API."
    )
    list_display = ["id", "meter", "kind", "state_label", "attempts", "offered_to", "created_at", "ended_at"]
    list_filter = [
        GroupFilter,
        ("kind", ChoicesDropdownFilter),
        ("state", ChoicesDropdownFilter),
        ("meter", AutocompleteSelectFilter),
        ("created_at", PeriodFilter),
    ]
    list_select_related = ["meter", "offered_to"]
    search_fields = ["id__exact", "meter"]
    search_by = {"meter": of_meters}
    search_help_text = "a command's number, or the beginning of a meter's serial number or system title"
    ordering = ["-id"]
    fields = [
        "id",
        "meter",
        "kind",
        "parameters",
        "state",
        "created_by",
        "created_at",
        "next_attempt_at",
        "expires_at",
        "attempts",
        "offered_at",
        "offered_to",
        "elsewhere_attempt_at",
        "elsewhere_attempts",
        "offered_elsewhere_to",
        "delivered_at",
        "failures",
        "failed_at",
        "late_answers",
        "ended_at",
        "entered_at",
        "sealed_under",
        "invocation_counter",
    ]
    readonly_fields = ["sealed_under"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Command]:
        return (
            super().get_queryset(request).select_related("meter", "offered_to", "offered_elsewhere_to").defer("octets")
        )

    @display(description="state", ordering="state", label=COMMAND_COLOURS)
    def state_label(self, command: Command) -> str:
        return CommandState(command.state).value

    @display(description="sealed under")
    def sealed_under(self, command: Command) -> str:
        return "not yet" if command.kid is None else f"kid {hex_of(command.kid)}"


@admin.register(RotationWave)
class RotationWaveAdmin(ReadOnlyAdmin):
    """Waves of new device keys."""

    when_empty = "No device keys were replaced in a wave yet. Begin one on the page Rotation waves."
    list_display = ["id", "name", "state_label", "rate_per_hour", "failure_budget", "created_by", "created_at"]
    list_filter = [("state", ChoicesDropdownFilter), ("created_at", PeriodFilter)]
    search_fields = ["id__exact", "name__icontains"]
    ordering = ["-id"]
    fields = [field.name for field in RotationWave._meta.concrete_fields]

    def get_queryset(self, request: HttpRequest) -> QuerySet[RotationWave]:
        return super().get_queryset(request).select_related("fleet_key").defer("fleet_key__wrapped")

    @display(description="state", ordering="state", label=WAVE_COLOURS)
    def state_label(self, wave: RotationWave) -> str:
        return WaveState(wave.state).value


@admin.register(WaveMeter)
class WaveMeterAdmin(ReadOnlyAdmin):
    """The meters of waves, and the command that each was given."""

    when_empty = "No meter is in a rotation wave yet."
    list_display = ["wave", "meter", "command_state"]
    list_filter = [GroupFilter, ("wave", AutocompleteSelectFilter), ("meter", AutocompleteSelectFilter)]
    list_select_related = ["wave", "meter", "command"]
    search_fields = ["meter"]
    search_by = {"meter": of_meters}
    ordering = ["-id"]
    fields = ["wave", "meter", "command"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return super().get_queryset(request).select_related("wave", "meter", "command").defer("command__octets")

    @display(description="command", label=COMMAND_COLOURS)
    def command_state(self, row: WaveMeter) -> str:
        return "waiting" if row.command is None else CommandState(row.command.state).value
