"""Conditions about the head-end itself: the queue, backups, tokens of programs, the SIEM, held commands."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from ami_headend.alerts.conditions.finding import NOTHING, SUBJECTS_MAX, Finding, Findings, few
from ami_headend.alerts.models import Rule, SubjectKind
from ami_headend.api_tokens import tokens
from ami_headend.core import clock
from ami_headend.core.text import counted
from ami_headend.siem import pending
from concentrators.ingest import backlog
from keyvault import approvals, backups
from keyvault.device_keys import inventory


def queue_lag(rule: Rule, open_ids: Sequence[int], now: datetime) -> Findings:
    """Find whether the oldest unverified uplink has waited for longer than the period."""
    queue = backlog.waiting()
    if queue.oldest_received_at is None:
        return NOTHING
    age = now - queue.oldest_received_at
    if clock.is_within(queue.oldest_received_at, timedelta(minutes=rule.period_minutes or 0), now):
        return NOTHING
    if clock.is_ahead(queue.oldest_received_at, now):
        summary = f"{_waiting(queue.uplinks)}, all received in the future: a clock was ahead"
        return few([Finding(SubjectKind.FLEET, 0, "uplink queue", summary)])
    minutes = counted(round(age.total_seconds() / 60), "minute")
    summary = f"{_waiting(queue.uplinks)}, the oldest for {minutes}"
    return few([Finding(SubjectKind.FLEET, 0, "uplink queue", summary)])


def _waiting(uplinks: int) -> str:
    return f"{counted(uplinks, 'uplink')} {'waits' if uplinks == 1 else 'wait'} for verification"


def backup_overdue(rule: Rule, open_ids: Sequence[int], now: datetime) -> Findings:
    """Find whether there are keys older than the period, but no retained complete backup that is younger."""
    since = now - timedelta(minutes=rule.period_minutes or 0)
    newest = backups.retained().exclude(finished_at=None).order_by("-made_at").first()
    if newest is not None and newest.made_at >= since:
        return NOTHING
    if newest is not None:
        summary = f"the newest backup is of {newest.made_at:%Y-%m-%d %H:%M} UTC"
    elif inventory.are_there_from_before(since):
        summary = "there is no backup, and there are keys to lose"
    else:
        return NOTHING
    return few([Finding(SubjectKind.FLEET, 0, "backup", summary)])


def api_token_expires(rule: Rule, open_ids: Sequence[int], now: datetime) -> Findings:
    """Find whether secrets of tokens that are not revoked expire within the period, or have expired."""
    found = list(tokens.expiring(now + timedelta(minutes=rule.period_minutes or 0))[:SUBJECTS_MAX])
    if not found:
        return NOTHING
    named = ", ".join(f"{token.name} on {token.expires_at:%Y-%m-%d}" for token in found)
    return few([Finding(SubjectKind.FLEET, 0, "tokens of programs", f"tokens expire: {named}"[:250])])


def siem_behind(rule: Rule, open_ids: Sequence[int], now: datetime) -> Findings:
    """Find whether the oldest security event has waited for the SIEM for longer than the period."""
    found = pending.backlog()
    if not found.shipping.is_on or found.oldest_at is None:
        return NOTHING
    if clock.is_within(found.oldest_at, timedelta(minutes=rule.period_minutes or 0), now):
        return NOTHING
    why = f": {found.shipping.last_error}" if found.shipping.last_error else ""
    waits = counted(found.waiting, "security event waits", "security events wait")
    summary = f"{waits}, since {found.oldest_at:%Y-%m-%d %H:%M} UTC{why}"
    return few([Finding(SubjectKind.FLEET, 0, "SIEM", summary[:250])])


def commands_held(rule: Rule, open_ids: Sequence[int], now: datetime) -> Findings:
    """Find whether commands beyond the limits of their accounts wait for a second person, longer than the period."""
    before = now - timedelta(minutes=rule.period_minutes or 0)
    waiting = approvals.waiting(now).filter(act=approvals.SEND_COMMANDS, requested_at__lte=before).order_by("pk")
    found = list(waiting[:SUBJECTS_MAX])
    if not found:
        return NOTHING
    named = "; ".join(f"{row.requested_by} wants to {approvals.describe(row)} ({row.reason})" for row in found)
    return few([Finding(SubjectKind.FLEET, 0, "held commands", named[:250])])
