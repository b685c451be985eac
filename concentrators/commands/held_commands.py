"""What becomes of held commands and waves: a second person releases or refuses them, or their time is over."""

from datetime import datetime, timedelta

from django.conf import settings
from django.db import transaction

from ami_headend.core.text import counted
from concentrators.commands import queue
from concentrators.models import Command, CommandKind, CommandState, RotationWave, WaveState
from keyvault import approvals
from keyvault.approvals import ApprovalError, Settling
from keyvault.audit import chain
from keyvault.audit.chain import Actor
from keyvault.models import Approval


def settle_approvals() -> None:
    """Have the approvals of held acts carried out here, whatever page, address or command decides them."""
    approvals.done_by(approvals.SEND_COMMANDS, Settling(_release, _refuse))


def drop_expired(now: datetime) -> int:
    """Withdraw commands and waves that nobody released in time; return how many."""
    with transaction.atomic():
        overdue = Command.objects.filter(state=CommandState.HELD, approval__expires_at__lte=now)
        dropped = queue.cancel(list(overdue.values_list("pk", flat=True)), now)
        waves = RotationWave.objects.filter(state=WaveState.HELD, approval__expires_at__lte=now)
        return dropped + waves.update(state=WaveState.CANCELLED, finished_at=now)


def _release(approval: Approval, actor: Actor, now: datetime) -> None:
    if approval.requester is not None and not approval.requester.is_active:
        raise ApprovalError(
            f"the account {approval.requester} was shut out since it gave them: refuse them, and have them given anew"
        )
    held = Command.objects.filter(approval=approval, state=CommandState.HELD)
    late = held.filter(kind=CommandKind.SET_INTERVAL, parameters__from_s__lte=int(now.timestamp())).first()
    if late is not None:
        raise ApprovalError(
            f"the time from which meter {late.meter} was to measure in another length is over: refuse it, and have "
            "it ordered anew"
        )
    released = held.update(
        state=CommandState.QUEUED,
        next_attempt_at=now,
        elsewhere_attempt_at=now + timedelta(seconds=settings.COMMAND_RETRY_S),
        expires_at=now + timedelta(seconds=settings.COMMAND_EXPIRES_S),
    )
    waves = RotationWave.objects.filter(approval=approval, state=WaveState.HELD).update(state=WaveState.RUNNING)
    if not released and not waves:
        raise ApprovalError("nothing waits for it any more: it was cancelled. Refuse it")
    _record(approval, actor, "command.release", released, waves)


def _refuse(approval: Approval, actor: Actor, now: datetime) -> None:
    held = Command.objects.filter(approval=approval, state=CommandState.HELD)
    dropped = queue.cancel(list(held.values_list("pk", flat=True)), now)
    waves = RotationWave.objects.filter(approval=approval, state=WaveState.HELD).update(
        state=WaveState.CANCELLED, finished_at=now
    )
    _record(approval, actor, "command.withdraw", dropped, waves)


def _record(approval: Approval, actor: Actor, act: str, commands: int, waves: int) -> None:
    subject = {"approval": approval.pk, "of": approval.subject, "given_by": approval.requested_by}
    chain.record(actor, act, subject, counted(waves, "wave") if waves else counted(commands, "command"))
