"""Tables from outside, as spreadsheets write them, plain or gzip. Each line is checked by itself.

CSV with commas, semicolons or tabs, in UTF-8, or in UTF-16 with a byte order mark. Excel's `sep=` line, capitals in the
header and empty columns at the end are accepted.
"""

import csv
import gzip
import io
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from ami_headend.core import names
from ami_headend.core.text import counted

_GZIP_MAGIC = b"\x1f\x8b"
_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs"}
_SEPARATOR_LINE = re.compile(r'"?sep=(.)"?', re.IGNORECASE)
_HEADER_MAX = 10_000


class FileError(ValueError):
    """The file as a whole cannot be read: missing, damaged, or of another kind. Its author can mend it."""


class BadLine(NamedTuple):
    """A line that cannot be imported: its number (the first is 1) and why."""

    line: int
    reason: str


class Row(NamedTuple):
    """One line of a table: its number, and its cells by column, stripped of spaces."""

    line: int
    cells: dict[str, str]


class OnceEach:
    """The values of a column in which each may occur once; names are compared by ``names.alike``."""

    def __init__(self, column: str) -> None:
        self._column = column
        self._first: dict[str | bytes, int] = {}

    def add(self, value: str | bytes, line: int) -> None:
        """Remember a value; ValueError if an earlier line has it."""
        key, shown = (names.alike(value), value) if isinstance(value, str) else (value, value.hex())
        if (earlier := self._first.setdefault(key, line)) != line:
            raise ValueError(f"{self._column} {shown} is already in line {earlier}")


class _Bounded(io.RawIOBase):
    """A stream that raises FileError once it yields more than ``octets_max`` octets."""

    def __init__(self, stream: BinaryIO, octets_max: int) -> None:
        self._stream, self._left, self._max = stream, octets_max, octets_max

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        octets = self._stream.read(len(buffer))
        self._left -= len(octets)
        if self._left < 0:
            raise FileError(f"it unpacks to more than {self._max:,} octets, the most that is accepted")
        buffer[: len(octets)] = octets
        return len(octets)


@contextmanager
def opened(path: Path, octets_max: int | None = None) -> Iterator[BinaryIO]:
    """Open a file, and unpack it if it is gzip. FileError if it cannot be read or is damaged.

    ``octets_max``: the most octets that a gzip file may unpack to, for files that a stranger made.
    """
    try:
        with path.open("rb") as file:
            packed = file.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC
            file.seek(0)
            if not packed:
                yield file
                return
            with gzip.open(file) as inflated:
                within = inflated if octets_max is None else _Bounded(cast(BinaryIO, inflated), octets_max)
                with io.BufferedReader(within) as stream:
                    yield cast(BinaryIO, stream)
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise FileError(f"{path} is cut off or damaged: it does not unpack") from None
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror}") from None


def rows(stream: BinaryIO, required: Sequence[str], optional: Sequence[str]) -> Iterator[Row | BadLine]:
    """Yield the lines of a table after its header, which must name the required columns and no unknown one.

    FileError says in one sentence what is wrong with the file. Octets that are not UTF-8 come as lone surrogates.
    """
    text = io.TextIOWrapper(stream, encoding=_encoding(stream), errors="surrogateescape", newline="")
    reader = None
    try:
        first = text.readline(_HEADER_MAX)
        told = _SEPARATOR_LINE.fullmatch(first.strip("\r\n"))
        header = text.readline(_HEADER_MAX) if told else first
        before = 2 if told else 1
        delimiter = told[1] if told else _delimiter(header, required)
        columns = _columns(header, before, delimiter, required, optional)
        reader = csv.reader(text, delimiter=delimiter, strict=True)
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield _row(before + reader.line_num, [cell.strip() for cell in cells], columns)
    except csv.Error as error:
        line = before + (reader.line_num if reader else 0)
        raise FileError(f"line {line}: not CSV: {error}") from None
    except UnicodeError:
        raise FileError("it begins like UTF-16 but is not: save it as CSV UTF-8") from None
    finally:
        text.detach()


def _encoding(stream: BinaryIO) -> str:
    """Find the encoding by the byte order mark; FileError for a workbook, and for UTF-16 without a mark."""
    head = cast(io.BufferedReader, stream).peek(64)[:64]
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    if head.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0")):
        raise FileError("it is a spreadsheet workbook, not a text table: save it as CSV UTF-8")
    if b"\0" in head:
        raise FileError("it is not UTF-8 text: it looks like UTF-16 without a byte order mark. Save it as CSV UTF-8")
    return "utf-8-sig"


def _delimiter(header: str, required: Sequence[str]) -> str:
    """Return the delimiter that splits the header into the required columns; a comma if none does."""
    for delimiter in _DELIMITERS:
        if set(required) <= {_named(cell) for cell in _split(header, delimiter)}:
            return delimiter
    return ","


def _columns(header: str, line: int, delimiter: str, required: Sequence[str], optional: Sequence[str]) -> list[str]:
    columns = [_named(cell) for cell in _split(header, delimiter)]
    while columns and not columns[-1]:
        columns.pop()
    what_is_wrong = [
        *(f"column {name} is missing" for name in required if name not in columns),
        *(f"{name!a} is not a known column" for name in columns if name and name not in (*required, *optional)),
        *(f"column {columns.index('') + 1} has no name" for _ in [0] if "" in columns),
        *(f"column {name} appears twice" for name in dict.fromkeys(columns) if name and columns.count(name) > 1),
    ]
    if what_is_wrong:
        raise FileError(
            f"line {line}: {'; '.join(what_is_wrong)[:300]}. The first line names the columns, separated by commas, "
            f"semicolons or tabs: {', '.join(required)}; and, where wanted, {', '.join(optional)}. It holds "
            f"{ascii(header.strip())[:200]}"
        )
    return columns


def _row(line: int, cells: list[str], columns: list[str]) -> Row | BadLine:
    while len(cells) > len(columns) and not cells[-1]:
        cells.pop()
    if len(cells) != len(columns):
        return BadLine(line, f"{counted(len(cells), 'cell')}, but the header names {counted(len(columns), 'column')}")
    return Row(line, dict(zip(columns, cells, strict=True)))


def _split(header: str, delimiter: str) -> list[str]:
    return next(csv.reader([header], delimiter=delimiter, strict=True), [])


def _named(cell: str) -> str:
    """Return the normal form of a column's name: `Serial Number` and `serial-number` become serial_number."""
    return re.sub(r"[\s-]+", "_", cell.strip().strip("\u200b\ufeff").casefold())
