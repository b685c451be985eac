"""Tables of meters (CSV, plain or gzip): reads and checks each line by itself, without the database."""

import re
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, date, datetime, time
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from ami_headend.core import clock, names
from ami_headend.core.csv_tables import BadLine, FileError, OnceEach, opened, rows
from ami_headend.core.names import UnreadableNameError
from keyvault.schemes.agreed import PUBLIC_OCTETS, AgreementError, check_public
from keyvault.schemes.table import SCHEMES, USUAL, SchemeError, algorithms_of, check_for_commands
from meters.group_models import TAG
from meters.models import MeterStatus
from meters.registry.groups import GroupName, parse_all
from meters.registry.lookup import parse_system_title

REQUIRED = ("system_title", "serial_number")
OF_PLACE = ("address", "customer_reference", "latitude", "longitude")
GROUPS_OF_PLACE = ("place_groups", "place_tags")
OPTIONAL = (
    "name",
    "place",
    *OF_PLACE,
    "interval_minutes",
    "scheme",
    "algorithm",
    "keys",
    "public_key",
    "mask_group",
    "status",
    "commissioned_at",
    "concentrator",
    "groups",
    "tags",
    *GROUPS_OF_PLACE,
)
BY_CERTIFICATE = "by certificate"  # the value of ``keys`` for a meter that enrols by certificate
_NO_TEXT = re.compile(r"[\ud800-\udfff]")  # lone surrogates stand for octets that are not UTF-8
_HEX = re.compile("[0-9a-fA-F]+")
_DEGREES = re.compile(r"[+-]?\d{1,3}([.,]\d{1,12})?", re.ASCII)
_DEGREES_STEP = Decimal("0.000001")  # 11 cm
_STATUSES = (MeterStatus.COMMISSIONED, MeterStatus.SUSPENDED)
_TEXT_MAX = {"serial_number": 64, "name": 120, "place": 120, "concentrator": 120, "address": 250, "mask_group": 60}
_TEXT_MAX |= dict.fromkeys(("groups", "tags", *GROUPS_OF_PLACE), 2_000)


class MeterLine(NamedTuple):
    """One meter of the file; None if the column is missing or the cell empty."""

    line: int
    system_title: bytes
    serial_number: str
    name: str | None = None
    place: str | None = None
    address: str | None = None
    customer_reference: str | None = None
    latitude: Decimal | None = None
    longitude: Decimal | None = None
    interval_minutes: int | None = None
    scheme: str | None = None
    algorithm: int | None = None
    keys: str | None = None
    public_key: bytes | None = None
    mask_group: str | None = None
    status: MeterStatus | None = None
    commissioned_at: datetime | None = None
    concentrator: str | None = None
    groups: Sequence[GroupName] | None = None  # with its tags
    place_groups: Sequence[GroupName] | None = None


class MeterFile(NamedTuple):
    """The valid lines of a file, and the bad ones."""

    lines: list[MeterLine]
    bad: list[BadLine]


def read_meter_file(path: Path, lines_max: int | None = None, octets_max: int | None = None) -> MeterFile:
    """Read every line of a table; FileError if it is unreadable, or has too many lines or octets."""
    lines: list[MeterLine] = []
    bad: list[BadLine] = []
    with opened(path, octets_max) as stream:
        for row in rows(stream, REQUIRED, OPTIONAL):
            if len(lines) + len(bad) == lines_max:
                raise FileError(f"it has more than {lines_max:,} lines: manage.py import_meters takes any number")
            if isinstance(row, BadLine):
                bad.append(row)
                continue
            try:
                lines.append(_line(row.line, row.cells))
            except ValueError as error:
                bad.append(BadLine(row.line, str(error)))
    bad += _repeated(lines)
    return MeterFile(lines, sorted(bad))


def _line(number: int, cells: dict[str, str]) -> MeterLine:
    given: dict[str, Any] = {}
    for column, written in cells.items():
        if text := _text(column, written):
            given[column] = _PARSERS.get(column, str)(text)
    if "algorithm" in given:
        given["algorithm"] = _algorithm(given["algorithm"], given.get("scheme", USUAL))
    for column in REQUIRED:
        if column not in given:
            raise ValueError(f"{column} is empty")
    _check_keys(given)
    if ("latitude" in given) != ("longitude" in given):
        raise ValueError("latitude and longitude go together: one of them is empty")
    of_places = (*OF_PLACE, *GROUPS_OF_PLACE)
    if "place" not in given and (of_place := next((column for column in of_places if column in given), None)):
        raise ValueError(f"{of_place} is of a place, and place is empty")
    for column in ("groups", "place_groups"):
        if tags := given.pop(column.replace("groups", "tags"), None):
            given[column] = [*given.get(column, ()), *tags]
    return MeterLine(number, **given)


