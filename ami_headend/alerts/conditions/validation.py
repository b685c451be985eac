"""The condition about registers and intervals that say different energies."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from ami_headend.alerts.conditions.finding import NOTHING, Finding, Findings, few
from ami_headend.alerts.models import Rule, SubjectKind
from ami_headend.core.text import counted
from concentrators.validation import differences

_NAMED = 5


def registers_differ(rule: Rule, open_ids: Sequence[int], now: datetime) -> Findings:
    """Find whether so many meters, of all or of the rule's group, have open differences that began in the period."""
    since = now - timedelta(minutes=rule.period_minutes or 0)
    meters, serials = differences.meters_that_differ(since, None if rule.group_id is None else [rule.group_id], _NAMED)
    if meters < max(1, rule.threshold or 0):
        return NOTHING
    named = "registers and intervals" + ("" if rule.group is None else f", {rule.group}")
    which = "" if meters == len(serials) else "such as "
    verb = "has" if meters == 1 else "have"
    summary = f"{counted(meters, 'meter')} {verb} differences that began since {since:%Y-%m-%d %H:%M} UTC and hold"
    return few([Finding(SubjectKind.FLEET, 0, named, f"{summary}: {which}{', '.join(serials)}"[:250], meters)])
