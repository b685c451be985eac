"""A retiring device key, and the end of its grace time before it is due."""

from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.urls import reverse
from django.utils.functional import cached_property

from ami_headend.console.acts import REFUSALS
from ami_headend.console.lists import sentence
from ami_headend.console.page import ConsolePage
from keyvault import rights
from keyvault.audit.chain import web_actor
from keyvault.device_keys import epochs
from keyvault.device_keys.epochs import EpochError
from keyvault.models import DeviceKey, KeyState
from meters.models import Meter


class RetireKeyPage(ConsolePage):
    """Shows a key of a meter, and retires it once that is confirmed."""

    route = "keys/<int:pk>/retire/"
    name = "key-retire"
    title = "Retire a key now"
    icon = "key_off"
    back = ("admin:keys", "Device keys")
    permission_required = (rights.SEE_KEYS, rights.ROTATE_DEVICE_KEYS)
    template_name = "console/keys/retire.html"

    @cached_property
    def key(self) -> DeviceKey:
        """Return the key of the address, or 404. A transfer key has no grace time."""
        return get_object_or_404(DeviceKey.objects.defer("wrapped"), pk=self.kwargs["pk"], epoch__gt=0)

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        meter = Meter.objects.filter(system_title=self.key.system_title).first()
        is_retiring = self.key.state == KeyState.RETIRING
        title = bytes(self.key.system_title).hex()
        return super().get_context_data(
            key=self.key, meter=meter, system_title=title, is_retiring=is_retiring, **kwargs
        )

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        """Retire the key."""
        try:
            epochs.retire(self.key, web_actor(request))
        except (EpochError, *REFUSALS) as error:
            messages.error(request, f"Nothing was done: {sentence(error)}")
        else:
            messages.success(request, f"The key of epoch {self.key.epoch} is retired: no frame under it is taken.")
        return HttpResponseRedirect(reverse("admin:key-retire", args=[self.key.pk]))
