"""The definition of a push profile: which element of a notification is which register. Pure (docs/dlms.md section 3).

A definition is JSON. Nothing that it leaves out is guessed, above all not scaler and unit.
"""

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, NamedTuple

from meters.readings.obis import ObisError, parse_obis
from meters.readings.push.clocks import ClockError, ClockRules, zone_of

_BODY_PLACE = re.compile(r"body\[(\d{1,3})\]")
_LAST_PLACE = 4095
_SCALERS = range(-12, 13)
_LONGEST_S = 86_400
_HIGHEST_RATIO = 1_000_000
# Units of DLMS (IEC 62056-6-2 section 5.2.2) as registers name them (RFC 8428, RFC 8798); the first is shown.
UNITS: dict[int, tuple[str, ...]] = {
    8: ("deg",), 9: ("Cel",), 13: ("m3",), 14: ("m3",), 15: ("m3/h",), 27: ("W",), 28: ("VA",), 29: ("var",),
    30: ("Wh",), 31: ("VAh",), 32: ("varh",), 33: ("A",), 35: ("V",), 44: ("Hz",), 255: ("count", "/"),
}  # fmt: skip


class ProfileError(ValueError):
    """A definition that is invalid or does not fit its sample: a mistake of the person who registers it."""


class Kind(StrEnum):
    """How a notification shows which value belongs to which register."""

    OBIS = "obis"  # each value follows its OBIS code
    PUSHLIST = "pushlist"  # the first element lists what the others are
    POSITIONAL = "positional"  # by their places alone
    PROFILE_BUFFER = "profile_buffer"  # rows of a load profile
    COMPACT = "compact"  # rows of a compact array, or of an array of deltas
    P1 = "p1"  # a telegram of text


ROWS = frozenset((Kind.PROFILE_BUFFER, Kind.COMPACT))


class Role(StrEnum):
    VALUE = "value"
    IGNORED = "ignore"
    CLOCK = "clock"  # of a row
    SYSTEM_TITLE = "system_title"  # must be the meter's own
    DEVICE_ID = "device_id"  # must be the meter's serial number


_NAMED_ROLES = tuple(role.value for role in Role if role is not Role.IGNORED)


class Column(NamedTuple):
    """The meaning of an element: ``obis`` is the register; ``scaler`` and ``unit`` apply if the frame has none."""

    role: Role
    obis: str = ""
    scaler: int | None = None
    unit: str = ""


class Definition(NamedTuple):
    """A checked definition. ``by_place`` and ``by_obis`` have its columns by place or OBIS code in the notification.

    ``clock_from`` is "apdu", a place in the body, or an OBIS code. ``period_s`` is between rows; ``thin_s`` and
    ``push_s``: of notifications every ``push_s`` one in ``thin_s`` is stored. ``interval_ends`` says whether times of
    interval registers are ends; None: they are refused.
    """

    kind: Kind
    clock_from: str | int
    clock: ClockRules
    by_place: Mapping[int, Column]
    by_obis: Mapping[str, Column]
    voltage_ratio: int
    current_ratio: int
    period_s: int
    thin_s: int
    push_s: int
    interval_ends: bool | None

    def factor(self, unit: str) -> int:
        """Return the factor for values of a unit: the ratios of the transformers before the meter."""
        match unit:
            case "V":
                return self.voltage_ratio
            case "A":
                return self.current_ratio
            case "W" | "VA" | "var" | "Wh" | "VAh" | "varh":
                return self.voltage_ratio * self.current_ratio
            case _:
                return 1


def parse_definition(said: object) -> Definition:
    """Check a definition from JSON; ProfileError names the first mistake."""
    told = _object(said, "a definition", {"kind", "clock", "columns", "factor", "period_s", "thin_s", "push_s",
                                          "interval_time"})  # fmt: skip
    try:
        kind = Kind(str(told.get("kind")))
    except ValueError:
        raise ProfileError(f"kind is one of {', '.join(Kind)}") from None
    columns = told.get("columns", [])
    if not isinstance(columns, list):
        raise ProfileError("columns is a list")
    by_place: dict[int, Column] = {}
    by_obis: dict[str, Column] = {}
    for number, one in enumerate(columns):
        _add_column(one, number, kind, by_place, by_obis)
    clock_from, clock = _clock(told.get("clock", {"from": "apdu"}), kind)
    factor = _object(told.get("factor", {}), "factor", {"voltage_ratio", "current_ratio"})
    thin_s, push_s = (_number(told, name, 0, _LONGEST_S, 0) for name in ("thin_s", "push_s"))
    if bool(thin_s) != bool(push_s) or push_s > thin_s:
        raise ProfileError("thin_s and push_s go together: of notifications every push_s seconds one in thin_s is kept")
    interval_time = told.get("interval_time")
    if interval_time not in (None, "start", "end"):
        raise ProfileError("interval_time is start or end: what the times of interval registers are")
    definition = Definition(
        kind,
        clock_from,
        clock,
        by_place,
        by_obis,
        _number(factor, "voltage_ratio", 1, _HIGHEST_RATIO, 1),
        _number(factor, "current_ratio", 1, _HIGHEST_RATIO, 1),
        _number(told, "period_s", 0, _LONGEST_S, 0),
        thin_s,
        push_s,
        None if interval_time is None else interval_time == "end",
    )
    _check_rows(definition)
    return definition


