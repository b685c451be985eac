"""Conditions about masked totals: authorities that do not answer, and sets that never have a total."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from ami_headend.alerts.conditions.finding import NOTHING, Finding, Findings, few
from ami_headend.alerts.models import Rule, SubjectKind
from ami_headend.core.text import counted
from concentrators.totals import masked_queries


def mask_authority(rule: Rule, open_ids: Sequence[int], now: datetime) -> Findings:
    """Find whether a mask authority has failed to answer for longer than the period: it is away, or it refuses."""
    before = now - timedelta(minutes=rule.period_minutes or 0)
    late = [row for row in masked_queries.failing() if row.failing_since <= before]
    if not late:
        return NOTHING
    named = "; ".join(f"{row.name} since {row.failing_since:%Y-%m-%d %H:%M} UTC ({row.error})" for row in late[:5])
    return few([Finding(SubjectKind.FLEET, 0, "mask authorities", f"no answer of {named}", len(late))])


def masked_refused(rule: Rule, open_ids: Sequence[int], now: datetime) -> Findings:
    """Find whether sets were closed without a total within the period."""
    refused = masked_queries.refused_since(now - timedelta(minutes=rule.period_minutes or 0))
    if not refused.sets:
        return NOTHING
    which = counted(refused.sets, "set of masked values has no total", "sets of masked values have no total")
    summary = f"{which}; the latest: {refused.latest}"
    return few([Finding(SubjectKind.FLEET, 0, "masked totals", summary)])
