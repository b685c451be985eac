"""Conditions about the feed: consumers that lag, and positions that are not given."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from ami_headend.alerts.conditions.finding import NOTHING, Finding, Findings, few
from ami_headend.alerts.models import Rule, SubjectKind
from ami_headend.core.text import counted
from concentrators.feed import sequencer, subscriptions
from concentrators.feed.subscriptions import Standing

_NAMED = 5


def feed_lag(rule: Rule, open_ids: Sequence[int], now: datetime) -> Findings:
    """Find whether consumers are behind for longer than the period, or the feed itself stands still."""
    period = timedelta(minutes=rule.period_minutes or 0)
    late = [
        one for one in subscriptions.standings(now) if one.lag > period or (one.is_gone and now - one.moved_at > period)
    ]
    texts = []
    if late:
        named = "; ".join(
            f"{one.name} since {(one.moved_at if one.is_gone else now - one.lag):%Y-%m-%d %H:%M} UTC"
            f" ({'cursor gone' if one.is_gone else counted(one.rows, 'row')}{_failing(one)})"
            for one in late[:_NAMED]
        )
        texts.append(f"{len(late):,} behind: {named}")
    oldest_at = sequencer.unnumbered().oldest_at
    if oldest_at is not None and now - oldest_at > period:
        texts.append(f"no positions are given since {oldest_at:%Y-%m-%d %H:%M} UTC")
    if not texts:
        return NOTHING
    return few([Finding(SubjectKind.FLEET, 0, "consumers of the feed", "; ".join(texts), max(1, len(late)))])


def _failing(one: Standing) -> str:
    """Return why a delivery fails, or that it is paused; empty where neither is so."""
    if one.delivery is None:
        return ""
    if not one.delivery.is_enabled:
        return ", delivery paused"
    return f", {one.delivery.last_error[:60]}" if one.delivery.attempts else ""
