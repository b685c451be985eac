"""Meters and the register catalogue in the admin; ``admin_households`` has places and events."""

from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils import timezone
from unfold.contrib.filters.admin import AutocompleteSelectFilter, ChoicesDropdownFilter
from unfold.decorators import action, display
from unfold.enums import ActionVariant

from ami_headend.core import step_up
from ami_headend.web.admin import AuditedAdmin, PeriodFilter, ReadOnlyAdmin, changed_columns, form_page, hex_of, shown
from keyvault.audit.chain import AuditError, web_actor
from keyvault.device_keys import last_heard, provisioning, schemes_in_use
from keyvault.device_keys.provisioning import ProvisioningError
from keyvault.master_key import MasterKeyError
from keyvault.models import FleetKey
from keyvault.rights import PROVISION
from keyvault.schemes.table import SchemeError
from meters import admin_households as admin_households  # noqa: PLC0414 - Django registers its pages by this import
from meters import admin_keys as admin_keys  # noqa: PLC0414 - the same, of filters
from meters.admin_forms import (
    LATER_KEYS,
    RANDOM_KEYS,
    AtForm,
    ExchangeForm,
    InstallForm,
    KeylessMeterForm,
    MeterForm,
    NewMeterForm,
    RegisterForm,
)
from meters.admin_groups import GroupFilter, group_filter
from meters.models import EarlierLength, Installation, Meter, MeterStatus, Place, Register
from meters.readings import queries
from meters.registry import access_record, changes, groups, lifecycle, mask_groups, search
from meters.registry.lookup import RegistryError
from meters.registry.place_rights import may_see_places

STATUS_COLOURS = {MeterStatus.COMMISSIONED.label: "success", MeterStatus.SUSPENDED.label: "warning"}
Change = Callable[[Meter, dict[str, Any]], str]  # makes a change and says what it was


def _idle(meter: Meter) -> set[str]:
    """The acts of the meter's page that the registry would refuse as the meter stands."""
    if meter.status in (MeterStatus.RETIRED, MeterStatus.MOVED):
        return {"suspend", "resume", "install", "exchange", "retire"}
    hangs = meter.installations.filter(removed_at=None).exists()
    return {
        "suspend" if meter.status == MeterStatus.SUSPENDED else "resume",
        "install" if hangs else "exchange",
    }


