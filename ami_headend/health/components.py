"""What was found of the head-end's components, for pages, alerts and metrics: the schedule has a worker look.

Times are those of the database's clock: the hosts that look and that read may disagree about theirs, and say so here.
"""

from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from ami_headend import cached_answers
from ami_headend.cached_answers import Question
from ami_headend.core import clock
from ami_headend.core.sql import select
from ami_headend.health import doctor, host
from ami_headend.health.results import CheckResult

STALE_AFTER = timedelta(minutes=3)
_UNCHECKED = "schedule and workers"


def _look(now: datetime) -> list[CheckResult]:
    return doctor.examine()


COMPONENTS = Question("components", _look, list[CheckResult])


class Standing(NamedTuple):
    """What was found last, and how long ago; no age if nobody has ever looked."""

    results: list[CheckResult]
    age_s: float | None
    is_fresh: bool


def look() -> None:
    """Check everything and store the findings."""
    cached_answers.keep(COMPONENTS, _now())


def standing() -> Standing:
    """Return what was found last. Two statements."""
    now = _now()
    kept = cached_answers.standing([COMPONENTS]).get(COMPONENTS.name)
    if kept is None:
        return Standing([], None, is_fresh=False)
    is_fresh = clock.is_within(kept.taken_at, STALE_AFTER, now)
    return Standing(kept.found, clock.age_s(kept.taken_at, now), is_fresh)


def unchecked(since: str) -> list[CheckResult]:
    """Return what is to be said if nobody has looked lately; ``since`` says for how long."""
    to_do = "Start celery beat and a worker (make up starts both); nothing is verified without a worker."
    return [CheckResult(_UNCHECKED, False, f"no sign{since}", to_do), host.broker()]


def _now() -> datetime:
    return datetime.fromtimestamp(select("SELECT extract(epoch FROM clock_timestamp())::float8")[0][0], UTC)
