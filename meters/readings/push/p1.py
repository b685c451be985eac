"""P1 telegrams: a meter's lines of OBIS code and value (DSMR 5.0.2 P1; in Luxembourg, Styria, Carinthia). Pure."""

import re
from datetime import datetime
from typing import NamedTuple

from keyvault.schemes.dlms.crc import crc_arc

_CHARACTER = re.compile(rb"[0-9A-Za-z]")
_LINE = re.compile(rb"(\d{1,3}-\d{1,3}:\d{1,3}\.\d{1,3}\.\d{1,3})\(([^()]{0,120})\)((?:\([^()]{0,120}\))*)")
_NUMBER = re.compile(r"(-?\d{1,12})(?:\.(\d{1,6}))?\*([A-Za-z0-9]{1,8})")
_TIME = re.compile(r"(\d{2})(\d{2})(\d{2})(\d{2})(\d{2})(\d{2})([SW])")
# Units of telegrams: DLMS unit code, and the power of ten that they add.
_UNITS = {
    "kWh": (30, 3), "Wh": (30, 0), "kvarh": (32, 3), "varh": (32, 0), "kVAh": (31, 3), "VAh": (31, 0), "kW": (27, 3),
    "W": (27, 0), "kvar": (29, 3), "var": (29, 0), "kVA": (28, 3), "VA": (28, 0), "V": (35, 0), "A": (33, 0),
    "Hz": (44, 0), "m3": (13, 0),
}  # fmt: skip


class Line(NamedTuple):
    """A line of a telegram: OBIS code, and what stands in its parentheses, the first of them."""

    obis: str
    said: str


def lines_of(telegram: bytes) -> list[Line]:
    """The lines of a telegram that name a register, in their order."""
    found = []
    for line in telegram.split(b"\n"):
        match = _LINE.fullmatch(line.rstrip(b"\r"))
        if match is not None:
            found.append(Line(match[1].decode("ascii"), match[2].decode("ascii", "replace")))
    return found


def skeleton_of(telegram: bytes) -> str:
    """The form of a telegram, with the values blanked: its codes with units, and whether a value is a number."""
    told = []
    for obis, said in lines_of(telegram):
        number = _NUMBER.fullmatch(said)
        told.append(f"{obis}({number[3]})" if number else f"{obis}(time)" if _TIME.fullmatch(said) else f"{obis}(text)")
    return f"p1 {' '.join(told)}"


def blanked(telegram: bytes, system_title: bytes) -> bytes:
    """A telegram with zeros for numbers and for the characters of texts, and the checksum of that; times stay.

    So does the meter's title, in hexadecimal.
    """
    lines = [_blanked(line, system_title) for line in telegram[: telegram.rindex(b"!")].split(b"\n")]
    body = b"\n".join(lines) + b"!"
    end = telegram.rindex(b"!") + 1
    return body + f"{crc_arc(body):04X}".encode() + telegram[end + 4 :]


def _blanked(line: bytes, system_title: bytes) -> bytes:
    match = _LINE.fullmatch(line.rstrip(b"\r"))
    if match is None:
        return line if line.startswith(b"/") else _CHARACTER.sub(b"0", line)
    said = match[2].decode("ascii", "replace")
    number = _NUMBER.fullmatch(said)
    if number is not None:
        zeros = re.sub(r"\d", "0", said[: said.index("*")]).replace("-", "0")
        first = zeros.encode() + match[2][match[2].index(b"*") :]
    elif _TIME.fullmatch(said) or match[2].lower() == system_title.hex().encode():
        first = match[2]
    else:
        first = _CHARACTER.sub(b"0", match[2])
    return match[1] + b"(" + first + b")" + _CHARACTER.sub(b"0", match[3]) + line[match.end() :]


def number_of(said: str) -> tuple[int, int, int] | None:
    """A number as raw value, scaler and DLMS unit code: value = raw x 10^scaler; None where it is none."""
    match = _NUMBER.fullmatch(said)
    if match is None or match[3] not in _UNITS:
        return None
    whole, decimals, unit = match.groups()
    code, power = _UNITS[unit]
    decimals = decimals or ""
    return int(whole + decimals), power - len(decimals), code


def date_time_of(said: str) -> bytes | None:
    """A time YYMMDDhhmmss with S (daylight saving) or W, as a date-time of 12 octets whose deviation is open."""
    match = _TIME.fullmatch(said)
    if match is None:
        return None
    year, month, day, hour, minute, second = (int(part) for part in match.groups()[:6])
    try:
        weekday = datetime(2000 + year, month, day).isoweekday()  # noqa: DTZ001 - a date alone
    except ValueError:
        return None
    status = 0x80 if match[7] == "S" else 0
    head = (2000 + year).to_bytes(2, "big")
    return head + bytes((month, day, weekday, hour, minute, second, 0xFF, 0x80, 0x00, status))
