"""The ReadingType (IEC 61968-9 annex C, 18 numbers) of each register. Pure.

Its parts are macroPeriod.aggregate.measuringPeriod.accumulation.flow.commodity.kind.interharmonic (2).argument (2)
.tou.cpp.tier.phases.multiplier.unit.currency. The shipped table is for registers in Wh, varh, W and so on. An entry may
have ``mp`` for the measuring period, which follows from the length of the interval, and ``tou`` for the rate, which is
the value group E of an OBIS code that ends in ``x`` in the table.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

from meters.readings.obis import LOAD_PROFILE, ObisError, parse_obis

PERIOD, RATE = "mp", "tou"
_PARTS = 18
_PERIOD_PART, _RATE_PART, _MULTIPLIER_PART, _UNIT_PART = 2, 11, 15, 16
_KILO = 3
_ENERGIES = (71, 72, 73)  # VAh, Wh, varh
# TimeAttribute by minutes (ESPI 4.0, TimeAttributeKind); other lengths have none.
_PERIODS = {1: 3, 2: 10, 3: 14, 5: 6, 10: 1, 15: 2, 20: 31, 30: 5, 60: 7, 1440: 4}
_PATTERN = re.compile(r"\d{1,3}-\d{1,3}:\d{1,3}\.\d{1,3}\.x", re.ASCII)

# Energies: what TPC, Elering, NetStream and Trilliant use in public; others: code values of ESPI 4.0.
SHIPPED: Mapping[str, str] = {
    "1-0:1.8.0": "0.0.0.1.1.1.12.0.0.0.0.0.0.0.0.0.72.0",
    "1-0:1.8.x": "0.0.0.1.1.1.12.0.0.0.0.tou.0.0.0.0.72.0",
    "1-0:2.8.0": "0.0.0.1.19.1.12.0.0.0.0.0.0.0.0.0.72.0",
    "1-0:2.8.x": "0.0.0.1.19.1.12.0.0.0.0.tou.0.0.0.0.72.0",
    "1-0:3.8.0": "0.0.0.1.2.1.12.0.0.0.0.0.0.0.0.0.73.0",
    "1-0:3.8.x": "0.0.0.1.2.1.12.0.0.0.0.tou.0.0.0.0.73.0",
    "1-0:4.8.0": "0.0.0.1.3.1.12.0.0.0.0.0.0.0.0.0.73.0",
    "1-0:4.8.x": "0.0.0.1.3.1.12.0.0.0.0.tou.0.0.0.0.73.0",
    LOAD_PROFILE: "0.0.mp.4.1.1.12.0.0.0.0.0.0.0.0.0.72.0",
    "1-0:2.29.0": "0.0.mp.4.19.1.12.0.0.0.0.0.0.0.0.0.72.0",
    "1-0:3.29.0": "0.0.mp.4.2.1.12.0.0.0.0.0.0.0.0.0.73.0",
    "1-0:4.29.0": "0.0.mp.4.3.1.12.0.0.0.0.0.0.0.0.0.73.0",
    "1-0:1.7.0": "0.0.0.12.1.1.37.0.0.0.0.0.0.0.0.0.38.0",
    "1-0:2.7.0": "0.0.0.12.19.1.37.0.0.0.0.0.0.0.0.0.38.0",
    "1-0:13.7.0": "0.0.0.12.0.1.38.0.0.0.0.0.0.0.0.0.65.0",
    "1-0:14.7.0": "0.0.0.12.0.1.15.0.0.0.0.0.0.0.0.0.33.0",
    "1-0:31.7.0": "0.0.0.12.0.1.4.0.0.0.0.0.0.0.128.0.5.0",
    "1-0:51.7.0": "0.0.0.12.0.1.4.0.0.0.0.0.0.0.64.0.5.0",
    "1-0:71.7.0": "0.0.0.12.0.1.4.0.0.0.0.0.0.0.32.0.5.0",
    "1-0:32.7.0": "0.0.0.12.0.1.54.0.0.0.0.0.0.0.129.0.29.0",
    "1-0:52.7.0": "0.0.0.12.0.1.54.0.0.0.0.0.0.0.65.0.29.0",
    "1-0:72.7.0": "0.0.0.12.0.1.54.0.0.0.0.0.0.0.33.0.29.0",
}


class ReadingType(NamedTuple):
    """The numbers of a ReadingType that formats ask for, and its text. A value is in 10^``multiplier`` of its unit."""

    text: str
    measuring_period: int
    accumulation: int
    flow: int
    commodity: int
    kind: int
    rate: int
    phases: int
    multiplier: int
    unit: int


class ReadingTypes:
    """The ReadingTypes of registers: the shipped ones, and those of the site instead."""

    def __init__(self, of_site: Mapping[str, str] | None = None) -> None:
        self.entries = {**SHIPPED, **(of_site or {})}
        self._known: dict[tuple[str, int, bool], ReadingType | None] = {}

    def of(self, obis_code: str, interval_minutes: int = 0, *, in_kilo: bool = False) -> ReadingType | None:
        """Return the ReadingType of a register's values; None if the table has none.

        ``interval_minutes`` is 0 except for interval registers. ``in_kilo``: energies in kWh, kvarh, kVAh, unless the
        entry names a multiplier of its own.
        """
        key = obis_code, interval_minutes, in_kilo
        if key not in self._known:
            self._known[key] = self._made(obis_code, interval_minutes, in_kilo=in_kilo)
        return self._known[key]

    def _made(self, obis_code: str, interval_minutes: int, *, in_kilo: bool) -> ReadingType | None:
        stem, _, rate = obis_code.rpartition(".")
        entry = self.entries.get(obis_code) or self.entries.get(f"{stem}.x")
        if entry is None:
            return None
        named = {PERIOD: str(_PERIODS.get(interval_minutes, 0)), RATE: rate}
        parts = [int(named.get(part, part)) for part in entry.split(".")]
        if in_kilo and parts[_UNIT_PART] in _ENERGIES and not parts[_MULTIPLIER_PART]:
            parts[_MULTIPLIER_PART] = _KILO
        text = ".".join(map(str, parts))
        return ReadingType(text, *(parts[index] for index in (2, 3, 4, 5, 6, 11, 14, 15, 16)))


def check_code(obis_code: str) -> str:
    """Return the OBIS code of an entry, or one that ends in ``x``; ValueError for any other text."""
    if not _PATTERN.fullmatch(obis_code):
        try:
            parse_obis(obis_code)
        except ObisError as error:
            raise ValueError(f"{error}, nor one such as 1-0:1.8.x") from None
    return obis_code


def check_entry(text: str) -> str:
    """Return the text of a ReadingType with its placeholders; ValueError with what is wrong."""
    parts = text.split(".")
    if len(parts) != _PARTS:
        raise ValueError(f"a ReadingType has {_PARTS} numbers with dots between them, not {len(parts)}")
    for index, part in enumerate(parts):
        placeholder = {_PERIOD_PART: PERIOD, _RATE_PART: RATE}.get(index)
        is_number = part.isascii() and part.lstrip("-").isdecimal() and len(part) <= 6
        if not is_number and part != placeholder:
            also = f" or {placeholder}" if placeholder else ""
            raise ValueError(f"part {index + 1} of a ReadingType is a whole number{also}, not {part[:20]!r}")
    return text
