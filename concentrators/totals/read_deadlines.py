"""Deadlines of readings: which instants bound a day of a zone, when its readings are due, and whether enough came.

A day is a civil day of the deadline's zone, so it has 23, 24 or 25 hours. Pure: no database and no clock.
"""

import enum
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import NamedTuple
from zoneinfo import ZoneInfo

_DAY = timedelta(days=1)
_NAME_MAX = 64


class DayStatus(enum.StrEnum):
    """Whether the readings of a day were there in time."""

    OPEN = "open"  # not due yet, or not counted yet
    MET = "met"
    MISSED = "missed"
    NOTHING = "nothing expected"


class Terms(NamedTuple):
    """When the readings of a day are due: at a time of day in a zone, some days after; and how many, in percent."""

    zone: ZoneInfo
    due_time: time
    days_after: int
    target_percent: Decimal


def zone_of(name: str) -> ZoneInfo:
    """Return a zone of the IANA database, such as ``Europe/Oslo``; ValueError for any other name."""
    try:
        if 0 < len(name) <= _NAME_MAX:
            return ZoneInfo(name)
    except (ValueError, OSError, KeyError):  # ZoneInfoNotFoundError is a KeyError
        pass
    raise ValueError(f"there is no time zone {name[:_NAME_MAX]!r}: write one of the IANA database, as Europe/Oslo")


def bounds(day: date, zone: ZoneInfo) -> tuple[datetime, datetime]:
    """Return the instants [start, end) of a civil day, in UTC."""
    return _instant(day, time.min, zone), _instant(day + _DAY, time.min, zone)


def due_at(day: date, terms: Terms) -> datetime:
    """Return when the readings of a day are due, in UTC.

    A time of day that clocks skip is as if they had not been set forward; of one that comes twice, the first counts.
    """
    return _instant(day + terms.days_after * _DAY, terms.due_time, terms.zone)


def due_days(terms: Terms, now: datetime, number: int) -> list[date]:
    """Return the newest days whose readings are due, at most ``number``, the newest first."""
    day = now.astimezone(terms.zone).date() - terms.days_after * _DAY
    if due_at(day, terms) > now:
        day -= _DAY
    return [day - n * _DAY for n in range(number)]


def status(expected: int, in_time: int, target_percent: Decimal) -> DayStatus:
    """Return the status of a day that is due and counted: met at exactly the target."""
    if not expected:
        return DayStatus.NOTHING
    return DayStatus.MET if 100 * in_time >= target_percent * expected else DayStatus.MISSED


def _instant(day: date, at: time, zone: ZoneInfo) -> datetime:
    return datetime.combine(day, at, tzinfo=zone).astimezone(UTC)
