"""Approvals: requests that wait for a second person, decided here, and the outcome of earlier ones."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from django.conf import settings
from django.http import HttpRequest
from django.utils import timezone

from ami_headend.console.acts import Act, ActingPage, Wrong
from ami_headend.console.formatting import NOTHING, ago, clipped, label
from ami_headend.core.numbers import row_number
from ami_headend.web.tables import HtmlTable, columns_of, table
from keyvault import approvals, rights
from keyvault.approvals import ApprovalState, Person
from keyvault.audit import chain
from keyvault.models import Approval

_COLOURS = {
    ApprovalState.WAITING: "warning",
    ApprovalState.APPROVED: "success",
    ApprovalState.REFUSED: "danger",
    ApprovalState.USED: "info",
    ApprovalState.EXPIRED: "",
}
_LISTED = 50


class ApprovalsPage(ActingPage):
    """Waiting requests, with buttons for those who may decide them, and earlier requests."""

    route = "keys/approvals/"
    name = "approvals"
    title = "Approvals"
    icon = "how_to_reg"
    permission_required = (rights.SEE_APPROVALS,)
    template_name = "console/keys/approvals.html"
    live_template_name = "console/keys/approvals_live.html"

    def acts(self) -> Mapping[str, Act]:
        return {
            "approve": Act(rights.DECIDE_APPROVALS, _approve),
            # The requester may take a request back: keyvault.approvals says who may refuse it.
            "refuse": Act(rights.SEE_APPROVALS, _refuse),
        }

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        context = super().get_context_data(**kwargs)
        now, user = context["now"], self.request.user
        rows = list(Approval.objects.order_by("-pk")[:_LISTED])
        mine = set(approvals.waiting_for(user, now).values_list("pk", flat=True))  # type: ignore[arg-type]  # signed in
        may_refuse = user.has_perm(rights.DECIDE_APPROVALS)
        waiting = [row for row in rows if approvals.state(row, now) in (ApprovalState.WAITING, ApprovalState.APPROVED)]
        return {
            **context,
            "is_required": settings.REQUIRE_APPROVAL,
            "waiting": [
                {
                    "row": row,
                    "what": approvals.describe(row),
                    "label": _label(row, now),
                    "may_approve": row.pk in mine,
                    "is_held": row.act == approvals.SEND_COMMANDS,
                    "may_refuse": may_refuse or row.requester_id == user.pk,
                    "refuse": "Take back" if row.requester_id == user.pk else "Refuse",
                }
                for row in waiting
            ],
            "over": _over([row for row in rows if row not in waiting], now),
        }


def _person(request: HttpRequest) -> Person:
    return Person(request.user, chain.web_actor(request).source)  # type: ignore[arg-type]  # the site let nobody else in


def _number(request: HttpRequest) -> int:
    number = row_number(request.POST.get("number", ""))
    if number is None:
        raise Wrong("Nothing was done: there is no such approval.")
    return number


def _approve(request: HttpRequest) -> str:
    approval = approvals.approve(_number(request), _person(request), timezone.now())
    if approval.act == approvals.SEND_COMMANDS:
        return f"Released: {approvals.describe(approval)}. Concentrators get them now."
    return f"Approved: {approvals.describe(approval)}. It is valid once, for {approval.requested_by}."


def _refuse(request: HttpRequest) -> str:
    why = request.POST.get("reason", "")
    number = _number(request)
    if not why.strip() and Approval.objects.filter(pk=number, act=approvals.SEND_COMMANDS).exists():
        raise Wrong("Nothing was done: say why it is refused, for whoever gave the commands.")
    approval = approvals.refuse(number, _person(request), timezone.now(), why)
    return f"Refused: {approvals.describe(approval)}."


def _label(row: Approval, now: datetime) -> Any:
    standing = approvals.state(row, now)
    return label(standing.value, _COLOURS[standing])


def _over(rows: Sequence[Approval], now: datetime) -> HtmlTable:
    return table(
        columns_of("state", "what", "-requested by", "-why", "-decided by", "-asked"),
        [
            [
                _label(row, now),
                clipped(approvals.describe(row)),
                row.requested_by,
                clipped(f"{row.reason} (refused: {row.refusal})" if row.refusal else row.reason),
                row.refused_by or row.approved_by or NOTHING,
                ago(row.requested_at, now),
            ]
            for row in rows
        ],
    )
