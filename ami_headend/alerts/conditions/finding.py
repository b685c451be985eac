"""What a condition found wrong."""

from collections.abc import Sequence
from typing import NamedTuple

from ami_headend.alerts.models import SubjectKind

SUBJECTS_MAX = 20  # of one rule with an alert each; more at once are one alert
SUBJECTS_KEPT = 50_000  # of an alert for very many: so many are listed


class Finding(NamedTuple):
    """One subject of which a condition holds."""

    kind: SubjectKind
    id: int
    subject: str
    summary: str
    subjects: int = 1


class Findings(NamedTuple):
    """How many subjects the condition holds of, and SUBJECTS_KEPT of them at most: those with an open alert first."""

    total: int
    listed: list[Finding]


def few(listed: Sequence[Finding]) -> Findings:
    """Findings that are all of them."""
    return Findings(len(listed), list(listed))


NOTHING = Findings(0, [])
