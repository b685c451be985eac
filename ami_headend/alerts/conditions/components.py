"""The condition about components: what doctor finds, said to those who do not look at it."""

import zlib
from collections.abc import Sequence
from datetime import datetime, timedelta

from ami_headend.alerts.conditions.finding import Finding, Findings, few
from ami_headend.alerts.models import Rule, SubjectKind
from ami_headend.alerts.parameters import ESSENTIAL
from ami_headend.core import clock
from ami_headend.health import components
from ami_headend.health.results import CheckResult

# While one of these fails something stands still, or soon will. All others cost a reserve, or a promise.
_ESSENTIAL = frozenset(
    {
        "broker",
        "clock",
        "database role",
        "disk",
        "key journal",
        "master key opens",
        "migrations",
        "partitions",
        "restored",
        "schedule",
        "schedule and workers",
        "workers",
    }
)
_OTHER_RULES = frozenset({"backlog", "mask authorities", "master key", "siem"})  # have conditions of their own


def component_down(rule: Rule, open_ids: Sequence[int], now: datetime) -> Findings:
    """Find the components that have not been well for longer than the period, each as a subject of its own.

    The rule remembers since when. While nobody looks, that itself is found.
    """
    standing = components.standing()
    found = standing.results if standing.is_fresh else components.unchecked("")
    failing = {one.name: one for one in found if not one.well and _is_of(one, rule)}
    since: dict[str, str] = rule.marks.get("since", {})
    rule.marks["since"] = {name: since.get(name, now.isoformat()) for name in failing}
    period = timedelta(minutes=rule.period_minutes or 0)
    lasting = [
        one
        for name, one in failing.items()
        if clock.has_rested(datetime.fromisoformat(rule.marks["since"][name]), period, now)
    ]
    return few([_finding(one) for one in lasting])


def _is_of(result: CheckResult, rule: Rule) -> bool:
    return result.name not in _OTHER_RULES and (result.name in _ESSENTIAL) == (rule.selector == ESSENTIAL)


def _finding(result: CheckResult) -> Finding:
    """Return the finding of a component, which has no row: its number comes of its name, whatever the release."""
    return Finding(SubjectKind.COMPONENT, zlib.crc32(result.name.encode()), result.name, result.found[:250])