def _check_keys(given: dict[str, Any]) -> None:
    """Check that a meter of a scheme can have keys as the cells say; else ValueError."""
    if "keys" in given and "public_key" in given:
        raise ValueError(f"public_key is empty where keys are {BY_CERTIFICATE!r}: the certificate brings it")
    scheme = given.get("scheme", USUAL)
    if ("keys" in given or "public_key" in given) and "agreed" not in SCHEMES[scheme].sources:
        raise ValueError(f"scheme {scheme} takes no keys that are agreed on with a public key")


def _text(column: str, written: str) -> str:
    """Return a cell as people see it."""
    if _NO_TEXT.search(written):
        raise ValueError(f"{column} holds octets that are not UTF-8 text: {ascii(written)[:80]}. Save it as CSV UTF-8")
    try:
        text = names.check(written)
    except UnreadableNameError as error:
        raise ValueError(f"{column} {ascii(written)[:80]}: {error}") from None
    if len(text) > _TEXT_MAX.get(column, 64):
        raise ValueError(f"{column} is longer than {_TEXT_MAX.get(column, 64)} characters")
    return text


def _degrees(column: str, most: int) -> Callable[[str], Decimal]:
    def parse(text: str) -> Decimal:
        if not _DEGREES.fullmatch(text) or abs(degrees := Decimal(text.replace(",", "."))) > most:
            raise ValueError(f"{column} {text!r} is not a number of degrees from -{most} to {most}")
        return degrees.quantize(_DEGREES_STEP)

    return parse


def _interval_minutes(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 1 <= int(text) <= 1440):
        raise ValueError(f"interval_minutes {text!r} is not a whole number from 1 to 1440")
    return int(text)


def _scheme(text: str) -> str:
    try:
        check_for_commands(text)
    except SchemeError as error:
        raise ValueError(str(error)) from None
    return text


def _algorithm(text: str, scheme: str) -> int:
    by_name = {line.name: alg for alg, line in algorithms_of(scheme).items()}
    if text not in by_name:
        raise ValueError(f"algorithm {text!r} is not one of {', '.join(map(repr, by_name))}")
    return by_name[text]


def _keys(text: str) -> str:
    if text.casefold() != BY_CERTIFICATE:
        raise ValueError(f"keys {text!r} is not empty or {BY_CERTIFICATE!r}")
    return BY_CERTIFICATE


def _public_key(text: str) -> bytes:
    if len(text) != 2 * PUBLIC_OCTETS or not _HEX.fullmatch(text):
        raise ValueError(f"public_key {text!r} is not {2 * PUBLIC_OCTETS} hex digits")
    public = bytes.fromhex(text)
    try:
        check_public(public)
    except AgreementError as error:
        raise ValueError(f"public_key {text}: {error}") from None
    return public


def _status(text: str) -> MeterStatus:
    if text not in _STATUSES:
        raise ValueError(f"status {text!r} is not one of {', '.join(_STATUSES)}")
    return MeterStatus(text)


def _commissioned_at(text: str) -> datetime:
    try:
        is_date = len(text) == len("2026-01-31")
        at = datetime.combine(date.fromisoformat(text), time(), UTC) if is_date else datetime.fromisoformat(text)
        if at.tzinfo is None or not clock.EARLIEST <= at <= clock.LATEST:
            raise ValueError
        return at.astimezone(UTC)
    except ValueError:
        raise ValueError(
            f"commissioned_at {text!r} is not a date from 1970 on, or date and time with a zone (ISO 8601)"
        ) from None


_PARSERS: dict[str, Callable[[str], Any]] = {
    "system_title": parse_system_title,
    "latitude": _degrees("latitude", 90),
    "longitude": _degrees("longitude", 180),
    "interval_minutes": _interval_minutes,
    "scheme": _scheme,
    "keys": _keys,
    "public_key": _public_key,
    "status": _status,
    "commissioned_at": _commissioned_at,
    "groups": parse_all,
    "tags": partial(parse_all, kind=TAG),
    "place_groups": parse_all,
    "place_tags": partial(parse_all, kind=TAG),
}


def _repeated(lines: list[MeterLine]) -> Iterator[BadLine]:
    """Return lines whose system title, serial number, place or public key an earlier line has."""
    for column in ("system_title", "serial_number", "place", "public_key"):
        once = OnceEach(column)
        for line in lines:
            try:
                if (value := getattr(line, column)) is not None:
                    once.add(value, line.line)
            except ValueError as error:
                yield BadLine(line.line, str(error))