def _check_rows(definition: Definition) -> None:
    has_clock = any(column.role is Role.CLOCK for column in definition.by_place.values())
    if definition.kind not in ROWS:
        if has_clock:
            raise ProfileError("a column can be the clock in rows alone; else clock.from names it")
    elif not has_clock and not definition.period_s:
        raise ProfileError("rows need a column that is the clock, or period_s from the clock of the notification on")


def _add_column(said: object, number: int, kind: Kind, by_place: dict[int, Column], by_obis: dict[str, Column]) -> None:
    where = f"column {number}"
    told = _object(said, where, {"at", "obis", "register", "scaler", "unit", "is", "ignore"})
    scaler, unit = told.get("scaler"), told.get("unit", "")
    if scaler is not None and (type(scaler) is not int or scaler not in _SCALERS):
        raise ProfileError(f"{where}: scaler is a power of ten, {_SCALERS[0]} to {_SCALERS[-1]}")
    if not isinstance(unit, str) or (unit and not any(unit in names for names in UNITS.values())):
        raise ProfileError(f"{where}: unit is one of {', '.join(sorted({name for n in UNITS.values() for name in n}))}")
    if (scaler is None) != (not unit):
        raise ProfileError(f"{where}: scaler and unit go together")
    role = _role(told, where)
    obis = _obis(told.get("obis", ""), where)
    if kind in (Kind.POSITIONAL, *ROWS):
        if role is Role.VALUE and not obis:
            raise ProfileError(f"{where}: obis names the register of the value, or ignore says that it is not wanted")
        _put(by_place, _number(told, "at", 0, _LAST_PLACE, None, where), Column(role, obis, scaler, unit), where)
    elif "at" in told:
        _put(by_place, _number(told, "at", 0, _LAST_PLACE, None, where), Column(role, obis, scaler, unit), where)
    elif not obis:
        raise ProfileError(f"{where}: obis says which value it is of, as the frame names it")
    else:
        register = _obis(told.get("register", obis), where)
        _put(by_obis, obis, Column(role, register, scaler, unit), where)


def _put(columns: dict[Any, Column], place: Any, column: Column, where: str) -> None:
    if place in columns:
        raise ProfileError(f"{where}: {place} has a column already")
    columns[place] = column


def _role(told: Mapping[str, Any], where: str) -> Role:
    ignored, named = told.get("ignore", False), told.get("is", "value")
    if ignored is True and "is" not in told:
        return Role.IGNORED
    if ignored is not False or named not in _NAMED_ROLES:
        raise ProfileError(f"{where}: ignore is true, or is is one of {', '.join(_NAMED_ROLES)}")
    return Role(named)


def _obis(said: object, where: str) -> str:
    if said == "":
        return ""
    try:
        return str(parse_obis(str(said)))
    except ObisError as error:
        raise ProfileError(f"{where}: {error}") from None


def _clock(said: object, kind: Kind) -> tuple[str | int, ClockRules]:
    told = _object(said, "clock", {"from", "deviation", "zone", "invalid_bit"})
    place = told.get("from")
    match = _BODY_PLACE.fullmatch(place) if isinstance(place, str) else None
    if match is not None:
        clock_from: str | int = int(match[1])
    elif place == "apdu" and kind is not Kind.P1:
        clock_from = "apdu"
    else:
        clock_from = _obis(place or "", "clock.from")
        if not clock_from:
            raise ProfileError("clock.from is apdu, body[0] or another place, or the OBIS code of the clock")
    deviation, invalid, zone = (
        told.get("deviation", "standard"),
        told.get("invalid_bit", "refuse"),
        told.get("zone", ""),
    )
    if deviation not in ("standard", "reversed") or invalid not in ("refuse", "keep"):
        raise ProfileError("clock.deviation is standard or reversed, clock.invalid_bit is refuse or keep")
    try:
        if zone:
            zone_of(str(zone))
    except ClockError as error:
        raise ProfileError(f"clock.zone: {error}") from None
    return clock_from, ClockRules(deviation == "reversed", str(zone), invalid == "refuse")


def _object(said: object, what: str, names: set[str]) -> Mapping[str, Any]:
    if not isinstance(said, dict):
        raise ProfileError(f"{what} is an object")
    unknown = sorted(str(name) for name in said if name not in names)
    if unknown:
        raise ProfileError(f"{what} has no {unknown[0][:40]!r}, but {', '.join(sorted(names))}")
    return said


def _number(
    told: Mapping[str, Any], name: str, lowest: int, highest: int, otherwise: int | None, where: str = ""
) -> int:
    value = told.get(name, otherwise)
    if type(value) is not int or not lowest <= value <= highest:
        raise ProfileError(f"{f'{where}: ' * bool(where)}{name} is a number, {lowest} to {highest}")
    return value
