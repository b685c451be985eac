"""OBIS codes (IEC 62056-6-1), and the registers that every head-end has. Pure."""

import re
from enum import StrEnum
from typing import NamedTuple

_OBIS = re.compile(r"(\d{1,3})-(\d{1,3}):(\d{1,3})\.(\d{1,3})\.(\d{1,3})", re.ASCII)


class ObisError(ValueError):
    """Not an OBIS code A-B:C.D.E in shortest decimal form. The caller's mistake, or the meter's."""


class RegisterKind(StrEnum):
    """How to read the values of a register."""

    CUMULATIVE = "cumulative"  # a register that only counts up; the time is that of the reading
    INTERVAL = "interval"  # the energy of one interval; the time is the interval's start
    INSTANTANEOUS = "instantaneous"
    EVENT = "event"  # becomes a meter event, not a reading


class ObisCode(NamedTuple):
    """The value groups A to E, 0..255 each. Group F (billing) is left out, because SenML names forbid ``*``."""

    a: int
    b: int
    c: int
    d: int
    e: int

    def __str__(self) -> str:
        return f"{self.a}-{self.b}:{self.c}.{self.d}.{self.e}"


class StandardRegister(NamedTuple):
    """A register of the catalogue; ``scaler`` is DLMS's: one step is 10^scaler units."""

    obis_code: str
    kind: RegisterKind
    unit: str
    scaler: int
    name: str


def parse_obis(text: str) -> ObisCode:
    """Return the value groups of ``1-0:1.8.0``; ObisError if the text has another form or a group is over 255."""
    match = _OBIS.fullmatch(text)
    if match is None:
        raise ObisError(f"{text!r} is not an OBIS code of the form A-B:C.D.E")
    code = ObisCode(*map(int, match.groups()))
    if max(code) > 255 or str(code) != text:
        raise ObisError(f"{text!r} has a value group over 255 or with leading zeros")
    return code


COMMAND_DONE, COMMAND_REFUSED, COMMAND_LATE = "0-0:96.13.0", "0-0:96.13.1", "0-0:96.13.2"
LOAD_PROFILE = "1-0:1.29.0"  # every meter reports it; completeness and gaps refer to it
STANDARD_LOG, FRAUD_LOG = "0-0:96.11.0", "0-0:96.11.1"
_C, _I, _N, _E = RegisterKind.CUMULATIVE, RegisterKind.INTERVAL, RegisterKind.INSTANTANEOUS, RegisterKind.EVENT
STANDARD_REGISTERS = [
    StandardRegister("1-0:1.8.0", _C, "Wh", 0, "Active energy import"),
    StandardRegister("1-0:1.8.1", _C, "Wh", 0, "Active energy import, rate 1"),
    StandardRegister("1-0:1.8.2", _C, "Wh", 0, "Active energy import, rate 2"),
    StandardRegister("1-0:2.8.0", _C, "Wh", 0, "Active energy export"),
    StandardRegister("1-0:2.8.1", _C, "Wh", 0, "Active energy export, rate 1"),
    StandardRegister("1-0:2.8.2", _C, "Wh", 0, "Active energy export, rate 2"),
    StandardRegister("1-0:3.8.0", _C, "varh", 0, "Reactive energy import"),
    StandardRegister("1-0:4.8.0", _C, "varh", 0, "Reactive energy export"),
    StandardRegister(LOAD_PROFILE, _I, "Wh", 0, "Active energy import of one interval"),
    StandardRegister("1-0:2.29.0", _I, "Wh", 0, "Active energy export of one interval"),
    StandardRegister("1-0:3.29.0", _I, "varh", 0, "Reactive energy import of one interval"),
    StandardRegister("1-0:4.29.0", _I, "varh", 0, "Reactive energy export of one interval"),
    StandardRegister("1-0:1.7.0", _N, "W", 0, "Active power import"),
    StandardRegister("1-0:2.7.0", _N, "W", 0, "Active power export"),
    StandardRegister("1-0:13.7.0", _N, "/", -3, "Power factor"),
    StandardRegister("1-0:14.7.0", _N, "Hz", -2, "Supply frequency"),
    StandardRegister("1-0:31.7.0", _N, "A", -2, "Current L1"),
    StandardRegister("1-0:32.7.0", _N, "V", -1, "Voltage L1"),
    StandardRegister("1-0:51.7.0", _N, "A", -2, "Current L2"),
    StandardRegister("1-0:52.7.0", _N, "V", -1, "Voltage L2"),
    StandardRegister("1-0:71.7.0", _N, "A", -2, "Current L3"),
    StandardRegister("1-0:72.7.0", _N, "V", -1, "Voltage L3"),
    StandardRegister(STANDARD_LOG, _E, "count", 0, "Standard event log: outage, clock set"),
    StandardRegister(FRAUD_LOG, _E, "count", 0, "Fraud event log: tamper, cover opened, magnet"),
    StandardRegister(COMMAND_DONE, _E, "count", 0, "Command done: its number"),
    StandardRegister(COMMAND_REFUSED, _E, "count", 0, "Command refused: its number"),
    StandardRegister(COMMAND_LATE, _E, "count", 0, "Command came too late: its number"),
]
