"""How one consumer wants its IEC 61968-9 messages: real ones differ, so each subscription has a profile. Pure."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple


class ProfileError(ValueError):
    """A profile that cannot be used; the message says which field, and what it may be."""


class Namespaces(NamedTuple):
    """The XML namespaces of one edition of the standard."""

    message: str
    readings: str
    events: str


NAMESPACES = {
    2011: Namespaces(
        "http://iec.ch/TC57/2011/schema/message",
        "http://iec.ch/TC57/2011/MeterReadings#",
        "http://iec.ch/TC57/2011/EndDeviceEvents#",
    ),
    2009: Namespaces(
        "http://www.iec.ch/TC57/2008/schema/message",
        "http://iec.ch/TC57/2009/MeterReadings#",
        "http://iec.ch/TC57/2009/EndDeviceEvents#",
    ),
}
_CHOICES: Mapping[str, tuple[Any, ...]] = {
    "year": tuple(NAMESPACES),
    "meter": ("mrid", "names"),
    "interval_time": ("end", "start"),
    "energy": ("Wh", "kWh"),
    "unmapped": ("obis", "omit"),
}
READINGS_MAX = 10_000
_SOURCE_LENGTH = 64


@dataclass(frozen=True)
class Profile:
    """The settings of one consumer; each has a usual value."""

    year: int = 2011  # of the namespaces
    meter: str = "mrid"  # a meter's system title as mRID, or among its Names
    interval_time: str = "end"  # what timeStamp is of the reading of an interval
    energy: str = "Wh"  # or kWh: ReadingTypes of energies then have multiplier 3
    readings_per_message: int = 1_000
    unmapped: str = "obis"  # a register without ReadingType: its OBIS code as ref, or left out
    source: str = "ami-headend"  # the sender's name in the header
    revision: str = "2.0"
    context: str = ""  # such as PRODUCTION; empty: left out


def parse_profile(given: Mapping[str, Any]) -> Profile:
    """Return the profile that these settings say, with usual values for the others; ProfileError."""
    known: dict[str, type] = {field.name: type(field.default) for field in fields(Profile)}
    for name, value in given.items():
        if name not in known:
            raise ProfileError(f"{str(name)[:40]!r} is no setting of a profile; they are {', '.join(known)}")
        choices = _CHOICES.get(name)
        if choices is not None and (isinstance(value, bool) or value not in choices):
            raise ProfileError(f"{name} is one of {', '.join(map(str, choices))}, not {str(value)[:40]!r}")
        if type(value) is not known[name]:
            raise ProfileError(f"{name} is a {'number' if known[name] is int else 'text'}, not {str(value)[:40]!r}")
    profile = Profile(**given)
    if not 1 <= profile.readings_per_message <= READINGS_MAX:
        raise ProfileError(f"readings_per_message is 1 to {READINGS_MAX:,}, not {profile.readings_per_message:,}")
    for name in ("source", "revision", "context"):
        if not _is_short_line(getattr(profile, name), may_be_empty=name == "context"):
            raise ProfileError(f"{name} is a line of at most {_SOURCE_LENGTH} characters")
    return profile


def written(profile: Profile) -> dict[str, Any]:
    """Return all settings of a profile, as ``parse_profile`` reads them."""
    return asdict(profile)


def _is_short_line(text: str, *, may_be_empty: bool) -> bool:
    return len(text) <= _SOURCE_LENGTH and text.isprintable() and (may_be_empty or bool(text.strip()))
