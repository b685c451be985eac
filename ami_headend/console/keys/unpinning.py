"""Unpinning an authority: what it enrolled, the request for a second person's approval, and the act itself."""

from collections.abc import Mapping
from typing import Any

from django import forms
from django.http import Http404, HttpRequest
from django.urls import reverse
from django.utils import timezone
from unfold.widgets import UnfoldAdminTextInputWidget

from ami_headend import cached_answers
from ami_headend.console.acts import Act, ActingPage, Wrong
from ami_headend.console.keys import questions
from ami_headend.console.keys.master_key import ApprovalReasonForm
from keyvault import approvals, rights
from keyvault.approvals import ApprovalError, Person
from keyvault.audit import chain
from keyvault.enrolment import authorities
from keyvault.enrolment.authorities import AuthorityError
from keyvault.enrolment.certificates import kid_text
from keyvault.models import Authority


class UnpinPage(ActingPage):
    """A pinned authority, and the end of its say over keys of meters; the address has its kid in hex digits."""

    route = "keys/enrolment/authorities/<str:kid>/unpin/"
    name = "authority-unpin"
    title = "Unpin an authority"
    icon = "link_off"
    back = ("admin:enrolment", "Enrolment")
    permission_required = (rights.SEE_KEYS, rights.PROVISION)
    template_name = "console/keys/unpin.html"

    def acts(self) -> Mapping[str, Act]:
        return {"ask": Act(rights.PROVISION, self._ask), "unpin": Act(rights.PROVISION, self._unpin)}

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        context = super().get_context_data(**kwargs)
        row, now = self._row(), context["now"]
        subject = authorities.unpin_subject(row)
        try:
            approvals.check(approvals.UNPIN_AUTHORITY, subject, now)
        except ApprovalError:
            missing = True
        else:
            missing = False
        return {
            **context,
            "authority": row,
            "kid": kid_text(bytes(row.kid)),
            "public": bytes(row.public).hex(),
            "approval_missing": missing,
            "asked": approvals.waiting(now).filter(act=approvals.UNPIN_AUTHORITY, subject=subject).first(),
            "reason": ApprovalReasonForm(),
            "confirm": ConfirmForm(),
        }

    def _row(self) -> Authority:
        try:
            kid = bytes.fromhex(self.kwargs["kid"])
        except ValueError:
            raise Http404("An authority is named by its kid in hex digits.") from None
        row = authorities.listed().filter(kid=kid).first()
        if row is None:
            raise Http404("There is no authority of this kid.")
        return row

    def _ask(self, request: HttpRequest) -> str:
        person = Person(request.user, chain.web_actor(request).source)  # type: ignore[arg-type]  # signed in
        subject = authorities.unpin_subject(self._pinned())
        reason = request.POST.get("reason", "")
        asked = approvals.request(approvals.UNPIN_AUTHORITY, subject, reason, person, timezone.now())
        return f"Requested: another person can approve it on the page of approvals (number {asked.pk})."

    def _unpin(self, request: HttpRequest) -> str:
        row = self._pinned()
        if request.POST.get("issuer", "").strip() != row.issuer:
            raise Wrong(f"Nothing was done: enter {row.issuer} to confirm.")
        authorities.unpin(bytes(row.kid), chain.web_actor(request), timezone.now())
        cached_answers.forget(questions.ENROLMENT)
        return f"{row} is unpinned: its certificates enrol no meter any more. Keys that it vouched for stand."

    def _pinned(self) -> Authority:
        row = self._row()
        try:
            return authorities.pinned(bytes(row.kid))
        except AuthorityError as error:
            raise Wrong(f"Nothing was done: {error}.") from None

    def next_page(self) -> str:
        """Return the address after an act: the list, where the authority is pinned no more."""
        return super().next_page() if self._row().unpinned_at is None else reverse("admin:enrolment")


class ConfirmForm(forms.Form):
    """The name of the authority, to confirm."""

    issuer = forms.CharField(
        max_length=authorities.ISSUER_MAX,
        label="Enter its name to confirm",
        widget=UnfoldAdminTextInputWidget(attrs={"autocomplete": "off"}),
    )
