"""Date-times of 12 octets, as meters write them, in all dialects (IEC 62056-6-2; Green Book section 4.1.6.1). Pure."""

from datetime import UTC, datetime, timedelta, timezone, tzinfo
from functools import lru_cache
from typing import NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

OCTETS = 12
_UNSPECIFIED_DEVIATION = -0x8000
_DAYLIGHT_SAVING, _INVALID, _UNSPECIFIED_STATUS = 0x80, 0x01, 0xFF
_LONGEST_DEVIATION = 840  # minutes: no zone is further from UTC than 14 hours
_DEVIATION_STEP = 15
_DOUBLED = {True: 0, False: 1}  # daylight saving is the first of two equal hours


class ClockError(ValueError):
    """A date-time that names no instant, by the rules of its profile."""


class ClockRules(NamedTuple):
    """How to read the date-times of a meter.

    ``is_reversed``: UTC = local - deviation, against the standard. ``zone`` (an IANA name, or ``fixed+60`` in minutes
    east) holds where the deviation is not specified; where it is, it must be one that the zone has at that time.
    ``refuses_invalid``: status bit 01 says that the clock is invalid.
    """

    is_reversed: bool = False
    zone: str = ""
    refuses_invalid: bool = True


# Of clocks that say how far they are from UTC, and of others.
_ANY_CLOCK = (ClockRules(refuses_invalid=False), ClockRules(zone="UTC", refuses_invalid=False))


def zone_of(name: str) -> tzinfo:
    """The zone of an IANA name, or of ``fixed+60``; ClockError where there is none."""
    if name.startswith("fixed"):
        try:
            minutes = int(name[len("fixed") :])
        except ValueError:
            minutes = _LONGEST_DEVIATION + 1
        if abs(minutes) > _LONGEST_DEVIATION:
            raise ClockError(f"{name[:40]!r} is no zone of the form fixed+60")
        return timezone(timedelta(minutes=minutes))
    return _iana(name)


@lru_cache(maxsize=64)
def _iana(name: str) -> tzinfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ClockError(f"there is no zone {name[:60]!r}") from None


def unix_second(octets: bytes, rules: ClockRules) -> int:
    """The Unix second that a date-time of 12 octets names; ClockError where it names none.

    Hundredths are left out. Daylight saving in the status settles the doubled hour, and nothing else.
    """
    if len(octets) != OCTETS:
        raise ClockError(f"a date-time has {OCTETS} octets, not {len(octets)}")
    deviation = int.from_bytes(octets[9:11], "big", signed=True)
    status = octets[11]
    if status == _UNSPECIFIED_STATUS:
        status = 0
    if status & _INVALID and rules.refuses_invalid:
        raise ClockError("the meter says that its clock is invalid (status bit 01)")
    try:
        local = datetime(int.from_bytes(octets[:2], "big"), octets[2], octets[3], octets[5], octets[6], octets[7])  # noqa: DTZ001 - of no zone yet
    except ValueError:
        raise ClockError(f"{octets.hex()} names no date and time in full") from None
    if deviation == _UNSPECIFIED_DEVIATION:
        return _of_zone(local, rules, is_daylight_saving=bool(status & _DAYLIGHT_SAVING))
    east = deviation if rules.is_reversed else -deviation
    if abs(east) > _LONGEST_DEVIATION or east % _DEVIATION_STEP:
        raise ClockError(f"no zone is {east} minutes east of UTC")
    try:
        at = local.replace(tzinfo=timezone(timedelta(minutes=east)))
        if rules.zone and at.utcoffset() != at.astimezone(zone_of(rules.zone)).utcoffset():
            raise ClockError(f"the deviation says {east} minutes east of UTC, where {rules.zone} has another one")
        return int(at.timestamp())
    except OverflowError:
        raise ClockError(f"{octets.hex()} is no time that can be counted") from None


def is_date_time(octets: bytes) -> bool:
    """Whether 12 octets name a time, whatever zone and status say; a serial number of 12 characters does not."""
    return any(_names_time(octets, rules) for rules in _ANY_CLOCK)


def _names_time(octets: bytes, rules: ClockRules) -> bool:
    try:
        unix_second(octets, rules)
    except ClockError:
        return False
    return True


def _of_zone(local: datetime, rules: ClockRules, *, is_daylight_saving: bool) -> int:
    """The second of a local time in the zone of the rules."""
    if not rules.zone:
        raise ClockError("the deviation from UTC is not specified, and the profile names no zone")
    try:
        at = local.replace(tzinfo=zone_of(rules.zone), fold=_DOUBLED[is_daylight_saving])
        if at.astimezone(UTC).astimezone(at.tzinfo).replace(tzinfo=None) != local:
            raise ClockError(f"there is no {local} in {rules.zone}: daylight saving begins then")
        return int(at.timestamp())
    except OverflowError:
        raise ClockError(f"{local} is no time that can be counted") from None
