"""The master key: its versions and the secrets under each, a rotation watched live, the end of an old version."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from django import forms
from django.http import Http404, HttpRequest
from django.urls import reverse
from django.utils import timezone
from unfold.widgets import UnfoldAdminTextInputWidget

from ami_headend.console.acts import Act, ActingPage, Wrong
from ami_headend.console.figures import Figure
from ami_headend.console.formatting import NOTHING, ago, duration, label, link, moment, percent, thousands
from ami_headend.console.keys import questions
from ami_headend.core.text import counted
from ami_headend.web.tables import HtmlTable, columns_of, table
from keyvault import approvals, master_key, rights
from keyvault.approvals import ApprovalError, Person
from keyvault.audit import chain
from keyvault.device_keys import inventory
from keyvault.device_keys.inventory import VersionStanding
from keyvault.master_key import MasterKeyError, MasterKeyState, census, rewrap, versions
from keyvault.models import Approval, MasterKeyRotation, RotationState
from keyvault.tasks import rewrap_master_key

SEE = "keyvault.view_masterkeyrotation"
_COLOURS = {MasterKeyState.ACTIVE: "success", MasterKeyState.DECRYPT_ONLY: "warning", inventory.MISSING: "danger"}
_ROTATION_COLOURS = {RotationState.RUNNING: "info", RotationState.STOPPED: "warning", RotationState.FINISHED: "success"}


class MasterKeyPage(ActingPage):
    """Versions with the secrets under each, and the current or last rotation."""

    route = "keys/master-key/"
    name = "master-key"
    title = "Master key"
    icon = "encrypted"
    permission_required = (SEE,)
    template_name = "console/keys/master_key.html"
    live_template_name = "console/keys/master_key_live.html"
    live_every_s = 2

    def acts(self) -> Mapping[str, Act]:
        return {
            "rotate": Act(rights.ROTATE_MASTER_KEY, _rotate),
            "stop": Act(rights.ROTATE_MASTER_KEY, _stop),
            "resume": Act(rights.ROTATE_MASTER_KEY, _resume),
        }

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        context = super().get_context_data(**kwargs)
        rotation = inventory.rotation()
        try:
            found = inventory.versions(questions.ask(questions.CENSUS))
        except MasterKeyError as error:
            return {**context, "fault": str(error), "place": str(master_key.provider())}
        may_destroy = self.request.user.has_perm(rights.DESTROY_MASTER_KEY)
        return {
            **context,
            "place": str(master_key.provider()),
            "versions": _versions(found, context["now"], may_destroy=may_destroy),
            "figures": _figures(found),
            "rotation": None if rotation is None else _rotation(rotation, context["now"]),
            "is_open": rotation is not None and rotation.state != RotationState.FINISHED,
            "left_behind": _left_behind(found, rotation),
        }


class DestroyPage(ActingPage):
    """An old version of the master key: whether it may be destroyed, the request for approval, and the act itself."""

    route = "keys/master-key/<int:number>/destroy/"
    name = "master-key-destroy"
    title = "Destroy a version of the master key"
    icon = "delete_forever"
    permission_required = (SEE, rights.DESTROY_MASTER_KEY)
    template_name = "console/keys/destroy.html"

    def acts(self) -> Mapping[str, Act]:
        return {
            "ask": Act(rights.DESTROY_MASTER_KEY, self._ask),
            "destroy": Act(rights.DESTROY_MASTER_KEY, self._destroy),
        }

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        context = super().get_context_data(**kwargs)
        number, now = self.kwargs["number"], context["now"]
        version = next((row for row in inventory.versions(census.census()) if row.number == number), None)
        if version is None:
            raise Http404(f"There is no version {number} of the master key.")
        return {
            **context,
            "title": f"Destroy version {number} of the master key",
            "version": version,
            "label": _label(version),
            "is_gone": version.state == MasterKeyState.DESTROYED,
            "refusal": _refusal(number, now),
            "approval_missing": _approval_missing(number, now),
            "asked": _asked(number, now),
            "reason": ApprovalReasonForm(),
            "confirm": ConfirmForm(),
            "place": str(master_key.provider()),
        }

    def _ask(self, request: HttpRequest) -> str:
        number, now = self.kwargs["number"], timezone.now()
        versions.check_destroyable(number, now)
        person = Person(request.user, chain.web_actor(request).source)  # type: ignore[arg-type]  # signed in
        subject = versions.approval_subject(number)
        asked = approvals.request(approvals.DESTROY, subject, request.POST.get("reason", ""), person, now)
        return f"Requested: another person can approve it on the page of approvals (number {asked.pk})."

    def _destroy(self, request: HttpRequest) -> str:
        number = self.kwargs["number"]
        if request.POST.get("number", "").strip() != str(number):
            raise Wrong(f"Nothing was destroyed: enter {number} to confirm.")
        versions.destroy(number, chain.web_actor(request), timezone.now())
        return f"Version {number} is destroyed. Destroy its copies elsewhere too."


class ApprovalReasonForm(forms.Form):
    """The reason for a second person to approve."""

    reason = forms.CharField(max_length=250, widget=UnfoldAdminTextInputWidget())


class ConfirmForm(forms.Form):
    """The number of the version, to confirm."""

    number = forms.CharField(
        max_length=10,
        label="Enter its number to confirm",
        widget=UnfoldAdminTextInputWidget(attrs={"inputmode": "numeric", "autocomplete": "off"}),
    )


def _rotate(request: HttpRequest) -> str:
    rotation = rewrap.begin(None, chain.web_actor(request))
    return (
        f"Version {rotation.to_version} is active; {counted(rotation.total, 'secret')} to rewrap. {_enqueue(rotation)}"
    )


def _stop(request: HttpRequest) -> str:
    rotation = rewrap.stop(chain.web_actor(request))
    return f"The rotation stops after the present batch, at {rotation.rewrapped:,} of {rotation.total:,}."


def _resume(request: HttpRequest) -> str:
    rotation = rewrap.resume(chain.web_actor(request))
    return f"The rotation to version {rotation.to_version} continues. {_enqueue(rotation)}"


def _enqueue(rotation: MasterKeyRotation) -> str:
    try:
        rewrap_master_key.apply_async((rotation.pk,), retry=False)
    except rewrap_master_key.OperationalError:
        return "The queue does not answer: a worker starts once it does."
    return "A worker has been started."


def _figures(found: Sequence[VersionStanding]) -> list[Figure]:
    active = next((row for row in found if row.state == MasterKeyState.ACTIVE), None)
    total = sum(row.secrets.secrets for row in found)
    under = 0 if active is None else active.secrets.secrets
    missing = sum(row.secrets.secrets for row in found if row.state == inventory.MISSING)
    figures = [
        Figure(
            "Active version",
            NOTHING if active is None else str(active.number),
            "seals every new secret",
            "encrypted",
            tone="bad" if active is None else "",
        ),
        Figure(
            "Under the active version",
            percent(under, total) if total else NOTHING,
            f"{under:,} of {counted(total, 'secret')}",
            "shield_lock",
            tone="good" if under == total else "unsure",
        ),
    ]
    if missing:
        figures.append(
            Figure("Lost", thousands(missing), "under a version whose key is missing", "gpp_bad", tone="bad")
        )
    return figures


def _versions(found: Sequence[VersionStanding], now: datetime, *, may_destroy: bool) -> HtmlTable:
    return table(
        columns_of("version", "state", "#device keys", "-#fleet keys", "-#others", "-made", "-replaced", "end"),
        [
            [
                row.number,
                _label(row),
                thousands(row.secrets.device_keys),
                thousands(row.secrets.fleet_keys),
                thousands(row.secrets.agreement_keys + row.secrets.audit_keys + row.secrets.signing_secrets),
                moment(row.created_at),
                moment(row.decrypt_only_at),
                _end(row, now, may_destroy=may_destroy),
            ]
            for row in reversed(found)
        ],
    )


def _label(row: VersionStanding) -> Any:
    return label(str(row.state).replace("_", " "), _COLOURS.get(row.state, ""))


def _end(row: VersionStanding, now: datetime, *, may_destroy: bool) -> Any:
    if row.destroyed_at is not None:
        return moment(row.destroyed_at)
    if row.destroyable_at is None:
        return NOTHING
    if row.secrets.secrets:
        return "when nothing needs it any more"
    if now < row.destroyable_at:
        return f"from {timezone.localtime(row.destroyable_at):%Y-%m-%d} on"
    return (
        link(reverse("admin:master-key-destroy", args=[row.number]), "Destroy") if may_destroy else "may be destroyed"
    )


def _left_behind(found: Sequence[VersionStanding], rotation: MasterKeyRotation | None) -> int:
    """Return the number of secrets under older versions while no rotation is open; resuming rewraps them."""
    if rotation is not None and rotation.state != RotationState.FINISHED:
        return 0
    return sum(row.secrets.secrets for row in found if row.state == MasterKeyState.DECRYPT_ONLY)


def _rotation(row: MasterKeyRotation, now: datetime) -> dict[str, Any]:
    left = inventory.seconds_left(row)
    done = row.rewrapped + row.unreadable
    return {
        "row": row,
        "label": label(RotationState(row.state).label, _ROTATION_COLOURS[RotationState(row.state)]),
        "done": done,
        "total": max(row.total, done, 1),
        "percent": percent(done, max(row.total, done)) if row.total else "100 %",
        "left": None if left is None else duration(left),
        "beat": ago(row.beat_at, now),
        "is_overdue": rewrap.is_overdue(row, now),
        "is_running": row.state == RotationState.RUNNING,
        "is_stopped": row.state == RotationState.STOPPED,
    }


def _refusal(number: int, now: datetime) -> str | None:
    try:
        versions.check_destroyable(number, now)
    except (versions.DestroyError, MasterKeyError) as error:
        return str(error)
    return None


def _approval_missing(number: int, now: datetime) -> bool:
    try:
        approvals.check(approvals.DESTROY, versions.approval_subject(number), now)
    except ApprovalError:
        return True
    return False


def _asked(number: int, now: datetime) -> Approval | None:
    """Return the waiting request for approval, if there is one."""
    return approvals.waiting(now).filter(act=approvals.DESTROY, subject=versions.approval_subject(number)).first()
