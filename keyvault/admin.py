"""Keys in the admin: only metadata. No page reads key octets, not even wrapped ones."""

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from unfold.contrib.filters.admin import AutocompleteSelectFilter, ChoicesDropdownFilter
from unfold.decorators import display

from ami_headend.core.text import counted
from ami_headend.web.admin import PeriodFilter, ReadOnlyAdmin, hex_of, shown
from keyvault.colours import KEY_COLOURS
from keyvault.device_keys import last_heard
from keyvault.models import (
    AuditRecord,
    DeviceKey,
    DownlinkCounter,
    FleetKey,
    InvocationCounter,
    KeyState,
    MasterKeyRotation,
    Session,
    TagFailures,
)


@admin.register(FleetKey)
class FleetKeyAdmin(ReadOnlyAdmin):
    """Fleet keys, which only keyvault.device_keys.provisioning makes."""

    when_empty = "There is no fleet key: every device key is stored. manage.py fleet_key make NAME makes one."
    fields = ["name", "master_key_version", "created_at"]
    list_display = ["name", "master_key_version", "created_at"]
    search_fields = ["name__icontains"]
    ordering = ["name"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[FleetKey]:
        return super().get_queryset(request).defer("wrapped")


@admin.register(DeviceKey)
class DeviceKeyAdmin(ReadOnlyAdmin):
    """Device keys by system title and epoch, with the counter of each."""

    when_empty = "There are no device keys yet. They come with meters, or in a shipment: manage.py import_keys."
    list_display = [
        "device",
        "epoch",
        "state_label",
        "origin",
        "scheme",
        "algorithm",
        "master_key_version",
        "created_at",
    ]
    sortable_by = ["device"]  # millions of keys have one version of the master key: to sort them takes seconds
    list_filter = [
        ("state", ChoicesDropdownFilter),
        ("source", ChoicesDropdownFilter),
        ("scheme", ChoicesDropdownFilter),
        ("algorithm", ChoicesDropdownFilter),
        ("fleet_key", AutocompleteSelectFilter),
    ]
    list_select_related = ["fleet_key"]
    search_octets = ["system_title"]
    search_fields = ["system_title"]
    search_help_text = "the first hex digits of a system title"
    ordering = ["system_title", "epoch"]
    fields = [
        "device",
        "epoch",
        "purpose",
        "scheme",
        "algorithm",
        "state",
        "source",
        "fleet_key",
        "master_key_version",
        "version",
        "created_at",
        "counter_highest",
        "counter_heard_at",
    ]
    readonly_fields = ["device", "purpose", "counter_highest", "counter_heard_at"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[DeviceKey]:
        return super().get_queryset(request).select_related("fleet_key").defer("wrapped", "fleet_key__wrapped")

    @display(description="system title", ordering="system_title")
    def device(self, key: DeviceKey) -> str:
        return hex_of(key.system_title)

    @display(description="state", ordering="state", label=KEY_COLOURS)
    def state_label(self, key: DeviceKey) -> tuple[str, str]:
        return key.state, KeyState(key.state).label

    @display(description="source", ordering="source")
    def origin(self, key: DeviceKey) -> str:
        return key.source

    @display(description="protects")
    def purpose(self, key: DeviceKey) -> str:
        return "frames and commands" if key.epoch else "key commands only (transfer key)"

    @display(description="highest counter")
    def counter_highest(self, key: DeviceKey) -> str:
        session = Session.objects.defer("gaps").filter(key=key.pk).order_by("-context").first()
        counter = session or InvocationCounter.objects.defer("gaps").filter(pk=key.pk).first()
        return "none yet" if counter is None or counter.highest < 0 else str(counter.highest)

    @display(description="last heard")
    def counter_heard_at(self, key: DeviceKey) -> str:
        return shown(DeviceKey.objects.filter(pk=key.pk).values_list(last_heard.last_of_key("pk"), flat=True).first())


class OfDeviceKeyAdmin(ReadOnlyAdmin):
    """A row of one device key, found by its device."""

    search_octets = ["key__system_title"]
    search_fields = ["key__system_title"]
    search_help_text = "the first hex digits of a system title"
    ordering = ["key__system_title", "key__epoch"]
    readonly_fields = ["device", "epoch"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return super().get_queryset(request).select_related("key").defer("key__wrapped")

    @display(description="system title", ordering="key__system_title")
    def device(self, row: Any) -> str:
        return hex_of(row.key.system_title)

    @display(description="epoch", ordering="key__epoch")
    def epoch(self, row: Any) -> int:
        return int(row.key.epoch)


@admin.register(InvocationCounter)
class InvocationCounterAdmin(OfDeviceKeyAdmin):
    """The counters that were taken under each key."""

    when_empty = "There are no device keys yet, so no counters."
    list_display = ["device", "epoch", "highest_taken", "floor", "heard"]
    fields = ["device", "epoch", "highest_taken", "floor", "missing", "heard", "key_version"]
    readonly_fields = ["device", "epoch", "highest_taken", "missing", "heard"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[InvocationCounter]:
        rows = super().get_queryset(request).annotate(last_heard_at=last_heard.last_of_key("key_id"))
        is_list = request.resolver_match is not None and str(request.resolver_match.url_name).endswith("_changelist")
        counters: QuerySet[InvocationCounter] = rows.defer("key__wrapped", "gaps") if is_list else rows
        return counters

    @display(description="highest", ordering="highest")
    def highest_taken(self, counter: InvocationCounter) -> str:
        return "none yet" if counter.highest < 0 else str(counter.highest)

    @display(description="last heard")
    def heard(self, counter: InvocationCounter) -> str:
        return shown(counter.last_heard_at)  # type: ignore[attr-defined]

    @display(description="not taken above the floor")
    def missing(self, counter: InvocationCounter) -> str:
        gaps = counter.gaps
        return f"{counted(sum(gap.upper - gap.lower for gap in gaps), 'counter')} in {counted(len(gaps), 'run')}"


@admin.register(DownlinkCounter)
class DownlinkCounterAdmin(OfDeviceKeyAdmin):
    """The last counter that was used for commands under each key."""

    when_empty = "No command was sealed for a meter yet."
    list_display = ["device", "epoch", "last"]
    fields = ["device", "epoch", "last"]


@admin.register(TagFailures)
class TagFailuresAdmin(OfDeviceKeyAdmin):
    """How many wrong tags named each key. Anybody can send these: they raise an alert, and change nothing."""

    when_empty = "No frame came with a bad tag."
    list_display = ["device", "epoch", "failures"]
    fields = ["device", "epoch", "failures"]


@admin.register(MasterKeyRotation)
class MasterKeyRotationAdmin(ReadOnlyAdmin):
    """Rotations of the master key, and their progress."""

    when_empty = "The master key was not rotated yet. Begin on the page Master key."
    list_display = ["to_version", "state", "rewrapped", "total", "unreadable", "started_at", "finished_at"]
    list_filter = [("state", ChoicesDropdownFilter)]
    ordering = ["-pk"]
    fields = [
        "to_version",
        "state",
        "batch_size",
        "total",
        "rewrapped",
        "unreadable",
        "started_at",
        "beat_at",
        "finished_at",
    ]


@admin.register(AuditRecord)
class AuditRecordAdmin(ReadOnlyAdmin):
    """Acts on keys and rights, in their chain; manage.py audit verifies it."""

    when_empty = "No act on keys or rights was recorded yet."
    list_before_template = None  # the page of the chain exports it, to who may and has given a fresh proof
    list_display = ["number", "at", "actor", "act", "result"]
    list_filter = [("at", PeriodFilter)]
    search_fields = ["number__exact", "actor__startswith", "act__startswith"]
    search_help_text = "a number, or the beginning of an actor or of an act"
    ordering = ["-number"]
    fields = ["number", "at", "actor", "source", "act", "subject", "result", "mac_hex"]
    readonly_fields = ["mac_hex"]

    @display(description="mac")
    def mac_hex(self, record: AuditRecord) -> str:
        return hex_of(record.mac)
