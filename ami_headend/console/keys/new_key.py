"""A new key for one meter, at once and without a wave: of the scheme that is chosen, or as its last one."""

from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.urls import reverse
from django.utils import timezone
from django.utils.functional import cached_property

from ami_headend.console.acts import REFUSALS
from ami_headend.console.keys.waves import NewKeyForm
from ami_headend.console.lists import sentence
from ami_headend.console.page import ConsolePage
from concentrators.commands import guard, operator
from concentrators.commands.operator import OperatorOrder
from concentrators.commands.queue import DownlinkError
from concentrators.models import CommandKind, CommandState
from keyvault import rights
from keyvault.audit.chain import web_actor
from keyvault.device_keys import schemes_in_use
from keyvault.device_keys.epochs import EpochError
from keyvault.device_keys.provisioning import ProvisioningError
from keyvault.schemes.table import SchemeError
from meters.models import Meter


class NewKeyPage(ConsolePage):
    """Asks for the kind of key, and queues the command that brings it; audited."""

    route = "meters/<int:pk>/new-key/"
    name = "meter-new-key"
    title = "New key"
    icon = "key"
    permission_required = ("meters.view_meter", rights.ROTATE_DEVICE_KEYS)
    template_name = "console/keys/new_key.html"

    @cached_property
    def meter(self) -> Meter:
        """Return the meter of the address, or 404."""
        known = Meter.objects.annotate(scheme=schemes_in_use.of("system_title"))
        return get_object_or_404(known, pk=self.kwargs["pk"])

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        form = kwargs.pop("form", None) or NewKeyForm()
        context = super().get_context_data(form=form, meter=self.meter, **kwargs)
        return {**context, "title": f"New key for meter {self.meter}"}

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        """Queue the command; the form again where that cannot be."""
        form = NewKeyForm(request.POST)
        if form.is_valid():
            order = OperatorOrder(CommandKind.SET_KEY, **form.cleaned_data)
            try:
                (command,) = operator.give(self.meter, order, web_actor(request), timezone.now())
            except (*REFUSALS, DownlinkError, EpochError, SchemeError, ProvisioningError) as error:
                form.add_error(None, sentence(error))
            else:
                epoch = command.parameters["epoch"]
                held = f" {guard.told(command.approval)}." if command.state == CommandState.HELD else ""
                messages.success(request, f"Command {command.pk} brings the key of epoch {epoch}.{held}")
                return HttpResponseRedirect(reverse("admin:meter", args=[self.meter.pk]))
        return self.render_to_response(self.get_context_data(form=form))
