"""The list of things to do: present problems, most urgent first, each with a link."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple
from urllib.parse import urlencode

from django.urls import reverse

from ami_headend.alerts.models import Alert, SubjectKind
from ami_headend.alerts.queries import most_urgent_of_rules, open_alerts
from ami_headend.console.formatting import SEVERITY_COLOURS
from ami_headend.health.results import CheckResult
from concentrators.failures.kinds import Severity
from concentrators.models import Concentrator, ConcentratorToken
from keyvault import approvals
from keyvault.models import DeviceKey
from meters.models import Meter

SHOWN = 6
_REQUESTS = 2  # for approval that are shown before alerts; the others come after them


class Item(NamedTuple):
    """One thing to do: its severity, the problem, details, since when, and a link. ``number``: alerts it stands for."""

    severity: str
    colour: str
    title: str
    text: str
    since: datetime | None = None
    url: str = ""
    is_acknowledged: bool = False
    number: int = 1


class ToDo(NamedTuple):
    """The first things to do and the number of others; or the first steps of a head-end without meters."""

    items: list[Item]
    more: int
    steps: list[Item]


def to_do(user: Any, findings: Sequence[CheckResult], now: datetime) -> ToDo:
    """Return what the user may know of, components first, because other problems follow from theirs.

    Alerts stand once for each rule, so that many of one rule hide nothing of another.
    """
    items = [
        _item(Severity.CRITICAL, f"{finding.name.capitalize()}: {finding.found}", finding.to_do)
        for finding in findings
        if not finding.well
    ]
    requests, unread = _approvals(user, now)
    known = len(items) + len(requests) + unread
    items += requests[:_REQUESTS]
    if user.has_perm("alerts.view_alert"):
        standing = open_alerts(now)
        if findings:
            standing = standing.exclude(subject_kind=SubjectKind.COMPONENT)  # they say the same
        items += [_rule(alert) for alert in most_urgent_of_rules(standing)[:SHOWN]]
        known += standing.count()
    items += requests[_REQUESTS:]
    steps = [] if items else _first_steps(user)
    shown = items[:SHOWN]
    return ToDo(shown, max(0, known - sum(item.number for item in shown)), steps)  # some may have ended meanwhile


def _item(severity: Severity, title: str, text: str, **more: Any) -> Item:
    return Item(severity.name.lower(), SEVERITY_COLOURS[severity], title, text, **more)


def _rule(alert: Alert) -> Item:
    """Return the open alerts of a rule as one item: the most urgent, and how many there are beside it."""
    title = alert.rule.name if alert.subject_kind == SubjectKind.FLEET else f"{alert.rule.name}: {alert.subject}"
    number: int = alert.number  # type: ignore[attr-defined]
    url = reverse("admin:alert", args=[alert.pk])
    if number > 1:
        title += f", and {number - 1:,} more"
        url = f"{reverse('admin:alerts')}?{urlencode({'rule': alert.rule_id})}"
    return _item(
        Severity(alert.severity),
        title,
        alert.summary,
        since=alert.opened_at,
        url=url,
        is_acknowledged=alert.acknowledged_at is not None,
        number=number,
    )


def _approvals(user: Any, now: datetime) -> tuple[list[Item], int]:
    """Return the requests that wait for this person's decision, the oldest first, and the number of others."""
    waiting = approvals.waiting_for(user, now)
    rows = list(waiting[:SHOWN])
    items = [
        _item(
            Severity.WARNING,
            f"{row.requested_by} requests your approval",
            f"To {approvals.describe(row)}: {row.reason}",
            since=row.requested_at,
            url=reverse("admin:approvals"),
        )
        for row in rows
    ]
    return items, waiting.count() - len(rows) if len(rows) == SHOWN else 0


def _first_steps(user: Any) -> list[Item]:
    """Return the steps that are missing before a first frame can be accepted; none once there is a meter."""
    if not user.has_perm("meters.view_meter") or Meter.objects.exists():
        return []
    page = reverse("admin:concentrators")
    steps = [
        (Concentrator.objects, Item("", "", "Register a concentrator", "It posts for its meters.", url=page)),
        (
            ConcentratorToken.objects,
            Item("", "", "Issue its token", "The concentrator authenticates with it.", url=page),
        ),
        (
            DeviceKey.objects,
            Item("", "", "Import keys", "From the manufacturer's shipment: manage.py import_keys --help."),
        ),
        (
            Meter.objects,
            Item("", "", "Import meters", "With their places and concentrators.", url=reverse("admin:meter-import")),
        ),
    ]
    return [step for rows, step in steps if not rows.exists()]
