"""Mask authorities: which are asked and how they answer, and pinning and withdrawing them."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from django import forms
from django.http import HttpRequest
from django.utils import timezone
from unfold.widgets import UnfoldAdminTextInputWidget

from ami_headend.console.acts import Act, ActingPage, Wrong
from ami_headend.console.formatting import NOTHING, ago, clipped, label, thousands, wrapped
from ami_headend.core.numbers import row_number
from ami_headend.web.tables import Column, HtmlTable, table
from concentrators.totals import masked_queries
from concentrators.totals.masked_queries import AuthorityRow
from keyvault import approvals, rights
from keyvault.approvals import Person
from keyvault.audit import chain
from keyvault.masking import pinned
from keyvault.masking.pinned import MaskAuthorityError, MaskAuthorityToPin


def _text(longest: int, **options: Any) -> forms.CharField:
    widget = UnfoldAdminTextInputWidget(attrs={"autocomplete": "off", "spellcheck": "false"})
    return forms.CharField(max_length=longest, widget=widget, **options)


class PinForm(forms.Form):
    """The mask authority that is to be pinned."""

    name = _text(60, help_text="what people call it")
    url = _text(200, label="Address", help_text="where it answers, such as https://masks.example.org")
    mask_group = _text(60, required=False, help_text="group of the meters that were made with it, if any")
    public = _text(64, label="Public key", help_text="Ed25519, 64 hex digits, as the authority itself tells it")

    def meant(self) -> MaskAuthorityToPin:
        """Return the authority; Wrong where a field cannot be so."""
        if not self.is_valid():
            name, errors = next(iter(self.errors.items()))
            raise Wrong(f"Nothing was done: {name.replace('_', ' ')}: {errors[0]}")
        fields = self.cleaned_data
        try:
            public = bytes.fromhex(fields["public"])
        except ValueError:
            raise Wrong("Nothing was done: the public key is not in hex digits.") from None
        return MaskAuthorityToPin(fields["name"], fields["url"], fields["mask_group"], public)


class WithdrawForm(forms.Form):
    """The name of an authority, to confirm that it is asked no more."""

    withdrawn = _text(60, label="Enter its name to confirm")


class MaskAuthoritiesPage(ActingPage):
    """Pinned mask authorities with their answers; whoever may provision keys pins and withdraws them here."""

    route = "keys/mask-authorities/"
    name = "mask-authorities"
    title = "Mask authorities"
    icon = "domino_mask"
    permission_required = (rights.SEE_KEYS,)
    template_name = "console/keys/mask_authorities.html"

    def acts(self) -> Mapping[str, Act]:
        return {
            "ask": Act(rights.PROVISION, self._ask),
            "pin": Act(rights.PROVISION, self._pin),
            "pin-approved": Act(rights.PROVISION, self._pin_approved),
            "withdraw": Act(rights.PROVISION, self._withdraw),
        }

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        context = super().get_context_data(**kwargs)
        now = context["now"]
        rows = masked_queries.authorities(now)
        asked = {one.name for one in pinned.asked()}
        return {
            **context,
            "authorities": _table(rows, asked, now),
            "pin": PinForm(auto_id="pin_%s"),
            "withdraw": WithdrawForm() if asked else None,
            "needs_approval": approvals.is_required(),
            "approved": approvals.approved(approvals.PIN_MASK_AUTHORITY, now),
            "waiting": approvals.waiting(now).filter(act=approvals.PIN_MASK_AUTHORITY).order_by("pk"),
        }

    def _ask(self, request: HttpRequest) -> str:
        subject = _subject(PinForm(request.POST).meant())
        person = Person(request.user, chain.web_actor(request).source)  # type: ignore[arg-type]  # signed in
        reason = request.POST.get("reason", "")[:250]
        asked = approvals.request(approvals.PIN_MASK_AUTHORITY, subject, reason, person, timezone.now())
        return f"Requested: another person can approve it on the page of approvals (number {asked.pk})."

    def _pin(self, request: HttpRequest) -> str:
        return _pinned(PinForm(request.POST).meant(), request)

    def _pin_approved(self, request: HttpRequest) -> str:
        number = row_number(request.POST.get("number", ""))
        found = approvals.approved(approvals.PIN_MASK_AUTHORITY, timezone.now())
        one = next((row for row in found if row.pk == number), None)
        if one is None:
            raise Wrong("Nothing was done: there is no such approval, or it is spent or expired.")
        return _pinned(PinForm(one.subject).meant(), request)

    def _withdraw(self, request: HttpRequest) -> str:
        name = request.POST.get("withdrawn", "").strip()
        try:
            pinned.withdraw(name, chain.web_actor(request), timezone.now())
        except MaskAuthorityError as error:
            raise Wrong(f"Nothing was done: {error}.") from None
        return f"{name} is no longer asked. Meters that it masks have no totals from now on."


def _subject(authority: MaskAuthorityToPin) -> dict[str, Any]:
    try:
        return pinned.approval_subject(authority)
    except MaskAuthorityError as error:
        raise Wrong(f"Nothing was done: {error}.") from None


def _pinned(authority: MaskAuthorityToPin, request: HttpRequest) -> str:
    try:
        row = pinned.pin(authority, chain.web_actor(request), timezone.now())
    except MaskAuthorityError as error:
        raise Wrong(f"Nothing was done: {error}.") from None
    return f"Pinned {row}: it is asked as soon as its group has two authorities."


def _table(rows: Sequence[AuthorityRow], asked: set[str], now: datetime) -> HtmlTable:
    columns = [
        Column("authority"),
        Column("state"),
        Column("group"),
        Column("answers", is_number=True),
        Column("open questions", is_number=True),
        Column("pinned", is_minor=True),
        Column("address", is_minor=True),
        Column("public key (Ed25519)", is_minor=True),
    ]
    return table(
        columns,
        [
            [
                clipped(row.name),
                _state(row, is_asked=row.name in asked),
                row.mask_group or NOTHING,
                thousands(row.answers),
                thousands(row.open),
                ago(row.pinned_at, now),
                clipped(row.url),
                wrapped(" ".join(row.public[at : at + 16] for at in range(0, len(row.public), 16))),
            ]
            for row in rows
        ],
    )


def _state(row: AuthorityRow, *, is_asked: bool) -> Any:
    if row.withdrawn_at is not None and not is_asked:
        return label("withdrawn", "", f"since {timezone.localtime(row.withdrawn_at):%Y-%m-%d %H:%M}")
    if not is_asked or row.withdrawn_at is not None:
        return label("changed in the database", "danger", "Nobody's act made its row so: see the log.")
    if row.failing_since is not None:
        since = f"since {timezone.localtime(row.failing_since):%Y-%m-%d %H:%M}"
        return label("does not answer", "danger", f"{since}: {row.error}")
    return label("asked", "success")
