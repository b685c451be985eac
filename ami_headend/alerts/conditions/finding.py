"""What conditions find."""

from collections.abc import Sequence
from typing import NamedTuple

from ami_headend.alerts.models import SubjectKind

SUBJECTS_MAX = 20  # subjects of one rule with an alert each; more at once share one alert
SUBJECTS_KEPT = 50_000  # subjects listed for an alert that many share


class Finding(NamedTuple):
    """One subject for which a condition holds."""

    kind: SubjectKind
    id: int
    subject: str
    summary: str
    subjects: int = 1


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
