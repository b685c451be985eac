"""The page that registers a push profile: a frame that waits, taken apart, and the values that come out of it."""

from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.urls import reverse
from django.utils.functional import cached_property

from ami_headend.console.acts import REFUSALS
from ami_headend.console.failures import SEE
from ami_headend.console.lists import sentence
from ami_headend.console.load_profile import READ_READINGS
from ami_headend.console.page import ConsolePage
from ami_headend.console.push_profile_form import ColumnForm, ProfileForm
from ami_headend.console.push_profiles import REGISTER, SEE_PROFILES, PushProfilesPage, manufacturer
from ami_headend.web.tables import HtmlTable, columns_of, table
from concentrators.failures.kinds import FailureKind
from concentrators.models import IntegrityFailure
from keyvault.audit.chain import web_actor
from meters.models import Register
from meters.readings import push_profiles
from meters.readings.push.definition import Kind, ProfileError
from meters.readings.push.profiles import ContentError, Notification, elements_by, kinds_of, parse_notification
from meters.readings.push_profiles import Checked, ProfileWish
from meters.registry import access_record
from meters.values import iso


class NewPushProfilePage(ConsolePage):
    """Asks what each element of a waiting frame is (``kind`` in the address: how its elements are named)."""

    route = "push-profiles/of/<int:pk>/"
    name = "push-profile-new"
    title = "Say what a notification is"
    icon = "view_column"
    back = ("admin:push-profiles", PushProfilesPage.title)
    permission_required = (SEE_PROFILES, SEE, REGISTER, READ_READINGS)
    template_name = "console/push_profiles/new.html"

    @cached_property
    def failure(self) -> IntegrityFailure:
        """Return the waiting frame, or 404: it may have been judged again meanwhile."""
        rows = IntegrityFailure.objects.filter(kind=FailureKind.UNKNOWN_PROFILE).select_related("meter")
        return get_object_or_404(rows, pk=self.kwargs["pk"])

    @cached_property
    def opened(self) -> tuple[bytes, bytes]:
        """Return the decrypted sample and its meter's title. ProfileError or a refusal where it does not open."""
        sample, title = push_profiles.opened(bytes(self.failure.frame), web_actor(self.request))
        if title is None:
            raise ProfileError("the frame does not say which meter sent it")
        return sample, title

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        context = super().get_context_data(failure=self.failure, **kwargs)
        try:
            sample, title = self.opened
            notification = parse_notification(sample)
        except (ProfileError, ContentError, *REFUSALS) as error:
            return {**context, "refused": sentence(error)}
        access_record.note(self.request, meters=[self.failure.meter_id] if self.failure.meter_id else None)
        kinds = kinds_of(notification)
        kind = self._kind(notification)
        form, columns = kwargs.get("form"), kwargs.get("columns")
        if form is None or columns is None:
            form, columns = self._forms(None, notification, kind, title)
        return {
            **context,
            "form": form,
            "columns": columns,
            "kind": kind,
            "kinds": kinds,
            "sender": manufacturer(title),
            "skeleton": notification.skeleton,
            "registers": Register.objects.order_by("obis_code"),
        }

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        """Say what values come out of the sample; register the profile once that is confirmed."""
        try:
            sample, title = self.opened
            notification = parse_notification(sample)
        except (ProfileError, ContentError, *REFUSALS):
            return self.render_to_response(self.get_context_data())
        kind = self._kind(notification)
        form, columns = self._forms(request.POST, notification, kind, title)
        shown: dict[str, Any] = {"form": form, "columns": columns}
        if not all([form.is_valid(), *[one.is_valid() for one in columns]]):
            return self.render_to_response(self.get_context_data(**shown))
        definition, prefix = form.definition(kind, columns), bytes.fromhex(form.cleaned_data["titles"])
        try:
            shown["checked"] = _values(push_profiles.check(definition, sample, title))
            if request.POST.get("act") == "register":
                wish = ProfileWish(form.cleaned_data["name"], prefix, definition, sample, title)
                profile = push_profiles.add(wish, web_actor(request))
                messages.success(request, f"Registered {profile}. Frames that waited for it are judged again now.")
                return HttpResponseRedirect(reverse("admin:push-profiles"))
        except ProfileError as error:
            form.add_error(None, sentence(error))
        except REFUSALS as error:
            form.add_error(None, f"Nothing was done: {error}.")
        return self.render_to_response(self.get_context_data(**shown))

    def _kind(self, notification: Notification) -> Kind:
        kinds = kinds_of(notification)
        return next((kind for kind in kinds if kind == self.request.GET.get("kind")), kinds[0])

    @staticmethod
    def _forms(data: Any, notification: Notification, kind: Kind, title: bytes) -> tuple[ProfileForm, list[ColumnForm]]:
        elements = elements_by(notification, kind)
        form = ProfileForm(data, sample=notification, kind=kind, elements=elements, title=title)
        return form, [ColumnForm(data, one, kind) for one in elements]


def _values(checked: Checked) -> HtmlTable:
    """The values of a sample beside the registers of the catalogue that they are of."""
    codes = {value.obis for value in checked.values}
    known = {one.obis_code: one for one in Register.objects.filter(obis_code__in=codes)}
    columns = columns_of("time (UTC)", "register", "#value", "unit", "in the catalogue")
    rows = []
    for value in checked.values:
        register = known.get(value.obis)
        if register is None:
            fit = "no: frames wait until an administrator adds it"
        elif register.unit in value.units:
            fit = register.name
        else:
            fit = f"counts {register.unit}: its frames would be refused"
        rows.append([iso(value.at_s), value.obis, f"{value.raw:,} x 10^{value.scaler}", " or ".join(value.units), fit])
    return table(columns, rows)
