"""Queries of alerts for pages and metrics."""

from collections.abc import Collection
from datetime import datetime

from django.db.models import Count, F, Q, QuerySet, Window
from django.db.models.functions import RowNumber

from ami_headend.alerts.models import Alert, SubjectKind
from concentrators.fleet import groups as fleet_groups
from meters.registry import groups

_MOST_URGENT = ("-severity", F("acknowledged_at").asc(nulls_first=True), "opened_at", "pk")


def open_alerts(now: datetime) -> QuerySet[Alert]:
    """Return open alerts that are not snoozed, most urgent first: by severity, unacknowledged first, then the oldest.

    With their rules, in one query; slice it.
    """
    return (
        Alert.objects.filter(Q(snoozed_until=None) | Q(snoozed_until__lte=now), resolved_at=None)
        .select_related("rule")
        .order_by(*_MOST_URGENT)
    )


def most_urgent_of_rules(alerts: QuerySet[Alert]) -> QuerySet[Alert]:
    """Return the most urgent of the alerts of each rule, in their order; each with ``number``, how many there are.

    In one query; slice it.
    """
    rows = alerts.annotate(
        number=Window(Count("pk"), partition_by="rule_id"),
        rank=Window(RowNumber(), partition_by="rule_id", order_by=_MOST_URGENT),
    )
    return rows.filter(rank=1)


def snoozed_alerts(now: datetime) -> QuerySet[Alert]:
    """Return open alerts that somebody snoozed, the next to wake first."""
    return (
        Alert.objects.filter(resolved_at=None, snoozed_until__gt=now).select_related("rule").order_by("snoozed_until")
    )


def past_alerts() -> QuerySet[Alert]:
    """Return alerts that have ended, the latest first."""
    return Alert.objects.filter(resolved_at__isnull=False).select_related("rule").order_by("-resolved_at", "-pk")


def of_groups(group_ids: Collection[int]) -> Q:
    """Return a condition for alerts of meters and concentrators that are in any of the groups now."""
    return Q(groups.of_meters(group_ids, "subject_id"), subject_kind=SubjectKind.METER) | Q(
        fleet_groups.of_concentrators(group_ids, "subject_id"), subject_kind=SubjectKind.CONCENTRATOR
    )


def of_alerts_of_groups(group_ids: Collection[int]) -> Q:
    """Return a condition for rows whose alert is of a meter or concentrator in any of the groups now."""
    return Q(alert__in=Alert.objects.filter(of_groups(group_ids)).values("pk"))


def of_state(
    state: str, now: datetime, group_ids: Collection[int] | None, rule_id: int | None = None
) -> QuerySet[Alert]:
    """Return the alerts that are ``open``, ``snoozed`` or ``ended``, of groups, and of a rule; None for all."""
    lists = {"open": open_alerts(now), "snoozed": snoozed_alerts(now), "ended": past_alerts()}
    rows = lists[state] if rule_id is None else lists[state].filter(rule=rule_id)
    return rows if group_ids is None else rows.filter(of_groups(group_ids))


def count_by_severity(now: datetime) -> dict[int, int]:
    """Return the number of open alerts that are not snoozed, by severity; one query."""
    rows = open_alerts(now).order_by().values_list("severity").annotate(number=Count("pk"))
    return dict(rows)
