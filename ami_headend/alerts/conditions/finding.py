"""What conditions find."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from ami_headend.alerts.models import Rule, SubjectKind
from concentrators.fleet import groups as fleet_groups
from meters.registry import groups

SUBJECTS_MAX = 20  # subjects of one rule with an alert each; more at once share one alert
SUBJECTS_KEPT = 50_000  # subjects listed for an alert that many share


class Finding(NamedTuple):
    """One subject for which a condition holds."""

    kind: SubjectKind
    id: int
    subject: str
    summary: str
    subjects: int = 1


def within(rule: Rule, *, meter: str = "", concentrator: str = "") -> tuple[str, list[Any]]:
    """Return SQL that is true for subjects of the rule's group, or for all, and its parameters.

    ``meter`` and ``concentrator`` are columns with their ids; of two, the meter decides where there is one.
    """
    if rule.group_id is None:
        return "true", []
    of_meters, meter_ids = groups.meter_condition([rule.group_id], meter)
    of_concentrators, concentrator_ids = fleet_groups.concentrator_condition([rule.group_id], concentrator)
    if not concentrator:
        return of_meters, meter_ids
    if not meter:
        return of_concentrators, concentrator_ids
    return f"CASE WHEN {meter} IS NULL THEN {of_concentrators} ELSE {of_meters} END", [*concentrator_ids, *meter_ids]


class Findings(NamedTuple):
    """The number of subjects for which a condition holds, and SUBJECTS_KEPT of them at most, those with open alerts
    first.
    """

    total: int
    listed: list[Finding]


def few(listed: Sequence[Finding]) -> Findings:
    """Return findings that list all their subjects."""
    return Findings(len(listed), list(listed))


NOTHING = Findings(0, [])
