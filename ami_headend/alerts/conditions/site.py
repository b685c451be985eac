"""What the head-end itself does."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from ami_headend.alerts.conditions.finding import NOTHING, Finding, Findings, few
from ami_headend.alerts.models import Rule, SubjectKind
from concentrators import uplinks


def queue_lag(rule: Rule, open_ids: Sequence[int], now: datetime) -> Findings:
    """Whether the oldest uplink that waits for verification waits for longer than the period."""
    backlog = uplinks.backlog()
    if backlog.oldest_received_at is None:
        return NOTHING
    age = now - backlog.oldest_received_at
    if age <= timedelta(minutes=rule.period_minutes or 0):
        return NOTHING
    summary = (
        f"{backlog.uplinks:,} uplinks wait for verification, the oldest for {age.total_seconds() / 60:,.0f} minutes"
    )
    return few([Finding(SubjectKind.FLEET, 0, "uplink queue", summary)])
