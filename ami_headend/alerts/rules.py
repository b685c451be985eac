"""Rules as acts of people: changed, switched, removed. Audited, for whoever silences a rule may have a reason to."""

from datetime import datetime

from django.db import transaction

from ami_headend.alerts import evaluation
from ami_headend.alerts.models import Rule
from keyvault.audit import chain
from keyvault.audit.chain import Actor


@transaction.atomic
def save(rule: Rule, actor: Actor, now: datetime) -> set[int]:
    """Store a new or changed rule, to be evaluated at once; one that is off ends its alerts. Gives who is told."""
    act = "create" if rule.pk is None else "change"
    rule.evaluated_at, rule.took_ms, rule.last_error = None, 0, ""
    rule.save()
    chain.record(actor, f"alert_rule.{act}", _subject(rule))
    return set() if rule.is_enabled else evaluation.end_alerts(rule, now, actor.name)


@transaction.atomic
def delete(rule: Rule, actor: Actor) -> None:
    """Remove a rule that never raised an alert; ProtectedError where it did: switch it off instead."""
    chain.record(actor, "alert_rule.delete", _subject(rule))
    rule.delete()


def _subject(rule: Rule) -> dict[str, object]:
    return {
        "rule": rule.pk,
        "name": rule.name,
        "condition": rule.condition,
        "selector": rule.selector,
        "threshold": rule.threshold,
        "period_minutes": rule.period_minutes,
        "severity": rule.severity,
        "quiet_minutes": rule.quiet_minutes,
        "is_enabled": rule.is_enabled,
    }
