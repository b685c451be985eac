"""Evaluates the rules: opens, continues and ends alerts. reminders_store.py settles the messages.

Each rule is evaluated in its own transaction with a fixed number of statements. If one fails, its alerts stay as they
are, the error is stored, and the other rules go on. Only one evaluation runs at a time.
"""

import logging
import time
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from django.db import transaction

from ami_headend.alerts import high_water_marks, reminders_store
from ami_headend.alerts.conditions import SEARCHES
from ami_headend.alerts.conditions.finding import SUBJECTS_MAX, Finding, Findings
from ami_headend.alerts.models import Alert, AlertStep, Condition, GatheredSubjects, Rule, Step, SubjectKind
from ami_headend.core import clock, locks
from ami_headend.core.sql import fetch_rows

logger = logging.getLogger(__name__)

_RESTS = 20  # the pause after a costly rule, as a multiple of the time it took

_FOUND = ("severity", "subject", "summary", "subjects")
_LISTED_KINDS = (SubjectKind.METER, SubjectKind.CONCENTRATOR)

_Key = tuple[str, int]
_GATHERED: _Key = (SubjectKind.FLEET.value, 0)  # the alert that many subjects of a rule share


def evaluate(now: datetime) -> set[int]:
    """Evaluate every enabled rule that is due; return the channels that have something to send.

    Do nothing while another evaluation runs.
    """
    channels: set[int] = set()
    for rule_id in Rule.objects.filter(is_enabled=True).order_by("pk").values_list("pk", flat=True):
        with transaction.atomic():
            if not fetch_rows("SELECT pg_try_advisory_xact_lock(%s)", locks.ALERTS)[0][0]:
                return channels
            high_water_marks.mark(now)
            rule = Rule.objects.select_for_update(no_key=True).get(pk=rule_id)
            if rule.is_enabled and is_due(rule, now):
                channels |= _evaluate(rule, now)
    return channels


def is_due(rule: Rule, now: datetime) -> bool:
    """Whether the pause of a rule is over: the one of its condition, and one in proportion to its cost."""
    rest = max(
        timedelta(seconds=SEARCHES[Condition(rule.condition)].rests_s), timedelta(milliseconds=_RESTS * rule.took_ms)
    )
    return clock.has_rested(rule.evaluated_at, rest, now)


def end_alerts(rule: Rule, now: datetime, actor: str) -> set[int]:
    """End the open alerts of a rule that is switched off; return the channels to notify."""
    standing = _open(rule)
    _resolve(standing, now, actor, f"{rule} was switched off")
    return reminders_store.settle_all(standing, now)


def _evaluate(rule: Rule, now: datetime) -> set[int]:
    started = time.monotonic()
    standing = {(alert.subject_kind, alert.subject_id): alert for alert in _open(rule)}
    rule.evaluated_at, rule.last_error = now, ""
    channels: set[int] = set()
    try:
        with transaction.atomic():
            search = SEARCHES[Condition(rule.condition)]
            found = search.find(rule, [subject_id for _, subject_id in standing], now)
            channels = _reconcile(rule, found, standing, now)
    except Exception as error:
        logger.exception("the alert rule %s could not be evaluated", rule)
        rule.last_error = f"{type(error).__name__}: {error}".partition("\n")[0][:250]
    rule.took_ms = round(1000 * (time.monotonic() - started))
    rule.save(update_fields=["evaluated_at", "took_ms", "last_error", "marks"])
    return channels


def _open(rule: Rule) -> list[Alert]:
    return _of(rule, Alert.objects.select_for_update(no_key=True).filter(rule=rule, resolved_at=None).order_by("pk"))


def _of(rule: Rule, alerts: Iterable[Alert]) -> list[Alert]:
    """Set the rule of each alert, so that none has to be queried."""
    found = list(alerts)
    for alert in found:
        alert.rule = rule
    return found


def _reconcile(rule: Rule, found: Findings, standing: dict[_Key, Alert], now: datetime) -> set[int]:
    """Update the open alerts of a rule to the findings, and the conversations to the alerts."""
    holding = _holding(rule, found, standing)
    going_on = [alert for key, alert in standing.items() if key in holding]
    for alert in going_on:
        _find_again(alert, holding[alert.subject_kind, alert.subject_id], now)
    Alert.objects.bulk_update(going_on, ["seen_at", *_FOUND])
    over = [alert for key, alert in standing.items() if key not in holding]
    _resolve(over, now)
    begun = _begin(rule, [finding for key, finding in holding.items() if key not in standing], now)
    _keep_subjects(found, [*going_on, *begun])
    return reminders_store.settle_all([*going_on, *over, *begun], now)


def _find_again(alert: Alert, finding: Finding, now: datetime) -> None:
    alert.seen_at, alert.severity = now, alert.rule.severity
    alert.subject, alert.summary, alert.subjects = finding.subject[:120], finding.summary[:250], finding.subjects


