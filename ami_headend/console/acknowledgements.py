"""Acknowledge all failures that match filters, after showing how many they are; and revoke an acknowledgement."""

import dataclasses
from typing import Any

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.urls import reverse
from django.utils.functional import cached_property

from ami_headend.console.failures import (
    ACKNOWLEDGE,
    SEE,
    AcknowledgeForm,
    FailureFilters,
    acknowledge_for,
    failures_table,
    open_again_for,
    take_back_for,
)
from ami_headend.console.page import ConsolePage
from concentrators.failures import queries
from concentrators.failures.acknowledgement import TAKE_BACK_FOR, can_be_taken_back
from concentrators.models import Acknowledgement

_COUNTED = 100_000
_SHOWN = 20


class AcknowledgeAllPage(ConsolePage):
    """The open failures that match the filters of the address: their number, a sample, and a form for the note."""

    route = "failures/acknowledge/"
    name = "failures-acknowledge"
    title = "Acknowledge all found"
    icon = "done_all"
    permission_required = (SEE, ACKNOWLEDGE)
    template_name = "console/failures/acknowledge.html"

    @cached_property
    def filters(self) -> FailureFilters:
        """Return the filters of the address."""
        return FailureFilters(self.request.GET)

    def get(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        return super().get(request, *args, **kwargs) if self._is_usable() else self._back()

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        context = super().get_context_data(**kwargs)
        selection = dataclasses.replace(self.filters.selection(), is_open=True)
        found = queries.count(selection, _COUNTED + 1)
        rows, _ = queries.failures(selection, _SHOWN)
        return {
            **context,
            "count": min(found, _COUNTED),
            "is_more": found > _COUNTED,
            "sample": failures_table(rows, context["now"]),
            "given": self.filters.in_words(),
            "acknowledge": kwargs.get("acknowledge") or AcknowledgeForm(),
            "back": self._list(),
        }

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        """Acknowledge the failures with the note."""
        if not self._is_usable():
            return self._back()
        form = AcknowledgeForm(request.POST)
        if not form.is_valid():
            return self.render_to_response(self.get_context_data(acknowledge=form))
        done = acknowledge_for(request, self.filters.selection(), form.cleaned_data["note"])
        return HttpResponseRedirect(
            request.get_full_path() if done is None else reverse("admin:acknowledgement", args=[done.id])
        )

    def _is_usable(self) -> bool:
        """Whether the filters are valid and may match open failures."""
        return self.filters.is_valid() and self.filters.selection().is_open is not False

    def _back(self) -> HttpResponse:
        said = "these failures are acknowledged already" if self.filters.is_valid() else "correct the filters first"
        messages.error(self.request, f"Nothing was acknowledged: {said}.")
        return HttpResponseRedirect(self._list())

    def _list(self) -> str:
        return f"{reverse('admin:failures')}?{self.request.GET.urlencode()}"


class AcknowledgementPage(ConsolePage):
    """One acknowledgement: who, when, the note, some of its failures; for a day, a button that takes it back."""

    route = "failures/acknowledgements/<int:pk>/"
    name = "acknowledgement"
    title = "Acknowledgement"
    icon = "done_all"
    back = ("admin:failures", "All failures")
    permission_required = (SEE,)
    template_name = "console/failures/acknowledgement.html"
    live_template_name = "console/failures/acknowledgement_live.html"

    @cached_property
    def acknowledgement(self) -> Acknowledgement:
        """Return the acknowledgement of the address, or 404."""
        return get_object_or_404(Acknowledgement, pk=self.kwargs["pk"])

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        context = super().get_context_data(**kwargs)
        row, may = self.acknowledgement, self.request.user.has_perm(ACKNOWLEDGE)
        held = row.failures.order_by()[: _COUNTED + 1].count()
        return {
            **context,
            "acknowledgement": row,
            "title": f"Acknowledgement {row.pk}",
            "count": min(held, _COUNTED),
            "is_more": held > _COUNTED,
            "hours": TAKE_BACK_FOR.days * 24,
            "may_take_back": may and can_be_taken_back(row, context["now"]),
            "may_open": may and row.taken_back_at is not None and held > 0,
        }

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        """Take the acknowledgement back; if that was done before, reopen those of its failures that are still
        closed.
        """
        if not request.user.has_perm(ACKNOWLEDGE):
            raise PermissionDenied
        if self.acknowledgement.taken_back_at is None:
            take_back_for(request, self.acknowledgement.pk)
        else:
            open_again_for(request, self.acknowledgement.pk)
        return HttpResponseRedirect(request.path)
