"""Files of meters (CSV, plain or gzip): every line read and judged by itself, nothing looked up."""

import csv
import gzip
import io
import re
import zlib
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import IO, Any, NamedTuple

from keyvault.models import Algorithm
from meters.models import MeterStatus
from meters.registry import parse_system_title

REQUIRED = ("system_title", "serial_number")
OPTIONAL = ("name", "place", "interval_minutes", "algorithm", "status", "commissioned_at", "concentrator")
_GZIP_MAGIC = b"\x1f\x8b"
_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")  # lone surrogates stand for octets that are not UTF-8
_STATUSES = (MeterStatus.COMMISSIONED, MeterStatus.SUSPENDED)
_TEXT_MAX = {"serial_number": 64, "name": 120, "place": 120, "concentrator": 120}


class MeterFileError(ValueError):
    """The file as a whole cannot be read: not there, not CSV, another header. Whoever wrote it can mend it."""


class BadLine(NamedTuple):
    """A line that cannot be imported: its number (the header is 1) and why."""

    line: int
    reason: str


class MeterLine(NamedTuple):
    """One meter of the file; None where the column is missing or the cell empty."""

    line: int
    system_title: bytes
    serial_number: str
    name: str | None = None
    place: str | None = None
    interval_minutes: int | None = None
    algorithm: Algorithm | None = None
    status: MeterStatus | None = None
    commissioned_at: datetime | None = None
    concentrator: str | None = None


class MeterFile(NamedTuple):
    """What a file holds: the lines that are right in themselves, and the others."""

    lines: list[MeterLine]
    bad: list[BadLine]


def read_meter_file(path: Path) -> MeterFile:
    """Every line of a CSV file; MeterFileError where it cannot be read at all."""
    try:
        with path.open("rb") as file:
            packed = file.read(2) == _GZIP_MAGIC
            file.seek(0)
            with gzip.open(file) if packed else file as stream:
                return _read(stream)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise MeterFileError(f"{path} is damaged: {error}") from None
    except OSError as error:
        raise MeterFileError(f"cannot read {path}: {error.strerror}") from None


def _read(stream: IO[bytes] | Any) -> MeterFile:
    with io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="") as text:
        return _judge(csv.reader(text, strict=True))


def _judge(reader: Any) -> MeterFile:
    try:
        columns = _header(next(reader, []))
        lines: list[MeterLine] = []
        bad: list[BadLine] = []
        for number, cells in _cells(reader):
            if len(cells) != len(columns):
                bad.append(BadLine(number, f"{len(cells)} cells, but the header names {len(columns)} columns"))
                continue
            try:
                lines.append(_line(number, dict(zip(columns, cells, strict=True))))
            except ValueError as error:
                bad.append(BadLine(number, str(error)))
    except csv.Error as error:
        raise MeterFileError(f"line {reader.line_num}: not CSV: {error}") from None
    bad += _repeated(lines)
    return MeterFile(lines, sorted(bad))


def _cells(reader: Any) -> Iterator[tuple[int, list[str]]]:
    for cells in reader:
        if any(cells):
            yield reader.line_num, [cell.strip() for cell in cells]


def _header(cells: list[str]) -> list[str]:
    columns = [cell.strip() for cell in cells]
    wanted = f"the first line must name the columns, separated by commas: {', '.join(REQUIRED)}"
    missing = [column for column in REQUIRED if column not in columns]
    unknown = [column for column in columns if column not in REQUIRED + OPTIONAL]
    if missing or unknown or len(set(columns)) != len(columns):
        found = ascii(",".join(columns))[:200]
        raise MeterFileError(f"line 1: {wanted}; and, where wanted, {', '.join(OPTIONAL)}. It holds {found}")
    return columns


def _line(number: int, cells: dict[str, str]) -> MeterLine:
    for column, text in cells.items():
        if _CONTROL.search(text):
            raise ValueError(f"{column} holds octets that are not UTF-8 text: {ascii(text)[:80]}")
        if len(text) > _TEXT_MAX.get(column, 64):
            raise ValueError(f"{column} is longer than {_TEXT_MAX.get(column, 64)} characters")
    given: dict[str, Any] = {}
    for column, text in cells.items():
        if text:
            given[column] = _PARSERS.get(column, str)(text)
    for column in REQUIRED:
        if column not in given:
            raise ValueError(f"{column} is empty")
    return MeterLine(number, **given)


def _interval_minutes(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 1 <= int(text) <= 1440):
        raise ValueError(f"interval_minutes {text!r} is not a whole number from 1 to 1440")
    return int(text)


def _algorithm(text: str) -> Algorithm:
    by_name = {algorithm.label: algorithm for algorithm in Algorithm}
    if text not in by_name:
        raise ValueError(f"algorithm {text!r} is not one of {', '.join(by_name)}")
    return by_name[text]


def _status(text: str) -> MeterStatus:
    if text not in _STATUSES:
        raise ValueError(f"status {text!r} is not one of {', '.join(_STATUSES)}")
    return MeterStatus(text)


def _commissioned_at(text: str) -> datetime:
    try:
        if len(text) == len("2026-01-31"):
            return datetime.combine(date.fromisoformat(text), time(), UTC)
        at = datetime.fromisoformat(text)
        if at.tzinfo is None:
            raise ValueError
        return at.astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError(f"commissioned_at {text!r} is not a date, or date and time with a zone (ISO 8601)") from None


_PARSERS: dict[str, Callable[[str], Any]] = {
    "system_title": parse_system_title,
    "interval_minutes": _interval_minutes,
    "algorithm": _algorithm,
    "status": _status,
    "commissioned_at": _commissioned_at,
}


def _repeated(lines: list[MeterLine]) -> Iterator[BadLine]:
    """Lines that name a system title, serial number or place which an earlier line named."""
    for column in ("system_title", "serial_number", "place"):
        first: dict[Any, int] = {}
        for line in lines:
            value = getattr(line, column)
            if value is not None and (earlier := first.setdefault(value, line.line)) != line.line:
                shown = value.hex() if isinstance(value, bytes) else value
                yield BadLine(line.line, f"{column} {shown} stands in line {earlier} already")
