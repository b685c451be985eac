"""Health of the head-end's components, as a worker found it; a recent answer shows that schedule and workers run."""

from datetime import datetime, timedelta

from ami_headend import cached_answers
from ami_headend.cached_answers import Question
from ami_headend.console.formatting import duration
from ami_headend.core import clock
from ami_headend.health import doctor
from ami_headend.health.doctor import CheckResult
from ami_headend.models import KeptAnswer

SEE_COMPONENTS = "ami_headend.view_components"
_STALE_AFTER = timedelta(minutes=3)
_SCHEDULE = "schedule and workers"


def _look(now: datetime) -> list[CheckResult]:
    return doctor.examine()


COMPONENTS = Question("components", _look, list[CheckResult])


def look(now: datetime) -> None:
    """Check everything and store the findings; the schedule lets a worker do this."""
    cached_answers.keep(COMPONENTS, now)


def components(now: datetime) -> list[CheckResult]:
    """Return what a worker found; if that is too old, what this process finds by itself."""
    row = KeptAnswer.objects.filter(name=COMPONENTS.name).first()
    found = None if row is None else cached_answers.read(COMPONENTS, row)
    if row is None or found is None or not clock.is_within(row.taken_at, _STALE_AFTER, now):
        since = "" if row is None else f" for {duration(clock.age_s(row.taken_at, now))}"
        to_do = "Start celery beat and a worker (make up starts both); nothing is verified without a worker."
        return [CheckResult(_SCHEDULE, False, f"no sign{since}", to_do), doctor.broker()]
    age = duration(clock.age_s(row.taken_at, now))
    return [CheckResult(_SCHEDULE, True, f"all this was checked {age} ago"), *found]
