"""The page of one integrity failure: its evidence octet by octet, its meaning, and what to do about it."""

from collections.abc import Sequence
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
    acknowledge_for,
    failures_table,
    failures_url,
)
from ami_headend.console.load_profile import READ_READINGS
from ami_headend.console.page import ConsolePage
from ami_headend.web.tables import HtmlTable, columns_of, table
from concentrators.failures import queries
from concentrators.failures.explanations import explain
from concentrators.failures.kinds import NOT_BY_ITSELF, WAITING, FailureKind, Severity
from concentrators.failures.queries import FailureSelection
from concentrators.failures.reasons import without_values
from concentrators.ingest import reverification
from concentrators.ingest.transaction_retry import TransientError
from concentrators.models import IntegrityFailure
from keyvault.cose.forms import KID_OCTETS
from keyvault.cose.structures import SYSTEM_TITLE_OCTETS
from keyvault.coupons import inventory as coupons
from keyvault.coupons.inventory import ProofOfDoubleUse
from keyvault.schemes.dissector import dissect, dissect_signed
from meters.registry import access_record

VERIFY_AGAIN = "concentrators.verify_again_uplink"
_OTHERS = 5


class FailurePage(ConsolePage):
    """One failure."""

    route = "failures/<int:pk>/"
    name = "failure"
    title = "Integrity failure"
    icon = "gpp_maybe"
    back = ("admin:failures", "All failures")
    permission_required = (SEE,)
    template_name = "console/failure/page.html"

    @cached_property
    def failure(self) -> IntegrityFailure:
        """Return the failure of the address, or 404: it may have been judged again or deleted for age."""
        rows = IntegrityFailure.objects.select_related("meter", "concentrator", "uplink", "acknowledgement")
        return get_object_or_404(rows.defer("uplink__body"), pk=self.kwargs["pk"])

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        failure = self.failure
        kind = FailureKind(failure.kind)
        user = self.request.user
        kid = None if failure.kid is None else bytes(failure.kid)
        epoch = b"" if kid is None else kid[SYSTEM_TITLE_OCTETS:KID_OCTETS]
        same = {"meter": failure.meter} if failure.meter else {"concentrator": failure.concentrator}
        context = super().get_context_data(**kwargs)
        others, _ = queries.failures(
            FailureSelection(
                kinds=[kind],
                meter_id=failure.meter_id,
                concentrator_id=None if failure.meter_id else failure.concentrator_id,
            ),
            _OTHERS + 1,
        )
        return {
            **context,
            "title": f"{kind.label.capitalize()}, failure {failure.pk}",
            "failure": failure,
            "severity": Severity(failure.severity).name.lower(),
            "explanation": explain(kind),
            **(self._proofs() if kind is FailureKind.COUPON_REUSED else {}),
            "detail": self._detail(),
            "octets": bytes(failure.frame),
            "annotation": dissect(bytes(failure.frame)),
            "title_claimed": None if kid is None else kid[:SYSTEM_TITLE_OCTETS].hex(),
            "epoch_claimed": int.from_bytes(epoch, "big") if epoch else None,
            "others": failures_table([row for row in others if row.id != failure.pk][:_OTHERS], context["now"]),
            "others_url": failures_url(kind=kind.value, **same),
            "acknowledge": AcknowledgeForm() if failure.is_open and user.has_perm(ACKNOWLEDGE) else None,
            "is_waiting": kind in WAITING,
            "waits_for_our_clock": kind in NOT_BY_ITSELF,
            "may_verify_again": user.has_perm(VERIFY_AGAIN),
        }

    def _detail(self) -> str:
        """Return the reason. Users who may see readings get the values in it, and that access is recorded."""
        known = without_values(self.failure.detail)
        if known == self.failure.detail or not self.request.user.has_perm(READ_READINGS):
            return known
        access_record.note(self.request, meters=[self.failure.meter_id] if self.failure.meter_id else None)
        return self.failure.detail

    def _proofs(self) -> dict[str, Any]:
        """Return what the uplink proves that the meter signed or announced twice, and that layer by layer.

        Signed readings are shown to users who may see readings, and that access is recorded.
        """
        if self.failure.kid is None:
            return {}
        rows = coupons.proofs(bytes(self.failure.kid)[:SYSTEM_TITLE_OCTETS], self.failure.uplink_id)
        if not self.request.user.has_perm(READ_READINGS):
            shown = [one for one in rows if one.is_list]
        else:
            shown = rows
            access_record.note(self.request, meters=[self.failure.meter_id] if self.failure.meter_id else None)
        return {
            "proofs": _proofs(rows),
            "layers": [(f"coupon {one.number}", dissect_signed(bytes(one.octets))) for one in shown],
        }

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        """Acknowledge this failure, or verify the waiting frames of its uplink again."""
        if request.POST.get("act") == "verify-again":
            return self._verify_again(request)
        if not request.user.has_perm(ACKNOWLEDGE):
            raise PermissionDenied
        acknowledge_for(request, FailureSelection(ids=[self.failure.pk]), request.POST.get("note", ""))
        return HttpResponseRedirect(request.path)

    def _verify_again(self, request: HttpRequest) -> HttpResponse:
        if not request.user.has_perm(VERIFY_AGAIN):
            raise PermissionDenied
        failure = self.failure
        titles = None if failure.kid is None else {bytes(failure.kid)[:SYSTEM_TITLE_OCTETS]}
        try:
            outcome = reverification.verify_all_again(reverification.waiting_uplinks([failure.uplink_id]), titles)
        except TransientError:
            messages.error(request, "Nothing was done: database or master key do not answer. Try again later.")
            return HttpResponseRedirect(request.path)
        if not outcome.uplinks:
            why = (
                "the frame is ahead of our clock, the meter or key is unknown or out of service, the octets are gone, "
                "or no frame waits any more"
            )
            messages.warning(request, f"Nothing to judge yet: {why}.")
            return HttpResponseRedirect(request.path)
        messages.success(request, f"{outcome}.")
        still = IntegrityFailure.objects.filter(pk=failure.pk).exists()
        return HttpResponseRedirect(request.path if still else reverse("admin:failures"))


def _proofs(rows: Sequence[ProofOfDoubleUse]) -> HtmlTable:
    return table(
        columns_of("#coupon", "#epoch", "twice", "SHA-256 of the first", "SHA-256 of the second"),
        [[one.number, one.epoch, _WHAT[one.is_list], one.first.hex(), one.second.hex()] for one in rows],
    )


_WHAT = {True: "announced in two lists", False: "signed under"}
