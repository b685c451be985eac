"""Pages with buttons that do something: who may press which, what it calls, and what it says afterwards."""

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
    """Something that a button does: the right that it takes, and the function that does it and says what it did."""

    right: str
    do: Callable[[HttpRequest], str]


class Wrong(Exception):  # noqa: N818 - said to the person who pressed the button, not an error of the program
    """What was filled in cannot be used; the message says why."""


class ActingPage(ConsolePage):
    """A page whose POST names one of its acts (``act``); the page comes again, and a message says what was done."""

    def acts(self) -> Mapping[str, Act]:
        """The acts by name."""
        raise NotImplementedError

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        """``may``: the names of the acts that the user has the right to."""
        may = {name for name, act in self.acts().items() if self.request.user.has_perm(act.right)}
        return super().get_context_data(may=may, **kwargs)

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        """Do what the button says, as far as the user may and the domain lets it."""
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
        """Where the browser goes after an act: the same page."""
        return self.request.get_full_path()
