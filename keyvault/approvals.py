"""Approval by a second person: one account requests it, another one decides, and it is valid once, for exactly one act.

If ``REQUIRE_APPROVAL`` is on, the acts named here are done only after ``use`` found an approval for them, in the
transaction that records the act. The door has authenticated the accounts that request and decide.
"""

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, NamedTuple

from django.conf import settings
from django.contrib.auth.models import User
from django.db import transaction
from django.db.models import Q, QuerySet

from keyvault import rights
from keyvault.audit import chain
from keyvault.audit.chain import Actor
from keyvault.models import Approval

EXPORT = "keys.export"
DESTROY = "master_key.destroy"
CUT_OFF_AGREEMENT_KEY = "agreement_key.cut_off"
PIN_AUTHORITY = "authority.pin"
UNPIN_AUTHORITY = "authority.unpin"
PIN_MASK_AUTHORITY = "mask_authority.pin"
SEND_COMMANDS = "commands.send"

_NEEDED_RIGHT = {
    EXPORT: rights.EXPORT_KEYS,
    DESTROY: rights.DESTROY_MASTER_KEY,
    CUT_OFF_AGREEMENT_KEY: rights.COMPROMISE,
    PIN_AUTHORITY: rights.PROVISION,
    UNPIN_AUTHORITY: rights.PROVISION,
    PIN_MASK_AUTHORITY: rights.PROVISION,
}


# Acts that an approval itself sets going, in its transaction, and a refusal takes back: who does it, by the act.
_DONE_BY: dict[str, "Settling"] = {}


class ApprovalError(Exception):
    """An act that this account may not request, decide or do now; the message says why."""


class ApprovalState(StrEnum):
    """Where an approval stands."""

    WAITING = "waiting"
    APPROVED = "approved"
    REFUSED = "refused"
    USED = "used"
    EXPIRED = "expired"


class Person(NamedTuple):
    """An account that its door has authenticated, and where the request came from."""

    account: User
    source: str

    @property
    def actor(self) -> Actor:
        return Actor(self.account.get_username(), self.source, self.account.pk)


class Settling(NamedTuple):
    """What an approval and a refusal of an act do at once: each takes the row, who decided, and the time."""

    approved: Callable[[Approval, Actor, datetime], None]
    refused: Callable[[Approval, Actor, datetime], None]


def done_by(act: str, settling: Settling) -> None:
    """Name who does an act once it is approved; apps that are above this one call it when they are ready."""
    _DONE_BY[act] = settling


def hold(act: str, subject: Mapping[str, Any], why: str, actor: Actor, now: datetime) -> Approval:
    """Request an act that is stored already, and waits. Its door has checked the right to it.

    The requester is the account of the actor, or the one behind a program; the second person must be another.
    """
    known = account_of(actor)
    with transaction.atomic():
        approval = Approval.objects.create(
            act=act,
            subject=dict(subject),
            reason=why[:250],
            requested_by=actor.name[:150],
            requester=known,
            expires_at=now + timedelta(hours=settings.APPROVAL_EXPIRES_HOURS),
        )
        chain.record(actor, "approval.request", {**_told(approval), "reason": approval.reason})
    return approval


def account_of(actor: Actor) -> User | None:
    """Return the account of an actor, or the one behind a program; of a command the one with the system user's name."""
    mine = {"username": actor.name} if actor.account_id is None else {"pk": actor.account_id}
    return User.objects.filter(**mine).first()


def request(act: str, subject: Mapping[str, Any], reason: str, person: Person, now: datetime) -> Approval:
    """Request an act on exactly this subject. ApprovalError if the account lacks the right, or has asked already."""
    _require(person.account, _NEEDED_RIGHT[act], "ask for this")
    if not reason.strip():
        raise ApprovalError("say why: the second person decides by it")
    with transaction.atomic():
        standing = _open(now).filter(act=act, subject=subject).first()
        if standing is not None:
            raise ApprovalError(f"approval {standing.pk} for this stands already: it is {state(standing, now)}")
        approval = Approval.objects.create(
            act=act,
            subject=dict(subject),
            reason=reason.strip()[:250],
            requested_by=person.account.get_username(),
            requester=person.account,
            expires_at=now + timedelta(hours=settings.APPROVAL_EXPIRES_HOURS),
        )
        told = {"approval": approval.pk, "act": act, "of": approval.subject, "reason": approval.reason}
        chain.record(person.actor, "approval.request", told)
    return approval


