"""Acts of people on rules: change, switch, remove. Each is audited, because silencing a rule may hide something."""

from datetime import datetime

from django.db import transaction

from ami_headend.alerts import evaluation
from ami_headend.alerts.models import Rule
from ami_headend.core import rows
from keyvault.audit import chain
from keyvault.audit.chain import Actor


@transaction.atomic
def save(rule: Rule, actor: Actor, now: datetime) -> set[int]:
    """Store a new or changed rule for evaluation at once; one that is off ends its alerts. Return the channels to
    notify.
    """
    act = "create" if rule.pk is None else "change"
    if rule.pk is not None:
        rows.hold(rule)
    rule.evaluated_at, rule.took_ms, rule.last_error = None, 0, ""
    rule.save()
    chain.record(actor, f"alert_rule.{act}", _subject(rule))
    return set() if rule.is_enabled else evaluation.end_alerts(rule, now, actor.name)


@transaction.atomic
def delete(rule: Rule, actor: Actor) -> None:
    """Remove a rule that never raised an alert; ProtectedError if it did: switch it off instead."""
    rows.hold(rule)
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
        "group": None if rule.group is None else str(rule.group),
        "severity": rule.severity,
        "quiet_minutes": rule.quiet_minutes,
        "is_enabled": rule.is_enabled,
    }
