"""The export of the list of alerts."""

from datetime import datetime
from typing import NamedTuple

from django.db.models import QuerySet

from ami_headend.alerts.models import Alert
from ami_headend.console import list_exports
from ami_headend.console.list_exports import ListExport, paged
from concentrators.failures.kinds import Severity


class AlertRow(NamedTuple):
    """An alert in the export."""

    number: int
    rule: str
    severity: str
    subject: str
    subjects: int
    summary: str
    opened_at: datetime
    resolved_at: datetime | None
    acknowledged_by: str
    acknowledged_at: datetime | None
    snoozed_until: datetime | None


def exported(alerts: QuerySet[Alert]) -> ListExport:
    """Return alerts, selected with their rules, in order of their numbers."""
    rows = alerts.order_by("pk")

    def page(key: int | None) -> tuple[list[AlertRow], int | None]:
        found = list(rows.filter(pk__gt=key or 0)[: list_exports.BATCH])
        return [_row(one) for one in found], found[-1].pk if len(found) == list_exports.BATCH else None

    return ListExport(AlertRow, paged(page), lambda most: rows.order_by()[:most].count())


def _row(alert: Alert) -> AlertRow:
    return AlertRow(
        alert.pk,
        alert.rule.name,
        Severity(alert.severity).name.lower(),
        alert.subject,
        alert.subjects,
        alert.summary,
        alert.opened_at,
        alert.resolved_at,
        alert.acknowledged_by,
        alert.acknowledged_at,
        alert.snoozed_until,
    )