class MeterAdmin(AuditedAdmin):
    """Meters; status and place change through the registry's functions, each with a page of its own."""

    refusals = (ProvisioningError, SchemeError)
    when_empty = "No meter is registered yet. Add one, or import a list: manage.py import_meters."
    list_display = ["serial_number", "title", "name", "status_label", "length", "scheme_shown", "heard_at"]
    list_filter = [
        group_filter(partial(groups.of_meters, column="pk")),
        ("status", ChoicesDropdownFilter),
        ("commissioned_at", PeriodFilter),
    ]
    search_fields = ["system_title", "serial_number"]
    search_octets = ["system_title"]
    search_by = {"serial_number": lambda term: search.as_q(search.meter_condition(term))}
    search_help_text = "the beginning or end of a serial number, the beginning of a system title, words of a name"
    ordering = ["serial_number"]
    readonly_fields = ["title", "length", "scheme_shown", "status", "retired_at", "created_at", "heard_at", "place"]
    fieldsets = [
        (
            None,
            {"fields": ["title", "serial_number", "name", "length", "scheme_shown", "mask_group", "commissioned_at"]},
        ),
        ("State", {"fields": ["status", "place", "heard_at", "retired_at", "created_at"]}),
    ]
    actions_detail = ["suspend", "resume", "install", "exchange", "retire"]

    def get_form(
        self, request: HttpRequest, obj: Meter | None = None, change: bool = False, **kwargs: Any
    ) -> type[forms.ModelForm[Meter]]:
        kwargs["form"] = MeterForm
        if obj is None:
            kwargs["form"] = NewMeterForm if request.user.has_perm(PROVISION) else KeylessMeterForm
            kwargs["fields"] = ["serial_number", "name", "interval_minutes", "commissioned_at"]
        form: type[forms.ModelForm[Meter]] = super().get_form(request, obj, change=change, **kwargs)
        return form

    def get_fieldsets(self, request: HttpRequest, obj: Meter | None = None) -> Any:
        if obj is not None:
            sets = super().get_fieldsets(request, obj)
            if may_see_places(request.user):
                return sets
            return [(title, {"fields": [name for name in one["fields"] if name != "place"]}) for title, one in sets]
        fields = ["system_title_hex", "serial_number", "name", "interval_minutes", "mask_group", "commissioned_at"]
        return [(None, {"fields": [*fields, *(["first_keys", "scheme"] if request.user.has_perm(PROVISION) else [])]})]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Meter]:
        meters: QuerySet[Meter] = queries.with_length(super().get_queryset(request), timezone.now())
        return meters.annotate(
            last_heard_at=last_heard.last_at("system_title"), scheme_in_use=schemes_in_use.of("system_title")
        )

    def history_view(self, request: HttpRequest, object_id: str, *args: Any, **kwargs: Any) -> HttpResponse:
        if not may_see_places(request.user):  # it tells where the meter was installed
            raise PermissionDenied
        self._note(request, object_id)
        answer: HttpResponse = super().history_view(request, object_id, *args, **kwargs)
        return answer

    def changeform_view(
        self, request: HttpRequest, object_id: str | None = None, *args: Any, **kwargs: Any
    ) -> HttpResponse:
        if object_id is not None and may_see_places(request.user):
            self._note(request, object_id)
        answer: HttpResponse = super().changeform_view(request, object_id, *args, **kwargs)
        return answer

    def _note(self, request: HttpRequest, object_id: str) -> None:
        meter = self.get_object(request, object_id)
        if meter is not None:
            access_record.note(request, meters=[meter.pk])

    def has_delete_permission(self, request: HttpRequest, obj: Meter | None = None) -> bool:
        return False  # readings stand on their meter: it is retired, not deleted

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        return {"commissioned_at": timezone.now(), **super().get_changeform_initial_data(request)}

    def save_model(self, request: HttpRequest, obj: Meter, form: forms.ModelForm[Meter], change: bool) -> None:
        actor = web_actor(request)
        if change:
            changes.change(actor, obj, [name for name in changed_columns(form) if name != "mask_group"])
        else:
            changes.add(actor, obj)
        if "mask_group" in form.changed_data:
            mask_groups.assign([bytes(obj.system_title)], form.cleaned_data["mask_group"], actor)
        first_keys = form.cleaned_data.get("first_keys", LATER_KEYS)
        if first_keys != LATER_KEYS:
            step_up.require(request)
            titles = [bytes(obj.system_title)]
            fleet_key = None if first_keys == RANDOM_KEYS else FleetKey.objects.get(pk=first_keys)
            provisioning.provision_devices(titles, fleet_key=fleet_key, scheme=form.cleaned_data["scheme"])
            provisioning.record_provisioned(actor, titles, fleet_key)

    @display(description="system title", ordering="system_title")
    def title(self, meter: Meter) -> str:
        return hex_of(meter.system_title)

    @display(description="status", ordering="status", label=STATUS_COLOURS)
    def status_label(self, meter: Meter) -> str:
        return MeterStatus(meter.status).label

    @display(description="interval minutes")
    def length(self, meter: Meter) -> int:
        minutes: int = meter.length_minutes  # type: ignore[attr-defined]
        return minutes

    @display(description="scheme")
    def scheme_shown(self, meter: Meter) -> str:
        return meter.scheme_in_use or "no key"  # type: ignore[attr-defined]

    @display(description="last heard")
    def heard_at(self, meter: Meter) -> str:
        return shown(meter.last_heard_at)  # type: ignore[attr-defined]

    @display(description="place")
    def place(self, meter: Meter) -> str:
        standing = meter.installations.filter(removed_at=None).select_related("place").first()
        return "none" if standing is None else f"{standing.place} since {shown(standing.installed_at)}"

    def get_actions_detail(self, request: HttpRequest, object_id: Any) -> Any:
        """Those that fit the meter as it stands: seven at once leave no room for its name."""
        meter = self.get_object(request, str(object_id))
        offered = super().get_actions_detail(request, object_id)
        if meter is None:
            return offered
        idle = {f"meters_meter_{act}" for act in _idle(meter)}
        return [one for one in offered if one.action_name not in idle]

    @action(description="Suspend", icon="pause", permissions=["change"])
    def suspend(self, request: HttpRequest, object_id: str) -> HttpResponse:
        def change(meter: Meter, given: dict[str, Any]) -> str:
            lifecycle.suspend(meter)
            changes.note(web_actor(request), "suspend", [meter])
            return "suspended"

        text = "Frames of the meter are refused until it is taken back into service. Keys and counters stay."
        return self._change(request, object_id, forms.Form, change, "Suspend", text)

    @action(description="Resume", icon="play_arrow", permissions=["change"])
    def resume(self, request: HttpRequest, object_id: str) -> HttpResponse:
        def change(meter: Meter, given: dict[str, Any]) -> str:
            lifecycle.resume(meter)
            changes.note(web_actor(request), "resume", [meter])
            return "taken back into service"

        return self._change(request, object_id, forms.Form, change, "Resume", "Frames of the meter are taken again.")

    @action(description="Install", icon="home_pin", permissions=["change"])
    def install(self, request: HttpRequest, object_id: str) -> HttpResponse:
        def change(meter: Meter, given: dict[str, Any]) -> str:
            installed = lifecycle.install(meter, given["place"], given["at"])
            changes.note(web_actor(request), "install", [meter], place=given["place"].pk, at=given["at"])
            return f"installed: {installed}"

        text = "Both the meter and the place must be free from then on."
        return self._change(request, object_id, InstallForm, change, "Install", text)

    @action(description="Exchange", icon="swap_horiz", permissions=["change"])
    def exchange(self, request: HttpRequest, object_id: str) -> HttpResponse:
        def change(meter: Meter, given: dict[str, Any]) -> str:
            standing = meter.installations.filter(removed_at=None).select_related("place").first()
            if standing is None:
                raise RegistryError(f"meter {meter} hangs at no place")
            heir, at = given["new_meter"], given["at"]
            installed = self.exchange_meters(standing.place, meter, heir, at)
            changes.note(web_actor(request), "exchange", [meter, heir], place=standing.place_id, at=at)
            return f"exchanged: {installed}"

        text = (
            "Another meter takes this one's place, and its concentrator unless it has one. From then on no interval is"
            " expected of this one; it stays in service, so that frames under way are taken."
        )
        return self._change(request, object_id, ExchangeForm, change, "Exchange", text)

    def exchange_meters(self, place: Place, old: Meter, new: Meter, at: datetime) -> Installation:
        """The exchange itself; RegistryError where it cannot be."""
        return lifecycle.exchange(place, old, new, at)

    @action(description="Retire", icon="block", permissions=["change"], variant=ActionVariant.DANGER)
    def retire(self, request: HttpRequest, object_id: str) -> HttpResponse:
        def change(meter: Meter, given: dict[str, Any]) -> str:
            lifecycle.retire(meter, given["at"])
            changes.note(web_actor(request), "retire", [meter], at=given["at"])
            return f"retired from {shown(given['at'])} on"

        text = "For good: its frames are refused, and no intervals are expected from then on."
        return self._change(request, object_id, AtForm, change, "Retire", text)

    def _change(
        self,
        request: HttpRequest,
        object_id: str,
        form_class: type[forms.Form],
        change: Change,
        submit: str,
        text: str,
        button: str = "",
    ) -> HttpResponse:
        """A page that asks what is needed, or for confirmation, and makes the change.

        ``submit`` begins its title, and is on the button, unless ``button`` says otherwise.
        """
        meter = self.get_object(request, object_id)
        if meter is None:
            raise Http404("There is no such meter.")
        back = reverse("admin:meters_meter_change", args=[meter.pk])
        form = form_class(request.POST if request.method == "POST" else None)
        if request.method == "POST" and form.is_valid():
            try:
                with transaction.atomic():
                    done = change(meter, form.cleaned_data)
            except (RegistryError, AuditError, MasterKeyError) as error:
                form.add_error(None, f"{str(error)[:1].upper()}{str(error)[1:]}.")
            else:
                self.log_change(request, meter, done)
                self.message_user(request, f"Meter {meter} {done}.", messages.SUCCESS)
                return HttpResponseRedirect(back)
        title = f"{submit} meter {meter}"
        return form_page(self, request, form, title=title, submit_text=button or submit, back=back, text=text)


