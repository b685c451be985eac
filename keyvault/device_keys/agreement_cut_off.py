"""Cutting off a version of an agreement key that others may know, with every device key that was agreed on with it."""

from datetime import datetime
from typing import Any, NamedTuple

from django.db import transaction

from ami_headend.core.text import counted
from keyvault import approvals, journal
from keyvault.audit import chain
from keyvault.audit.chain import Actor
from keyvault.device_keys import epochs
from keyvault.device_keys.agreement_keys import AgreementKeyError, find
from keyvault.models import AgreementKey, AgreementState, DeviceKey, KeySource, KeyState


class CutOff(NamedTuple):
    """The keys that are affected: keys that were agreed on with a version, and keys of other sources that seal to it.

    The latter need only be rotated: whoever knows the version still lacks the device key.
    """

    compromised: int
    to_rotate: int


def would_be(name: str, version: int) -> CutOff:
    """Return which keys a cut-off would affect; AgreementKeyError if the version is unknown or cut off already."""
    row = find(name, version)
    _check(row)
    agreed = DeviceKey.objects.filter(agreement_key=row, source=KeySource.AGREED)
    return CutOff(agreed.exclude(state=KeyState.COMPROMISED).count(), _to_rotate(row))


def cut_off(name: str, version: int, actor: Actor, now: datetime) -> CutOff:
    """Cut a version off for good: no more keys are agreed on with it, and keys that were are marked as compromised.

    Audited. ApprovalError if an approval is required and none is valid; AgreementKeyError as in ``would_be``.
    """
    subject = approval_subject(name, version)
    with transaction.atomic():
        row = AgreementKey.objects.select_for_update().get(pk=find(name, version).pk)
        _check(row)
        spent = approvals.use(approvals.CUT_OFF_AGREEMENT_KEY, subject, now)
        row.state, row.cut_off_at = AgreementState.CUT_OFF, now
        row.save(update_fields=["state", "cut_off_at"])
        journal.append("agreement_key_cut_off", [row.pk, bytes(row.public), int(now.timestamp())])
        agreed = DeviceKey.objects.filter(agreement_key=row, source=KeySource.AGREED)
        ids = list(agreed.exclude(state=KeyState.COMPROMISED).order_by("pk").values_list("pk", flat=True))
        done = CutOff(epochs.compromise(ids, actor) if ids else 0, _to_rotate(row))
        chain.record(
            actor, approvals.CUT_OFF_AGREEMENT_KEY, {**subject, **spent}, f"{counted(done.compromised, 'key')} cut off"
        )
    return done


def approval_subject(name: str, version: int) -> dict[str, Any]:
    """Return what a second person approves: this version, with its public key. AgreementKeyError if there is none."""
    return {"agreement_key": name, "version": version, "public": bytes(find(name, version).public).hex()}


def _check(row: AgreementKey) -> None:
    if row.state == AgreementState.CUT_OFF:
        raise AgreementKeyError(f"agreement key {row} is cut off already")


def _to_rotate(row: AgreementKey) -> int:
    usable = [KeyState.PENDING, KeyState.ACTIVE, KeyState.RETIRING]
    return DeviceKey.objects.filter(agreement_key=row, state__in=usable).exclude(source=KeySource.AGREED).count()
