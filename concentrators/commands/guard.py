"""The guard over commands: what an account gives beyond its limits is held until a second person releases it.

One stolen account must not reach a fleet. Each act of a person or a program is counted by account, kind and minute; an
act that would break a limit (``CommandLimit``) is stored whole, but held: no concentrator gets it. It waits as an
approval (``keyvault.approvals``), whose decision ``held_commands`` carries out. Commands of the schedule, and those of
a wave that has begun, are not counted: the wave was.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from django.db import transaction
from django.db.models import Q, QuerySet, Sum

from ami_headend.core import clock, locks, rows
from ami_headend.core.sql import execute
from ami_headend.core.text import counted
from concentrators.commands import command_limits
from concentrators.commands.command_limits import SMALLEST_SHARE, SPANS, Given, Limit
from concentrators.commands.queue import DownlinkError
from concentrators.models import Command, CommandKind, CommandLimit, CommandState, CommandTally
from keyvault import approvals
from keyvault.audit import chain
from keyvault.audit.chain import Actor
from keyvault.models import Approval
from meters.models import Meter, MeterStatus

HELD_ACTS_MAX = 20  # of one account, at a time
_PROGRAM = "token:"  # begins the name of each program, and of no account
_BATCH = 10_000


def forecast(actor: Actor, kind: CommandKind, number: int, now: datetime) -> str:
    """Say why an act of so many commands would be held now; an empty text if it would not."""
    return _broken(_giver(actor, kind), kind, number, now)


def admit(actor: Actor, kind: CommandKind, number: int, what: str, now: datetime) -> Approval | None:
    """Count ``number`` commands of an act, or return the approval that they have to wait for.

    Runs in the transaction that queues them. Acts of one account come one after the other (a lock until its end), so
    that no two break a limit together. ``what`` continues "to ...". DownlinkError if too many acts wait already.
    """
    giver = _giver(actor, kind)
    execute("SELECT pg_advisory_xact_lock(%s, hashtext(%s))", locks.COMMAND_LIMITS, giver.tally)
    why = _broken(giver, kind, number, now)
    if not why:
        _count(giver.tally, kind, number, now)
        return None
    waiting = _held_acts(actor, now).count()
    if waiting >= HELD_ACTS_MAX:
        raise DownlinkError(
            f"{why}; and {waiting} acts of {actor.name} wait for a second person already: have them released or "
            "refused first, or wait until the limit allows it"
        )
    subject = {"what": what, "kind": kind.name.lower(), "commands": number}
    return approvals.hold(approvals.SEND_COMMANDS, subject, f"held: {why}", actor, now)


def hold_what_is_beyond(given: Sequence[Command], actor: Actor, now: datetime) -> Approval | None:
    """Count the commands of one kind that an act has just queued; hold them all if they break a limit (``admit``)."""
    if not given:
        return None
    kind = CommandKind(given[0].kind)
    approval = admit(actor, kind, len(given), _what(given), now)
    if approval is not None:
        held: dict[str, Any] = {
            "state": CommandState.HELD,
            "approval": approval,
            "expires_at": approval.expires_at,
        }
        for first in range(0, len(given), _BATCH):
            Command.objects.filter(pk__in=[command.pk for command in given[first : first + _BATCH]]).update(**held)
        for command in given:
            for name, value in held.items():
                setattr(command, name, value)
    return approval


def told(approval: Approval | None) -> str:
    """Say that an act is held, why, and what to do; an empty text without an approval."""
    if approval is None:
        return ""
    return (
        f"{approval.reason[:1].upper()}{approval.reason[1:]}. Another person with the right to approve must release "
        f"it on the page Approvals (number {approval.pk}), before {approval.expires_at:%Y-%m-%d %H:%M} UTC"
    )


def save_limit(actor: Actor, limit: CommandLimit) -> None:
    """Make or change a limit. AuditError or MasterKeyError: nothing was changed."""
    if limit.owner is not None:
        limit.account = limit.owner.get_username()  # as code of before knows the account
    with transaction.atomic():
        if limit.pk is not None:
            rows.hold(limit)
        limit.save()
        chain.record(actor, "command_limit.save", _subject(limit))


def delete_limit(actor: Actor, limit: CommandLimit) -> None:
    """Remove a limit. AuditError or MasterKeyError: nothing was changed."""
    with transaction.atomic():
        rows.hold(limit)
        subject = _subject(limit)
        limit.delete()
        chain.record(actor, "command_limit.delete", subject)


class _Giver(NamedTuple):
    """Whose commands are counted together, and which limits of its own it has."""

    tally: str
    own: list[Limit]


def _giver(actor: Actor, kind: CommandKind) -> _Giver:
    """Return who gives, as limits see it: an account by its number, since names change, with the programs it made.

    A program that has limits of its own is counted by itself. What has no account goes by its name. Once an account has
    the name of a system user, limits of the name hold on for commands of the terminal, unless the account has its own.
    """
    by_name = CommandLimit.objects.filter(owner=None, account=actor.name)
    if actor.name.startswith(_PROGRAM) and (own := _limits(by_name, kind)):
        return _Giver(actor.name, own)
    account = _account_id(actor)
    if account is None:
        return _Giver(actor.name, _limits(by_name, kind))
    of_name = _limits(by_name, kind) if actor.account_id is None else []
    return _Giver(f"account:{account}", [*of_name, *_limits(CommandLimit.objects.filter(owner=account), kind)])


def _account_id(actor: Actor) -> int | None:
    """Return the account of an actor; of a command the one with the system user's name, if there is one."""
    return actor.account_id if actor.account_id is not None else getattr(approvals.account_of(actor), "pk", None)


