"""The condition about deadlines of readings."""

from collections.abc import Sequence
from datetime import datetime

from ami_headend.alerts.conditions.finding import NOTHING, Finding, Findings, few
from ami_headend.alerts.models import Rule, SubjectKind
from concentrators.totals import read_success
from concentrators.totals.read_deadlines import DayStatus


def read_deadline(rule: Rule, open_ids: Sequence[int], now: datetime) -> Findings:
    """Find whether the newest counted day of any deadline missed its target, over the whole fleet."""
    days = read_success.newest_days(now)
    statuses = read_success.statuses(days)
    missed = [day for day in days if statuses[day.pk] is DayStatus.MISSED]
    if not missed:
        return NOTHING
    texts = [
        f"{day.deadline}: {100 * day.in_time / day.expected:.1f} % of {day.day:%Y-%m-%d} by {day.due_at:%Y-%m-%d %H:%M}"
        f" UTC, the target is {day.target_percent.normalize():f} %"
        for day in missed
    ]
    summary = "; ".join(texts)[:250]
    return few([Finding(SubjectKind.FLEET, 0, "deadlines of readings", summary, len(missed))])
