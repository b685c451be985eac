"""Device keys that others may know: cut off at once, and replaced by a rotation wave."""

from typing import Any, NamedTuple

from django import forms
from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils import timezone
from django.utils.http import urlencode
from unfold.widgets import UnfoldBooleanSwitchWidget

from ami_headend.console.acts import REFUSALS
from ami_headend.console.lists import TitlesField
from ami_headend.console.page import ConsolePage
from concentrators.commands import compromises, guard, rollouts
from concentrators.commands.rollouts import WaveError
from concentrators.fleet.selection import Selection
from concentrators.models import RotationWave, WaveState
from keyvault import rights
from keyvault.audit.chain import web_actor
from keyvault.models import DeviceKey, KeyState
from meters.models import Meter

_DEVICES_MAX = 1_000
_RATE_PER_HOUR = 1_000
_SAMPLE = 10


class _Meant(NamedTuple):
    """The keys to cut off: of how many devices, a sample of them by name, and titles without a key."""

    key_ids: list[int]
    devices: int
    sample: list[str]
    unknown: list[str]


class CompromiseForm(forms.Form):
    """The devices, and whether their keys are replaced right away."""

    titles = TitlesField(
        _DEVICES_MAX,
        rows=4,
        label="System titles",
        help_text=f"16 hex digits each, separated by spaces or lines; up to {_DEVICES_MAX:,}",
    )
    replace = forms.BooleanField(
        required=False, initial=True, label="Give the meters new keys at once", widget=UnfoldBooleanSwitchWidget()
    )


class CompromisePage(ConsolePage):
    """Asks for devices (``titles`` in the address fills them in), shows the affected keys, and cuts them off."""

    route = "keys/compromise/"
    name = "compromise"
    title = "Compromised keys"
    icon = "gpp_bad"
    back = ("admin:keys", "Device keys")
    permission_required = (rights.SEE_KEYS, rights.COMPROMISE)
    template_name = "console/keys/compromise.html"

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        form: CompromiseForm = kwargs.pop("form", None) or CompromiseForm(
            initial={"titles": self.request.GET.get("titles", "")}
        )
        if not self.request.user.has_perm(rights.ROTATE_DEVICE_KEYS):
            del form.fields["replace"]
        return super().get_context_data(form=form, **kwargs)

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        """Show the affected keys; cut them off once that is confirmed."""
        form = CompromiseForm(request.POST)
        if not form.is_valid():
            return self.render_to_response(self.get_context_data(form=form))
        meant = _meant(form.cleaned_data["titles"])
        if not meant.key_ids:
            form.add_error("titles", "None of these devices has a key that is not compromised already.")
            return self.render_to_response(self.get_context_data(form=form))
        if request.POST.get("act") != "compromise":
            return self.render_to_response(self.get_context_data(form=form, meant=meant))
        try:
            return self._compromise(request, form, meant)
        except REFUSALS as error:
            messages.error(request, f"Nothing was done: {error}.")
            return self.render_to_response(self.get_context_data(form=form, meant=meant))

    def _compromise(self, request: HttpRequest, form: CompromiseForm, meant: _Meant) -> HttpResponse:
        """Cut the keys off; a wave that is refused is reported, and leaves them so."""
        replaces = form.cleaned_data["replace"]
        if replaces and not request.user.has_perm(rights.ROTATE_DEVICE_KEYS):
            raise PermissionDenied
        with transaction.atomic():
            done = compromises.cut_off(meant.key_ids, web_actor(request), timezone.now())
            wave, why_not = _replace(request, form.cleaned_data["titles"]) if replaces else (None, "")
        messages.success(request, f"{done.keys:,} key{'s' * (done.keys != 1)} cut off in every worker, for good.")
        for begun in done.waves:
            held = begun.state == WaveState.HELD
            said = f"{begun} waits. {guard.told(begun.approval)}." if held else f"{begun} began."
            messages.warning(request, f"All meters of a concentrator among them get new keys: {said}")
        for undone in done.undone:
            messages.error(request, f"Still to do: {undone}.")
        if wave is not None:
            return HttpResponseRedirect(reverse("admin:wave", args=[wave.pk]))
        if why_not and not done.waves:
            messages.warning(request, f"Still to do: the meters need new keys. {why_not[:1].upper()}{why_not[1:]}.")
        return HttpResponseRedirect(reverse("admin:keys"))


def compromise_url(*titles: bytes) -> str:
    """Return the address of the page with these devices filled in."""
    return f"{reverse('admin:compromise')}?{urlencode({'titles': ' '.join(title.hex() for title in titles)})}"


def _meant(titles: list[bytes]) -> _Meant:
    """Find the keys that protect frames of these devices. Transfer keys stay, because new keys are sent under them."""
    keys = DeviceKey.objects.filter(system_title__in=titles, epoch__gt=0).exclude(state=KeyState.COMPROMISED)
    rows = list(keys.order_by("pk").values_list("pk", "system_title"))
    devices = {bytes(title) for _, title in rows}
    named = Meter.objects.filter(system_title__in=sorted(devices)[:_SAMPLE]).order_by("serial_number")
    known = {
        bytes(title)
        for title in DeviceKey.objects.filter(system_title__in=titles).values_list("system_title", flat=True)
    }
    unknown = [title.hex() for title in titles if title not in known]
    return _Meant([pk for pk, _ in rows], len(devices), [str(meter) for meter in named], unknown)


def _replace(request: HttpRequest, titles: list[bytes]) -> tuple[RotationWave | None, str]:
    """Begin a wave that gives the devices new keys; None, and why, if it cannot begin."""
    now = timezone.now()
    name = f"compromised {now:%Y-%m-%d %H:%M:%S}"
    selection = Selection(system_titles=titles)
    if not rollouts.selected(selection, now).exists():
        return None, "none of them can get one by command: that takes a shipment or a visit"
    try:
        return rollouts.begin(name, selection, web_actor(request), now, _RATE_PER_HOUR, len(titles)), ""
    except WaveError as error:
        return None, str(error)
