"""Concentrators and assignments in the admin; ``admin_evidence`` has uplinks."""

from datetime import UTC, datetime
from functools import partial
from typing import Any
from urllib.parse import urlencode

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db import IntegrityError, transaction
from django.db.models import Prefetch, QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import path, reverse
from django.utils import timezone
from unfold.contrib.filters.admin import AutocompleteSelectFilter, BooleanRadioFilter
from unfold.decorators import action, display

from ami_headend.core.numbers import row_numbers
from ami_headend.core.text import counted
from ami_headend.web.admin import AuditedAdmin, PeriodFilter, ReadOnlyAdmin, changed_columns, form_page, hex_of, shown
from concentrators import (  # noqa: F401 - they register their pages
    admin_commands,
    admin_deadlines,
    admin_evidence,
    admin_feed,
    admin_limits,
)
from concentrators.admin_forms import (
    AssignForm,
    ConcentratorForm,
    IntervalForm,
    LengthCorrectionForm,
    RegisterCorrectionForm,
)
from concentrators.commands import capture_period, guard, operator
from concentrators.commands.capture_period import IntervalError
from concentrators.commands.operator import OperatorOrder
from concentrators.commands.queue import DownlinkError
from concentrators.fleet import groups, health, registry
from concentrators.fleet.assignments import AssignmentError, assign, exchange
from concentrators.ingest import length_corrections, register_corrections
from concentrators.ingest.register_corrections import RegisterError
from concentrators.models import Assignment, CommandKind, Concentrator
from keyvault.audit.chain import AuditError, web_actor
from keyvault.master_key import MasterKeyError
from meters.admin import MeterAdmin, RegisterAdmin
from meters.admin_groups import GroupFilter, group_filter
from meters.models import Installation, Meter, Place, Register
from meters.readings.obis import RegisterKind
from meters.registry import changes
from meters.registry.lookup import RegistryError
from meters.registry.search import of_meters


@admin.register(Concentrator)
class ConcentratorAdmin(AuditedAdmin):
    """The names of concentrators, and whether they are let in; their tokens are on their pages of the console."""

    when_empty = "No concentrator is registered yet. Add one, and issue its token on its page of the console."
    form = ConcentratorForm
    fields = ["name", "system_title_hex", "is_active", "created_at", "last_posted_at"]
    readonly_fields = ["created_at", "last_posted_at"]
    list_display = ["name", "title", "is_active", "created_at"]
    list_filter = [group_filter(partial(groups.of_concentrators, column="pk")), ("is_active", BooleanRadioFilter)]
    search_fields = ["name__icontains"]
    ordering = ["name"]

    @display(description="system title", empty_value="none")
    def title(self, concentrator: Concentrator) -> str | None:
        return None if concentrator.system_title is None else hex_of(concentrator.system_title)

    def has_delete_permission(self, request: HttpRequest, obj: Concentrator | None = None) -> bool:
        return False  # its uplinks stand on it: it is set inactive

    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        try:
            return super().changeform_view(request, *args, **kwargs)
        except IntegrityError:
            self.message_user(
                request, "Nothing was saved: name or title were given, or it was moved away, meanwhile.", messages.ERROR
            )
            return HttpResponseRedirect(request.path)

    def save_model(self, request: HttpRequest, obj: Concentrator, form: Any, change: bool) -> None:
        title = {"system_title"} if "system_title_hex" in form.changed_data else set()
        registry.save_as(web_actor(request), obj, {*changed_columns(form), *title})

    @display(description="last uplink received")
    def last_posted_at(self, concentrator: Concentrator) -> str:
        now = timezone.now()
        (found,) = health.of_concentrators(now, now, concentrator.pk)
        return shown(found.posted_at)


@admin.register(Assignment)
class AssignmentAdmin(ReadOnlyAdmin):
    """Which meter belongs to which concentrator, when; changed through ``assign``, so that totals move along."""

    when_empty = "No meter belongs to a concentrator yet. Assign meters, or import them with the concentrator of each."
    list_display = ["meter", "concentrator", "valid_from", "valid_to"]
    list_filter = [
        GroupFilter,
        ("meter", AutocompleteSelectFilter),
        ("concentrator", AutocompleteSelectFilter),
        ("valid_from", PeriodFilter),
    ]
    list_select_related = ["meter", "concentrator"]
    search_fields = ["meter"]
    search_by = {"meter": of_meters}
    ordering = ["-id"]
    fields = ["meter", "concentrator", "valid_from", "valid_to"]
    actions_list = ["assign_meters"]

    def has_assign_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("concentrators.add_assignment")

    @action(description="Assign meters", icon="lan", permissions=["assign"])
    def assign_meters(self, request: HttpRequest) -> HttpResponse:
        return HttpResponseRedirect(reverse("admin:meters_meter_assign"))