def approve(number: int, person: Person, now: datetime) -> Approval:
    """Approve the request of another account. ApprovalError if it is its own, decided or expired, or no right of it."""
    _require(person.account, rights.DECIDE_APPROVALS, "approve")
    name = person.account.get_username()
    with transaction.atomic():
        others = _of_others(waiting(now), person.account).exclude(requested_by=name)
        if not others.filter(pk=number).update(approved_by=name, approver=person.account, approved_at=now):
            raise ApprovalError(_why_not(number, person.account, now))
        approval = Approval.objects.get(pk=number)
        chain.record(person.actor, "approval.approve", _told(approval))
        if settling := _DONE_BY.get(approval.act):
            settling.approved(approval, person.actor, now)
            Approval.objects.filter(pk=number).update(used_at=now)
    return approval


def refuse(number: int, person: Person, now: datetime, why: str = "") -> Approval:
    """Refuse a request, or withdraw an approval that is not used yet; one may do so with one's own request."""
    approval = Approval.objects.filter(pk=number).first()
    if approval is None or approval.requester_id != person.account.pk:
        _require(person.account, rights.DECIDE_APPROVALS, "refuse")
    with transaction.atomic():
        name = person.account.get_username()
        if not _open(now).filter(pk=number).update(refused_by=name, refused_at=now, refusal=why.strip()[:250]):
            raise ApprovalError(_why_not(number, None, now))
        approval = Approval.objects.get(pk=number)
        chain.record(person.actor, "approval.refuse", {**_told(approval), "why": approval.refusal})
        if settling := _DONE_BY.get(approval.act):
            settling.refused(approval, person.actor, now)
    return approval


def check(act: str, subject: Mapping[str, Any], now: datetime) -> None:
    """Check that there is a valid approval for exactly this act, if one is required; else ApprovalError."""
    if settings.REQUIRE_APPROVAL and not _good(act, subject, now):
        raise ApprovalError(_missing(act, subject, now))


