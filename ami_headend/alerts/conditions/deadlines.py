"""The condition about deadlines of readings."""

from collections.abc import Sequence
from datetime import datetime

from ami_headend.alerts.conditions.finding import NOTHING, SUBJECTS_KEPT, Finding, Findings, few
from ami_headend.alerts.models import Rule, SubjectKind
from ami_headend.alerts.parameters import EACH
from concentrators.fleet import groups
from concentrators.models import ReadDay
from concentrators.totals import read_deadlines, read_success
from concentrators.totals.read_deadlines import DayStatus
from concentrators.totals.read_success import Success


def read_deadline(rule: Rule, open_ids: Sequence[int], now: datetime) -> Findings:
    """Find whether the newest counted day of any deadline missed its target.

    Over all concentrators together or those of the rule's group; or, as its selector says, which of them did.
    """
    days = read_success.newest_days(now)
    mine = None if rule.group_id is None else groups.concentrator_ids([rule.group_id])
    if not days:
        return NOTHING
    return _each(days, mine, open_ids) if rule.selector == EACH else _together(rule, days, mine)


def _together(rule: Rule, days: Sequence[ReadDay], mine: Sequence[int] | None) -> Findings:
    counted = {day.pk: Success(day.expected, day.in_time, day.late) for day in days}
    if mine is not None:
        counted = read_success.sums(days, mine)
    texts = [_said(day, counted[day.pk]) for day in days if _is_missed(day, counted[day.pk])]
    if not texts:
        return NOTHING
    named = "deadlines of readings" + (f", {rule.group}" if rule.group is not None else "")
    return few([Finding(SubjectKind.FLEET, 0, named, "; ".join(texts)[:250], len(texts))])


def _each(days: Sequence[ReadDay], mine: Sequence[int] | None, open_ids: Sequence[int]) -> Findings:
    found: dict[int, Finding] = {}
    for share in read_success.missed_shares(days, mine):
        said = _said(share.of_day, Success(share.expected, share.in_time, share.late))
        before = found.get(share.concentrator_id)
        text = said if before is None else f"{before.summary}; {said}"[:250]
        found[share.concentrator_id] = Finding(
            SubjectKind.CONCENTRATOR, share.concentrator_id, share.concentrator.name, text
        )
    listed = sorted(found.values(), key=lambda one: (one.id not in open_ids, one.id))
    return Findings(len(listed), listed[:SUBJECTS_KEPT])


def _is_missed(day: ReadDay, counted: Success) -> bool:
    return read_deadlines.status(counted.expected, counted.in_time, day.target_percent) is DayStatus.MISSED


def _said(day: ReadDay, counted: Success) -> str:
    return (
        f"{day.deadline}: {100 * counted.in_time / counted.expected:.1f} % of {day.day:%Y-%m-%d}"
        f" by {day.due_at:%Y-%m-%d %H:%M} UTC, the target is {day.target_percent.normalize():f} %"
    )
