"""What the codes of the standard and the fraud log mean: names, severities and EndDeviceEventTypes. Pure.

The numbers are those of the IDIS package (0.0.96.11.0.255 and 0.0.96.11.1.255), as two public head-ends (Connexo,
AiMiR) have them. A public meter firmware agrees in 1 to 6, 40 to 46, 49, 50, 60 to 64 and 76 to 89, and has others for
7 to 25. EndDeviceEventTypes (IEC 61968-9: device type, domain, subdomain, event or action; device type 3 is an
electricity meter) are those that Connexo, AiMiR and Silver Spring's UIQ use. They differ by vendor, which is
why a site may override each of them. ``is_verified`` is false where a number or a type was seen nowhere, or only once.
"""

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple

from meters.codes.severity import Severity
from meters.readings.obis import COMMAND_DONE, COMMAND_LATE, COMMAND_REFUSED, FRAUD_LOG, STANDARD_LOG

_TYPE = re.compile(r"\d{1,4}(\.\d{1,4}){3}", re.ASCII)
_UNKNOWN_TYPE = "3.0.0.0"
NAME_LENGTH = 120


class Outage(StrEnum):
    """What an event says about the supply of its meter."""

    NOTHING = ""
    BEGINS = "begins"
    ENDS = "ends"


class CodeKey(NamedTuple):
    """A code in a log: the OBIS code of the register of events, and the value."""

    log: str
    code: int

    def __str__(self) -> str:
        return f"{self.log}/{self.code}"


class EventMeaning(NamedTuple):
    """What a code means. ``type`` is the EndDeviceEventType, four numbers with dots."""

    name: str
    severity: Severity
    type: str = _UNKNOWN_TYPE
    outage: Outage = Outage.NOTHING
    is_verified: bool = True


_I, _W, _C = Severity.INFO, Severity.WARNING, Severity.CRITICAL
_STANDARD = {
    1: EventMeaning("power down", _W, "3.26.9.185", Outage.BEGINS),
    2: EventMeaning("power up", _I, "3.26.9.216", Outage.ENDS),
    3: EventMeaning("daylight saving time began or ended", _I, "3.36.56.24"),
    4: EventMeaning("clock adjusted, time before", _I, "3.36.116.14"),
    5: EventMeaning("clock adjusted, time after", _I, "3.36.116.24"),
    6: EventMeaning("clock invalid", _W, "3.36.43.35"),
    7: EventMeaning("battery must be replaced", _W, "3.2.0.150"),
    8: EventMeaning("battery voltage low", _W, "3.2.22.150"),
    9: EventMeaning("tariff times activated", _I, "3.20.121.4"),
    10: EventMeaning("error register cleared", _I, "3.17.89.28"),
    11: EventMeaning("alarm register cleared", _I, "3.17.285.28"),
    12: EventMeaning("program memory error", _C, "3.18.83.79"),
    13: EventMeaning("RAM error", _C, "3.18.85.79"),
    14: EventMeaning("NV memory error", _C, "3.18.72.79"),
    15: EventMeaning("watchdog error", _W, "3.11.3.79"),
    16: EventMeaning("measurement system error", _C, "3.21.67.79"),
    17: EventMeaning("firmware ready for activation", _I, "3.11.31.25"),
    18: EventMeaning("firmware activated", _I, "3.11.31.4"),
    19: EventMeaning("tariff times programmed", _I, is_verified=False),
    47: EventMeaning("parameters changed", _I, "3.7.31.13"),
    48: EventMeaning("global keys changed", _I, is_verified=False),
    51: EventMeaning("firmware verification failed", _C, is_verified=False),
    59: EventMeaning("disconnector ready for manual reconnection", _I, is_verified=False),
    60: EventMeaning("manual disconnection", _W, "3.31.0.68"),
    61: EventMeaning("manual connection", _I, "3.31.0.42"),
    62: EventMeaning("remote disconnection", _W, "3.31.0.68"),
    63: EventMeaning("remote connection", _I, "3.31.0.42"),
    64: EventMeaning("local disconnection", _W, "3.31.0.68"),
    65: EventMeaning("limiter threshold exceeded", _W, "3.15.261.139"),
    66: EventMeaning("limiter threshold ok", _I, "3.15.261.216"),
    67: EventMeaning("limiter threshold changed", _I, "3.15.261.24"),
    68: EventMeaning("disconnection or reconnection failed", _W, is_verified=False),
    69: EventMeaning("local reconnection", _I, is_verified=False),
    76: EventMeaning("undervoltage L1", _W, "3.26.131.223"),
    77: EventMeaning("undervoltage L2", _W, "3.26.132.223"),
    78: EventMeaning("undervoltage L3", _W, "3.26.133.223"),
    79: EventMeaning("overvoltage L1", _W, "3.26.131.248"),
    80: EventMeaning("overvoltage L2", _W, "3.26.132.248"),
    81: EventMeaning("overvoltage L3", _W, "3.26.133.248"),
    82: EventMeaning("voltage missing L1", _W, "3.26.131.293"),
    83: EventMeaning("voltage missing L2", _W, "3.26.132.293"),
    84: EventMeaning("voltage missing L3", _W, "3.26.133.293"),
    85: EventMeaning("voltage normal L1", _I, "3.26.131.216", is_verified=False),
    86: EventMeaning("voltage normal L2", _I, "3.26.132.216", is_verified=False),
    87: EventMeaning("voltage normal L3", _I, "3.26.133.216", is_verified=False),
    88: EventMeaning("phase sequence reversed", _W, "3.12.17.257", is_verified=False),
    89: EventMeaning("neutral missing", _C, is_verified=False),
    90: EventMeaning("phase asymmetry", _W, is_verified=False),
    91: EventMeaning("current reversed", _W, "3.12.93.219", is_verified=False),
    254: EventMeaning("load profile cleared", _W, "3.16.87.28"),
    255: EventMeaning("event log cleared", _W, "3.17.44.28"),
}
_FRAUD = {
    40: EventMeaning("terminal cover opened", _C, "3.12.128.39"),
    41: EventMeaning("terminal cover closed", _I, "3.12.128.16"),
    42: EventMeaning("strong magnetic field", _C, "3.12.66.242"),
    43: EventMeaning("no strong magnetic field any more", _I, "3.12.66.243"),
    44: EventMeaning("meter cover opened", _C, "3.33.1.44"),
    45: EventMeaning("meter cover closed", _I, "3.33.1.216"),
    46: EventMeaning("wrong password several times", _C, "3.12.24.7"),
    49: EventMeaning("decryption or authentication failed", _C, is_verified=False),
    50: EventMeaning("replay attack", _C, is_verified=False),
    88: EventMeaning("phase sequence reversed", _W, "3.12.17.257", is_verified=False),
    89: EventMeaning("neutral missing", _C, is_verified=False),
    91: EventMeaning("current reversed", _C, "3.12.93.219", is_verified=False),
    255: EventMeaning("fraud log cleared", _C, "3.17.44.28"),
}
_ANSWERS = {COMMAND_DONE: "done", COMMAND_REFUSED: "refused", COMMAND_LATE: "came too late"}  # docs/frame.md section 10
SHIPPED: Mapping[CodeKey, EventMeaning] = {
    **{CodeKey(STANDARD_LOG, code): meaning for code, meaning in _STANDARD.items()},
    **{CodeKey(FRAUD_LOG, code): meaning for code, meaning in _FRAUD.items()},
}


