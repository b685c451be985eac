"""Links from an alert to its subject and to the rows that its rule counted."""

from datetime import timedelta
from typing import NamedTuple

from django.urls import reverse
from django.utils.http import urlencode

from ami_headend.alerts.models import Alert, Condition, GatheredSubjects, SubjectKind
from ami_headend.console.alert_subjects import RIGHTS, subjects_url
from ami_headend.console.components import SEE_COMPONENTS
from ami_headend.console.deadlines import SEE_DEADLINES
from ami_headend.console.events import SEE_EVENTS, events_url
from ami_headend.console.failures import SEE, failures_url
from ami_headend.console.periods import as_filters
from ami_headend.core import clock
from meters.readings.obis import FRAUD_LOG, STANDARD_LOG


class Link(NamedTuple):
    """A link to a page of the console, and the right that the page needs."""

    text: str
    url: str
    permission: str


_UPLINKS = "admin:concentrators_uplink_changelist", "concentrators.view_uplink"
_DEADLINES = "admin:deadlines", SEE_DEADLINES
_DIFFERENCES = "admin:register_differences", "meters.view_reading"
_WHOLE = {  # lists without a filter for the subject
    Condition.KEYS_WORN: [("Device keys", ("admin:keys", "keyvault.view_devicekey"))],
    Condition.AGREEMENT_KEY_IN_USE: [
        ("Agreement keys", ("admin:enrolment", "keyvault.view_devicekey")),
        ("Rotation waves", ("admin:waves", "concentrators.view_rotationwave")),
    ],
    Condition.AUTHORITY_EXPIRES: [("Authorities", ("admin:enrolment", "keyvault.view_devicekey"))],
    Condition.ROTATION_STALLED: [
        ("Rotation waves", ("admin:waves", "concentrators.view_rotationwave")),
        ("Master key", ("admin:master-key", "keyvault.view_masterkeyrotation")),
    ],
    Condition.MASTER_KEY_DOWN: [("Master key", ("admin:master-key", "keyvault.view_masterkeyrotation"))],
    Condition.AUDIT_BROKEN: [("Audit chain", ("admin:audit", "keyvault.view_auditrecord"))],
    Condition.QUEUE_LAG: [("Uplinks", _UPLINKS)],
    Condition.COMPONENT_DOWN: [("Health of components", ("admin:index", SEE_COMPONENTS))],
}
_SUBJECTS = {
    SubjectKind.METER: ("admin:meter", "meters.view_meter"),
    SubjectKind.CONCENTRATOR: ("admin:concentrator", "concentrators.view_concentrator"),
    SubjectKind.WAVE: ("admin:wave", "concentrators.view_rotationwave"),
}


def subject_link(alert: Alert) -> Link | None:
    """Return the link to the page of an alert's subject, if it has one."""
    page = _SUBJECTS.get(SubjectKind(alert.subject_kind))
    return Link(alert.subject, reverse(page[0], args=[alert.subject_id]), page[1]) if page else None


def links(alert: Alert) -> list[Link]:
    """Return the links of an alert: its subject or list of subjects, and the lists of rows behind it."""
    subject = subject_link(alert) or _subjects_link(alert)
    return [*([subject] if subject else []), *_rows(alert)]


def _subjects_link(alert: Alert) -> Link | None:
    kinds = GatheredSubjects.objects.filter(alert=alert).values_list("kind", flat=True)
    kind = next(iter(kinds), None)
    return Link(f"The {alert.subject}", subjects_url(alert), RIGHTS[SubjectKind(kind)]) if kind else None


def _rows(alert: Alert) -> list[Link]:
    is_one = subject_link(alert) is not None
    of_subject: dict[str, str | int] = {f"{alert.subject_kind}__id__exact": alert.subject_id} if is_one else {}
    named = {alert.subject_kind: alert.subject} if is_one else {}
    begins = max(alert.opened_at, clock.EARLIEST) - timedelta(minutes=alert.rule.period_minutes or 0)
    since = as_filters(begins.replace(second=0))
    match Condition(alert.rule.condition):
        case Condition.KIND_SEEN:
            chosen = failures_url(**named, kind=alert.rule.selector, **since)
            return [Link("Failures of this kind", chosen, SEE)]
        case Condition.FAILURE_RATE:
            return [Link("Failures", failures_url(**named, **since), SEE), _list("Uplinks", _UPLINKS, **of_subject)]
        case Condition.METER_EVENT:
            chosen = events_url(**named, **_of_events(alert.rule.selector), **since)
            return [Link("Events that it counted", chosen, SEE_EVENTS)]
        case Condition.OUTAGE:
            page = reverse("admin:outage", args=[alert.subject_id]) if is_one else reverse("admin:outages")
            return [Link("Meters without power", page, SEE_EVENTS)]
        case Condition.SILENT_METER:
            return [Link("Failures", failures_url(**named), SEE)] if is_one else []
        case Condition.SILENT_CONCENTRATOR | Condition.COMPLETENESS:
            return [_list("Uplinks", _UPLINKS, **of_subject)] if is_one else []
        case Condition.READ_DEADLINE:
            group = {} if alert.rule.group is None else {"group": str(alert.rule.group)}
            return [_list("The day and those before", _DEADLINES, **group)]
        case Condition.REGISTERS_DIFFER:
            group = {} if alert.rule.group is None else {"group": str(alert.rule.group)}
            return [_list("Open differences", _DIFFERENCES, **group, state="open", **since)]
        case condition:
            return [_list(*page) for page in _WHOLE.get(condition, ())]


def _of_events(selector: str) -> dict[str, str]:
    """Return the filters of the list of events for what a rule counts: a log, a code or a severity."""
    if selector in (STANDARD_LOG, FRAUD_LOG):
        return {"log": selector}
    return {"code": selector} if "/" in selector else {"severity": selector}


def _list(text: str, page: tuple[str, str], **query: str | int) -> Link:
    name, permission = page
    return Link(text, reverse(name) + (f"?{urlencode(query)}" if query else ""), permission)