def _holding(rule: Rule, found: Findings, standing: dict[_Key, Alert]) -> dict[_Key, Finding]:
    """Return the findings that have or get an alert: each subject, or one shared alert if there are very many.

    With a shared alert, subjects that already have one of their own keep it. It stays shared until there are fewer than
    half as many subjects, so that it does not go back and forth around the limit.
    """
    each = {(finding.kind.value, finding.id): finding for finding in found.listed[:SUBJECTS_MAX]}
    is_gathered = _GATHERED in standing and found.listed and found.listed[0].kind in _LISTED_KINDS
    if found.total <= (SUBJECTS_MAX // 2 if is_gathered else SUBJECTS_MAX):
        return each
    kind = SubjectKind(found.listed[0].kind)
    names = ", ".join(finding.subject for finding in found.listed[:3])
    many = Finding(
        SubjectKind.FLEET,
        0,
        f"{found.total:,} {kind.label}s",
        f"{found.total:,} {kind.label}s at once, among them {names}",
        found.total,
    )
    return {key: finding for key, finding in each.items() if key in standing} | {_GATHERED: many}


def _keep_subjects(found: Findings, alerts: Sequence[Alert]) -> None:
    """Store the subjects of the shared alert."""
    for alert in alerts:
        if (alert.subject_kind, alert.subject_id) == _GATHERED and found.listed[0].kind in _LISTED_KINDS:
            ids = [finding.id for finding in found.listed if finding.kind is found.listed[0].kind]
            GatheredSubjects.objects.update_or_create(alert=alert, defaults={"kind": found.listed[0].kind, "ids": ids})


def _begin(rule: Rule, findings: Sequence[Finding], now: datetime) -> list[Alert]:
    """Open alerts. One that ended within the quiet time, or whose end a receiver has yet to take, continues."""
    if not findings:
        return []
    earlier = _earlier(rule, findings)
    again, new = [], []
    for finding in findings:
        alert = earlier.get((finding.kind.value, finding.id))
        if alert is not None and _goes_on(alert, now):
            alert.resolved_at = alert.acknowledged_at = None
            alert.acknowledged_by = ""
            _find_again(alert, finding, now)
            again.append(alert)
        else:
            new.append(_new(rule, finding, now, alert.snoozed_until if alert else None))
    Alert.objects.bulk_update(again, ["resolved_at", "acknowledged_at", "acknowledged_by", "seen_at", *_FOUND])
    Alert.objects.bulk_create(new)
    steps = [AlertStep(alert=alert, at=now, step=Step.REOPENED, note=alert.summary) for alert in again]
    steps += [AlertStep(alert=alert, at=now, step=Step.OPENED, note=alert.summary) for alert in new]
    AlertStep.objects.bulk_create(steps)
    return [*again, *new]


def _goes_on(alert: Alert, now: datetime) -> bool:
    """Whether an ended alert that begins again is the same alert, so that receivers get both messages in order."""
    if alert.resolved_at is None:
        return False
    return alert.resolved_at > now - reminders_store.quiet_time(alert) or bool(alert.is_awaited)  # type: ignore[attr-defined]


def _earlier(rule: Rule, findings: Sequence[Finding]) -> dict[_Key, Alert]:
    """Return the latest alert of each subject, locked."""
    ids = [finding.id for finding in findings]
    latest = (
        Alert.objects.filter(rule=rule, subject_id__in=ids)
        .order_by("subject_kind", "subject_id", "-id")
        .distinct("subject_kind", "subject_id")
    )
    rows = Alert.objects.select_for_update(no_key=True).filter(pk__in=latest.values("pk")).order_by("pk")
    found = _of(rule, rows.annotate(is_awaited=reminders_store.awaited()))
    return {(alert.subject_kind, alert.subject_id): alert for alert in found}


def _new(rule: Rule, finding: Finding, now: datetime, snoozed_until: datetime | None) -> Alert:
    return Alert(
        rule=rule,
        severity=rule.severity,
        subject_kind=finding.kind,
        subject_id=finding.id,
        subject=finding.subject[:120],
        subjects=finding.subjects,
        summary=finding.summary[:250],
        opened_at=now,
        seen_at=now,
        snoozed_until=snoozed_until if snoozed_until and snoozed_until > now else None,
    )


def _resolve(ended: Sequence[Alert], now: datetime, actor: str = "", note: str = "") -> None:
    for alert in ended:
        alert.resolved_at = now
    Alert.objects.bulk_update(ended, ["resolved_at"])
    AlertStep.objects.bulk_create(
        AlertStep(alert=alert, at=now, step=Step.RESOLVED, actor=actor, note=note) for alert in ended
    )