admin.site.register(Meter, MeterAdmin)


@admin.register(EarlierLength)
class EarlierLengthAdmin(ReadOnlyAdmin):
    """Interval lengths that meters measured in before; changed on the meter's page."""

    when_empty = "No meter has measured in intervals of another length before."
    list_display = ["meter", "interval_minutes", "valid_from", "valid_to"]
    list_filter = [GroupFilter, ("meter", AutocompleteSelectFilter), ("valid_to", PeriodFilter)]
    list_select_related = ["meter"]
    search_fields = ["meter"]
    search_by = {"meter": search.of_meters}
    ordering = ["-id"]
    fields = ["meter", "interval_minutes", "valid_from", "valid_to"]


@admin.register(Register)
class RegisterAdmin(AuditedAdmin):
    """The register catalogue: readings stand on it, so that only name and bounds of a register change here."""

    when_empty = "The catalogue is empty: no reading can be stored. Add the registers that meters report."
    form = RegisterForm
    list_display = ["obis_code", "name", "kind", "unit", "scaler", "minimum", "maximum"]
    list_filter = [("kind", ChoicesDropdownFilter)]
    search_fields = ["obis_code__startswith", "name__icontains"]
    ordering = ["obis_code"]

    def get_readonly_fields(self, request: HttpRequest, obj: Register | None = None) -> list[str]:
        return [] if obj is None else ["obis_code", "kind", "unit", "scaler"]

    def save_model(self, request: HttpRequest, obj: Register, form: forms.ModelForm[Register], change: bool) -> None:
        if change:
            changes.change(web_actor(request), obj, changed_columns(form))
        else:
            changes.add(web_actor(request), obj)

    def has_delete_permission(self, request: HttpRequest, obj: Register | None = None) -> bool:
        return False
