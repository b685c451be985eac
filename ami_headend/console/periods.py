"""Days, weeks and months in the viewer's zone: a day has 23, 24 or 25 hours."""

from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import NamedTuple

from django.utils import timezone

KINDS = ("day", "week", "month")


class ShownPeriod(NamedTuple):
    """A day, week (from Monday) or month: [start, end), and the first days of its neighbours."""

    kind: str
    first_day: date
    start: datetime
    end: datetime
    previous: date
    following: date

    @property
    def days(self) -> list[date]:
        """Return its days."""
        return [self.first_day + timedelta(days=n) for n in range((self.following - self.first_day).days)]

    @property
    def name(self) -> str:
        """The period in words."""
        if self.kind == "day":
            return f"{self.first_day:%A} {self.first_day.day} {self.first_day:%B %Y}"
        if self.kind == "month":
            return f"{self.first_day:%B %Y}"
        last = self.following - timedelta(days=1)
        return f"{self.first_day.day} {self.first_day:%B} to {last.day} {last:%B %Y}"


def period_of(kind: str, day: date) -> ShownPeriod:
    """Return the day, week or month that contains a day, in the active zone."""
    if kind == "month":
        first = day.replace(day=1)
        following = (first + timedelta(days=32)).replace(day=1)
        previous = (first - timedelta(days=1)).replace(day=1)
    else:
        length = timedelta(days=7 if kind == "week" else 1)
        first = day - timedelta(days=day.weekday()) if kind == "week" else day
        previous, following = first - length, first + length
    return ShownPeriod(kind, first, midnight(first), midnight(following), previous, following)


def midnight(day: date) -> datetime:
    """Return the start of a day of the active zone in UTC, so that adding hours adds elapsed time, not clock time."""
    return datetime.combine(day, time.min, tzinfo=timezone.get_current_timezone()).astimezone(UTC)


def as_filters(start: datetime | None = None, end: datetime | None = None) -> dict[str, str]:
    """Return a period as the filters of pages have it (``FilterForm``), in the active zone."""
    given = {"from": start, "to": end}
    return {name: _local(at) for name, at in given.items() if at is not None}


def _local(at: datetime) -> str:
    local = timezone.localtime(at).replace(tzinfo=None)
    return local.isoformat(timespec="seconds" if local.second else "minutes")


def day_of(at: datetime) -> date:
    """Return the day of the active zone that contains a time."""
    return timezone.localtime(at).date()


def marks(kind: str, times: Sequence[datetime]) -> list[int]:
    """Return the indexes of times to mark on an axis: each third hour, each day, or each fifth day."""
    found = []
    for number, at in enumerate(map(timezone.localtime, times)):
        if at.minute or at.second:
            continue
        is_third_hour = kind == "day" and at.hour % 3 == 0
        is_day = kind != "day" and at.hour == 0 and (kind == "week" or at.day % 5 == 1)
        if is_third_hour or is_day:
            found.append(number)
    return found


def labels(times: Sequence[datetime], pattern: str) -> list[str]:
    """Write times of the active zone as labels; where clocks were set back, the zone's name tells equal hours apart."""
    local = [timezone.localtime(at) for at in times]
    written = [at.strftime(pattern) for at in local]
    twice = {text for text, at in zip(written, local, strict=True) if at.fold}
    return [f"{text} {at.tzname()}" if text in twice else text for text, at in zip(written, local, strict=True)]