class EventCodes:
    """The meanings of codes: the shipped ones, and those of the site instead."""

    def __init__(self, of_site: Mapping[CodeKey, EventMeaning] | None = None) -> None:
        self.meanings = {**SHIPPED, **(of_site or {})}

    def meaning(self, log: str, code: int) -> EventMeaning:
        """Return what a code of a log means. Without an entry: critical in the fraud log, else info."""
        if log in _ANSWERS:
            return EventMeaning(f"command {code} {_ANSWERS[log]}", _I)
        found = self.meanings.get(CodeKey(log, code))
        return found or EventMeaning(f"code {code}", _C if log == FRAUD_LOG else _I, is_verified=False)

    def of_outage(self, outage: Outage) -> list[CodeKey]:
        """Return the codes that say that an outage begins, or ends."""
        return sorted(key for key, meaning in self.meanings.items() if meaning.outage is outage)

    def at_least(self, severity: Severity) -> list[CodeKey]:
        """Return the codes with an entry of at least a severity."""
        return sorted(key for key, meaning in self.meanings.items() if meaning.severity >= severity)

    def below(self, severity: Severity) -> list[CodeKey]:
        """Return the codes with an entry of less than a severity."""
        return sorted(key for key, meaning in self.meanings.items() if meaning.severity < severity)


def parse_key(text: str) -> CodeKey:
    """Return the log and the code that ``0-0:96.11.0/1`` names; ValueError with what is wrong."""
    log, _, code = text.partition("/")
    if log not in (STANDARD_LOG, FRAUD_LOG):
        raise ValueError(f"{text[:60]!r} names no log: write {STANDARD_LOG}/CODE or {FRAUD_LOG}/CODE")
    if not (code.isascii() and code.isdecimal() and str(int(code)) == code and int(code) < 2**63):
        raise ValueError(f"{text[:60]!r} has no code after the log: a whole number from 0 to 2^63 - 1")
    return CodeKey(log, int(code))


def parse_meaning(value: Mapping[str, object]) -> EventMeaning:
    """Return the meaning that an entry says; ValueError with what is wrong."""
    name, severity = value.get("name"), value.get("severity")
    kind, outage = value.get("type", _UNKNOWN_TYPE), value.get("outage", "")
    if not isinstance(name, str) or not name.strip() or len(name) > NAME_LENGTH or not name.isprintable():
        raise ValueError(f"name: a line of 1 to {NAME_LENGTH} characters")
    if severity not in [one.label for one in Severity]:
        raise ValueError(f"severity: one of {', '.join(one.label for one in Severity)}")
    if not isinstance(kind, str) or not _TYPE.fullmatch(kind):
        raise ValueError("type: an EndDeviceEventType of four numbers with dots, such as 3.26.9.185")
    if outage not in list(Outage):
        raise ValueError("outage: begins, ends, or empty")
    return EventMeaning(name.strip(), Severity[str(severity).upper()], kind, Outage(str(outage)))


def written(meaning: EventMeaning) -> dict[str, str]:
    """Return a meaning as an entry, as ``parse_meaning`` reads it."""
    return {
        "name": meaning.name,
        "severity": meaning.severity.label,
        "type": meaning.type,
        "outage": meaning.outage.value,
    }
