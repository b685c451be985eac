"""Pages with buttons that act: the right that each needs, the function it calls, and the message afterwards."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect

from ami_headend.console.page import ConsolePage
from concentrators.commands.rollouts import WaveError
from keyvault.approvals import ApprovalError
from keyvault.audit.chain import AuditError
from keyvault.master_key import MasterKeyError
from keyvault.master_key.rewrap import RotationError
from keyvault.master_key.versions import DestroyError

REFUSALS = (ApprovalError, AuditError, DestroyError, MasterKeyError, RotationError, WaveError)


class Act(NamedTuple):
    """The act of a button: the right it needs, and the function that does it and returns a message."""

    right: str
    do: Callable[[HttpRequest], str]


class Wrong(Exception):  # noqa: N818 - a message to the person who pressed the button, not an error of the program
    """The input cannot be used; the message says why."""


class ActingPage(ConsolePage):
    """A page whose POST names one of its acts (``act``). The page is shown again with a message about the result."""

    def acts(self) -> Mapping[str, Act]:
        """Return the acts by name."""
        raise NotImplementedError

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        """Add ``may``: the names of the acts that the user has the right to."""
        may = {name for name, act in self.acts().items() if self.request.user.has_perm(act.right)}
        return super().get_context_data(may=may, **kwargs)

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        """Perform the act of the button if the user has the right and the domain allows it."""
        act = self.acts().get(request.POST.get("act", ""))
        if act is None or not request.user.has_perm(act.right):
            raise PermissionDenied
        try:
            messages.success(request, act.do(request))
        except REFUSALS as error:
            messages.error(request, f"Nothing was done: {error}.")
        except Wrong as error:
            messages.error(request, str(error))
        return HttpResponseRedirect(self.next_page())

    def next_page(self) -> str:
        """Return the address after an act: the same page."""
        return self.request.get_full_path()
