"""How a lot keeps its rows: the numbers of each, column by column and octet by octet, compressed. Pure.

Rows come as PostgreSQL copies them (``meters.readings.copy_format``). Of every number the octets of equal weight lie
together, the highest first: most of them are the same in all rows, so zstd (RFC 8878) leaves some three octets a row.
"""

from collections.abc import Sequence
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import zstandard

from meters.readings.copy_format import FIELDS, OF_SCHEME_OCTETS, PG_EPOCH_S, USUAL_OCTETS

_NONE = b"\xff\xff"  # -1: no scheme, or no former length
_WIDTHS = [octets for _, octets in FIELDS]
_USUAL = sum(_WIDTHS[:-1])  # octets of a row without a scheme
_TYPES = {8: pa.int64(), 4: pa.int32(), 2: pa.int16()}


class Columns(NamedTuple):
    """The rows of a lot as Arrow arrays.

    ``scheme`` is null for the usual one, ``former_minutes`` (the interval length that a row had before) where it had
    no other.
    """

    captured_us: pa.Array  # microseconds since 1970
    meter_id: pa.Array
    register_id: pa.Array
    value: pa.Array
    uplink_id: pa.Array
    interval_minutes: pa.Array
    scheme: pa.Array
    former_minutes: pa.Array

    def part(self, start: int, stop: int) -> "Columns":
        """Return the rows [start, stop)."""
        return Columns(*(column.slice(start, stop - start) for column in self))


def pack(rows: Sequence[bytes], former_minutes: Sequence[int] = ()) -> bytes:
    """Pack rows; ``former_minutes`` has the former interval length of each, or nothing."""
    width, joined = USUAL_OCTETS, b"".join(rows)
    if former_minutes:
        width = OF_SCHEME_OCTETS + 2
        told = zip(rows, former_minutes, strict=True)
        joined = b"".join([_widened(row) + minutes.to_bytes(2, "big") for row, minutes in told])
    elif len(joined) != len(rows) * USUAL_OCTETS:
        width, joined = OF_SCHEME_OCTETS, b"".join(map(_widened, rows))
    fields = (*FIELDS, (OF_SCHEME_OCTETS, 2))
    places = [octet for first, octets in fields for octet in range(first, first + octets) if octet < width]
    return zstandard.compress(b"".join([joined[octet::width] for octet in places]), level=1)


def _widened(row: bytes) -> bytes:
    return row if len(row) == OF_SCHEME_OCTETS else row + _NONE


def unpack(octets: bytes, rows: int) -> Columns:
    """Return the columns of a pack of that many rows. ValueError if it is none."""
    try:
        planes = zstandard.decompress(octets)
    except zstandard.ZstdError as error:
        raise ValueError(f"not a pack of rows: {error}") from None
    if not rows or len(planes) not in (rows * _USUAL, rows * (_USUAL + 2), rows * (_USUAL + 4)):
        raise ValueError(f"not a pack of {rows} rows")
    columns: list[pa.Array] = []
    at = 0
    for width in (*_WIDTHS, 2):
        if at == len(planes):
            columns.append(pa.nulls(rows, pa.int16()))
            continue
        numbers = bytearray(rows * width)
        for octet in reversed(range(width)):  # Arrow's numbers begin with the lowest octet
            numbers[octet::width] = planes[at : at + rows]
            at += rows
        columns.append(pa.Array.from_buffers(_TYPES[width], rows, [None, pa.py_buffer(numbers)]))
    columns[0] = pc.add(columns[0], PG_EPOCH_S * 1_000_000)
    columns[-2:] = map(_null_below_0, columns[-2:])
    return Columns(*columns)


def _null_below_0(column: pa.Array) -> pa.Array:
    return pc.if_else(pc.greater_equal(column, 0), column, pa.scalar(None, pa.int16()))