def use(act: str, subject: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    """Use up an approval of exactly this act; return what the record of the act says about it.

    Runs in the transaction that records the act: an act that fails before that uses up nothing. Returns nothing if no
    approval is required; ApprovalError if one is required and none is valid.
    """
    if not settings.REQUIRE_APPROVAL:
        return {}
    for approval in _good(act, subject, now):
        unspent = Approval.objects.filter(pk=approval.pk, used_at=None, refused_at=None, expires_at__gt=now)
        if unspent.update(used_at=now):
            people = {"requested_by": approval.requested_by, "approved_by": approval.approved_by}
            return {"approval": approval.pk, **people}
    raise ApprovalError(_missing(act, subject, now))


def is_required() -> bool:
    """Whether the acts named here need a second person's approval."""
    return bool(settings.REQUIRE_APPROVAL)


def approved(act: str, now: datetime) -> list[Approval]:
    """Return the approvals of an act that can be used now, whatever their subject, in order of their numbers."""
    return _whose_people_still_may(_open(now).filter(act=act), act)


def waiting(now: datetime) -> QuerySet[Approval]:
    """Return the requests that nobody has decided, and that have not expired."""
    return _open(now).filter(approved_at=None)


def waiting_for(account: User, now: datetime) -> QuerySet[Approval]:
    """Return the requests of others that the account has the right to decide now, the oldest first."""
    if not account.has_perm(rights.DECIDE_APPROVALS):
        return Approval.objects.none()
    return _of_others(waiting(now), account).order_by("pk")


def usable_or_waiting(now: datetime) -> QuerySet[Approval]:
    """Return the approvals that wait or can be used, the newest first."""
    return _open(now).order_by("-pk")


def state(approval: Approval, now: datetime) -> ApprovalState:
    """Where an approval stands."""
    if approval.used_at is not None:
        return ApprovalState.USED
    if approval.refused_at is not None:
        return ApprovalState.REFUSED
    if approval.expires_at <= now:
        return ApprovalState.EXPIRED
    return ApprovalState.WAITING if approval.approved_at is None else ApprovalState.APPROVED


def describe(approval: Approval) -> str:
    """Describe the act in words."""
    subject = approval.subject
    if approval.act == EXPORT:
        devices = "1 meter" if subject["devices"] == 1 else f"{subject['devices']} meters"
        return f"export the keys of {devices}, wrapped under transport key {subject['transport_key']}"
    if approval.act == SEND_COMMANDS:
        return str(subject["what"])
    if approval.act == PIN_AUTHORITY:
        return f"let authority {subject['issuer']} ({subject['public']}) vouch for the keys of meters"
    if approval.act == UNPIN_AUTHORITY:
        return f"unpin authority {subject['issuer']} ({subject['public']}): its certificates enrol no meter any more"
    if approval.act == PIN_MASK_AUTHORITY:
        return f"let mask authority {subject['name']} ({subject['public']}) at {subject['url']} tell sums of masks"
    if approval.act == CUT_OFF_AGREEMENT_KEY:
        return f"cut off version {subject['version']} of agreement key {subject['agreement_key']}, and all keys of it"
    return f"destroy version {subject['version']} of the master key"


def _of_others(rows: QuerySet[Approval], account: User) -> QuerySet[Approval]:
    """Of other accounts; what is stored already may come from somebody without one, as from a terminal."""
    return rows.exclude(Q(requester=None) & ~Q(act=SEND_COMMANDS)).exclude(requester=account)


def _open(now: datetime) -> QuerySet[Approval]:
    return Approval.objects.filter(used_at=None, refused_at=None, expires_at__gt=now)


def _good(act: str, subject: Mapping[str, Any], now: datetime) -> list[Approval]:
    """Return approvals of exactly this act whose two accounts still have the right and are not blocked."""
    return _whose_people_still_may(_open(now).filter(act=act, subject=subject), act)


def _whose_people_still_may(rows: QuerySet[Approval], act: str) -> list[Approval]:
    rows = rows.filter(approved_at__isnull=False).select_related("requester", "approver")
    return [
        row
        for row in rows.order_by("pk")
        if row.requester is not None
        and row.approver is not None
        and row.requester.has_perm(_NEEDED_RIGHT[act])
        and row.approver.has_perm(rights.DECIDE_APPROVALS)
    ]


def _require(account: User, right: str, what: str) -> None:
    if not account.has_perm(right):  # an account that is not active has no right
        raise ApprovalError(f"the account {account.get_username()} may not {what}: it lacks the right {right}")


def _told(approval: Approval) -> dict[str, Any]:
    return {
        "approval": approval.pk,
        "act": approval.act,
        "of": approval.subject,
        "requested_by": approval.requested_by,
    }


def _why_not(number: int, account: User | None, now: datetime) -> str:
    approval = Approval.objects.filter(pk=number).first()
    if approval is None:
        return f"there is no approval {number}"
    standing = state(approval, now)
    if standing is ApprovalState.WAITING and account is not None:
        if approval.requester_id is None and approval.act != SEND_COMMANDS:
            return f"whoever asked for {number} has no account any more"
        return f"{approval.requested_by} asked for {number}: another person must approve it"
    return (
        f"approval {number} is {standing} already"
        if standing != ApprovalState.EXPIRED
        else f"approval {number} is expired"
    )


def _missing(act: str, subject: Mapping[str, Any], now: datetime) -> str:
    asked = waiting(now).filter(act=act, subject=subject).first()
    if asked is not None:
        return f"approval {asked.pk} waits for a second person: manage.py approvals approve {asked.pk}, or the console"
    return "this needs the approval of a second person: ask for it with manage.py approvals request"