def _limits(rows: QuerySet[CommandLimit], kind: CommandKind) -> list[Limit]:
    return [Limit(row.span, row.most, row.share_percent) for row in rows.filter(kind=kind)]


def _held_acts(actor: Actor, now: datetime) -> QuerySet[Approval]:
    rows = approvals.waiting(now).filter(act=approvals.SEND_COMMANDS)
    account = _account_id(actor)
    return rows.filter(requested_by=actor.name) if account is None else rows.filter(requester=account)


def _broken(giver: _Giver, kind: CommandKind, number: int, now: datetime) -> str:
    of_all = _limits(CommandLimit.objects.filter(owner=None, account=""), kind)
    limits = command_limits.applying(of_all, giver.own)
    if not limits:
        return ""
    in_service = 0
    if number > SMALLEST_SHARE and any(limit.share_percent for limit in limits):
        in_service = Meter.objects.filter(status=MeterStatus.COMMISSIONED).count()
    why = command_limits.broken(limits, number, Given(_before(giver.tally, kind, now), in_service))
    return f"{kind.label} commands {why}" if why else ""


def _before(account: str, kind: CommandKind, now: datetime) -> dict[str, int]:
    """Return how many commands the account gave within each period. A clock that was ahead does not count for long."""
    mine = CommandTally.objects.filter(account=account, kind=kind, minute__lte=now + clock.DIFFERENCE_MAX)
    sums = {
        name: Sum("number", filter=Q(minute__gt=now - span.period), default=0)
        for name, span in SPANS.items()
        if span.period is not None
    }
    return mine.aggregate(**sums)


def _count(account: str, kind: CommandKind, number: int, now: datetime) -> None:
    execute(
        """INSERT INTO concentrators_commandtally AS t (account, kind, minute, number) VALUES (%s, %s, %s, %s)
           ON CONFLICT (account, kind, minute) DO UPDATE SET number = t.number + excluded.number""",
        account,
        kind.value,
        now.replace(second=0, microsecond=0),
        number,
    )


def _what(given: Sequence[Command]) -> str:
    meters = {command.meter_id for command in given}
    first = f"meter {given[0].meter}" if len(meters) == 1 else f"{len(meters):,} meters"
    return f"send {CommandKind(given[0].kind).label!r} to {first} ({counted(len(given), 'command')})"


def _subject(limit: CommandLimit) -> dict[str, Any]:
    return {
        "kind": CommandKind(limit.kind).name.lower(),
        "span": limit.span,
        "most": limit.most,
        "share_percent": limit.share_percent,
        "account": limit.owner.get_username() if limit.owner else limit.account,
    }