class AssignableMeterAdmin(MeterAdmin):
    """The registry's page of meters, and which concentrator each belongs to."""

    list_display = [*MeterAdmin.list_display, "concentrator"]
    readonly_fields = [*MeterAdmin.readonly_fields, "concentrator"]
    fieldsets = [
        MeterAdmin.fieldsets[0],
        ("State", {"fields": [*MeterAdmin.fieldsets[1][1]["fields"], "concentrator"]}),
    ]
    actions = ["assign_selected"]
    actions_detail = ["assign_one", "interval", "correct_length", *MeterAdmin.actions_detail]

    def add_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        try:
            answer: HttpResponse = super().add_view(request, *args, **kwargs)
            return answer
        except IntegrityError:
            text = "Nothing was saved: the system title is that of a concentrator, or was given meanwhile."
            self.message_user(request, text, messages.ERROR)
            return HttpResponseRedirect(request.path)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Meter]:
        standing = Assignment.objects.filter(valid_to=None).select_related("concentrator")
        return super().get_queryset(request).prefetch_related(Prefetch("assignments", standing, to_attr="standing"))

    def get_urls(self) -> list[Any]:
        return [
            path("assign/", self.admin_site.admin_view(self.assign_view), name="meters_meter_assign"),
            *super().get_urls(),
        ]

    @display(description="concentrator", empty_value="none")
    def concentrator(self, meter: Meter) -> str | None:
        standing: list[Assignment] = meter.standing  # type: ignore[attr-defined]
        return str(standing[0].concentrator) if standing else None

    def has_assign_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("concentrators.add_assignment")

    @admin.action(description="Assign to concentrator ...", permissions=["assign"])
    def assign_selected(self, request: HttpRequest, queryset: QuerySet[Meter]) -> HttpResponse:
        ids = ",".join(str(pk) for pk in queryset.order_by("pk").values_list("pk", flat=True))
        return HttpResponseRedirect(f"{reverse('admin:meters_meter_assign')}?meters={ids}")

    @action(description="Assign", icon="lan", permissions=["assign"])
    def assign_one(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return HttpResponseRedirect(f"{reverse('admin:meters_meter_assign')}?{urlencode({'meters': object_id})}")

    def has_interval_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("meters.change_meter") and request.user.has_perm("concentrators.add_command")

    @action(description="Interval", icon="timelapse", permissions=["interval"])
    def interval(self, request: HttpRequest, object_id: str) -> HttpResponse:
        def change(meter: Meter, given: dict[str, Any]) -> str:
            now, minutes, at = timezone.now(), given["interval_minutes"], given["at"]
            try:
                if given["how"] == IntervalForm.COMMAND:
                    order = OperatorOrder(CommandKind.SET_INTERVAL, start=at, interval_minutes=minutes)
                    (command,) = operator.give(meter, order, web_actor(request), now)
                    if command.approval is not None:
                        return f"keeps its length for now (command {command.pk}). {guard.told(command.approval)}"
                    at = datetime.fromtimestamp(command.parameters["from_s"], UTC)
                    return f"is told (command {command.pk}) to measure in {minutes} min from {shown(at)} on"
                at = capture_period.change_by_hand(meter, minutes, at, now)
                changes.note(web_actor(request), "interval", [meter], minutes=minutes, at=at)
            except (IntervalError, DownlinkError, MasterKeyError, AuditError) as error:
                raise RegistryError(str(error)) from None
            return f"measures in {minutes} min from {shown(at)} on"

        text = "Intervals that begin before then stay of the length they had, late frames too."
        return self._change(request, object_id, IntervalForm, change, "Interval of", text, button="Change")

    @action(description="Correct length", icon="edit_calendar", permissions=["interval"])
    def correct_length(self, request: HttpRequest, object_id: str) -> HttpResponse:
        def change(meter: Meter, given: dict[str, Any]) -> str:
            wish = length_corrections.LengthRequest(
                given["interval_minutes"], given["start"], given["end"], given["reason"]
            )
            try:
                found = length_corrections.correct(meter, wish, web_actor(request), timezone.now())
            except (IntervalError, MasterKeyError, AuditError) as error:
                raise RegistryError(str(error)) from None
            return (
                f"is corrected to {wish.interval_minutes} min in that span, with {counted(found.readings, 'reading')}"
            )

        text = (
            "For a meter that was registered with a wrong interval length. Readings and totals of the span move along,"
            " and frames that wait for it are judged again. What the meter changed itself is entered under Interval."
        )
        return self._change(
            request, object_id, LengthCorrectionForm, change, "Correct length of", text, button="Correct"
        )

    def exchange_meters(self, place: Place, old: Meter, new: Meter, at: datetime) -> Installation:
        """The exchange, and the concentrator with it."""
        try:
            return exchange(place, old, new, at)
        except AssignmentError as error:
            raise RegistryError(str(error)) from None

    def assign_view(self, request: HttpRequest) -> HttpResponse:
        """Asks for meters, a concentrator and an instant, and assigns."""
        if not self.has_assign_permission(request):
            raise PermissionDenied
        chosen = row_numbers(request.GET.get("meters", "").split(","))
        form = AssignForm(request.POST if request.method == "POST" else None, initial={"meters": chosen})
        if request.method == "POST" and form.is_valid():
            meters, concentrator = form.cleaned_data["meters"], form.cleaned_data["concentrator"]
            try:
                changed = self._assigned(request, meters, concentrator, form.cleaned_data["valid_from"])
            except (AssignmentError, AuditError, MasterKeyError) as error:
                form.add_error(None, str(error))
            else:
                self.log_change(request, concentrator, f"{counted(changed, 'meter')} assigned")
                text = f"{counted(changed, 'meter now belongs', 'meters now belong')} to {concentrator}."
                if changed < len(meters):
                    text = f"{changed} of {len(meters)} meters now belong to {concentrator}; the others did already."
                self.message_user(request, text, messages.SUCCESS)
                return HttpResponseRedirect(reverse("admin:meters_meter_changelist"))
        back = reverse("admin:meters_meter_changelist")
        return form_page(self, request, form, title="Assign meters to a concentrator", submit_text="Assign", back=back)

    def _assigned(
        self, request: HttpRequest, meters: QuerySet[Meter], concentrator: Concentrator, valid_from: datetime
    ) -> int:
        with transaction.atomic():
            changed = assign([(meter.pk, concentrator.pk) for meter in meters], valid_from)
            named = {"concentrator": concentrator.name, "at": valid_from, "changed": changed}
            changes.note(web_actor(request), "assign", list(meters), **named)
        return changed


class CorrectableRegisterAdmin(RegisterAdmin):
    """The catalogue, and the correction of a wrong entry that no reading stands on."""

    actions_detail = ["correct_entry"]

    @action(description="Correct entry", icon="edit_note", permissions=["change"])
    def correct_entry(self, request: HttpRequest, object_id: str) -> HttpResponse:
        register = self.get_object(request, object_id)
        if register is None:
            raise Http404("There is no such register.")
        back = reverse("admin:meters_register_change", args=[register.pk])
        initial = {"kind": register.kind, "unit": register.unit, "scaler": register.scaler}
        form = RegisterCorrectionForm(request.POST if request.method == "POST" else None, initial=initial)
        if request.method == "POST" and form.is_valid():
            given = form.cleaned_data
            wish = register_corrections.RegisterRequest(
                given["reason"], RegisterKind(given["kind"]), given["unit"], given["scaler"]
            )
            try:
                register_corrections.correct(register, wish, web_actor(request))
            except (RegisterError, MasterKeyError, AuditError) as error:
                form.add_error(None, f"{str(error)[:1].upper()}{str(error)[1:]}.")
            else:
                self.log_change(request, register, "entry corrected")
                text = f"Register {register} is corrected. Frames that wait for it are judged again."
                self.message_user(request, text, messages.SUCCESS)
                return HttpResponseRedirect(back)
        text = "Only where no reading and no event stands on it yet: they could not be read any more."
        title = f"Correct register {register}"
        return form_page(self, request, form, title=title, submit_text="Correct", back=back, text=text)


admin.site.unregister(Meter)
admin.site.register(Meter, AssignableMeterAdmin)
admin.site.unregister(Register)
admin.site.register(Register, CorrectableRegisterAdmin)
