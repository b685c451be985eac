"""How readings lie in a file of the archive: columns, order, and the sums that say whether two hold the same. Pure.

A file has the readings of one day (UTC), by meter, register and time: neighbours differ little, so zstd leaves some
octets of each, and the row groups of a meter are found by their least and greatest ids.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

SCHEMA = pa.schema(
    [
        ("captured_at", pa.timestamp("us", tz="UTC")),
        ("meter_id", pa.int32()),
        ("register_id", pa.int16()),
        ("value", pa.int64()),
        ("uplink_id", pa.int64()),
        ("interval_minutes", pa.int16()),
        ("scheme", pa.int16()),
    ]
)
ORDER = ("meter_id", "register_id", "captured_at")  # of a file
ROW_GROUP = 262_144  # rows
_OPTIONS: dict[str, Any] = {
    "compression": "zstd",
    "compression_level": 9,
    "use_dictionary": ["meter_id", "register_id", "interval_minutes", "scheme"],
    "column_encoding": dict.fromkeys(("captured_at", "value", "uplink_id"), "DELTA_BINARY_PACKED"),
}
_SUMMED = ("meter_id", "value", "uplink_id", "interval_minutes", "scheme")
_LOW = (1 << 32) - 1


class Sums(NamedTuple):
    """What the readings of a register add up to, column by column; of times the microseconds since 1970.

    Two sets of readings with equal sums, of which one was copied from the other, are equal.
    """

    rows: int
    captured_at: int
    meter_id: int
    value: int
    uplink_id: int
    interval_minutes: int
    scheme: int
    with_scheme: int

    def plus(self, other: "Sums") -> "Sums":
        return Sums(*map(sum, zip(self, other, strict=True)))


NOTHING = Sums(0, 0, 0, 0, 0, 0, 0, 0)


class Part(NamedTuple):
    """A file of one day: its name below the archive, and what it holds."""

    name: str
    day: str  # ISO 8601
    rows: int
    octets: int
    sha256: str


class OrderError(ValueError):
    """Readings are not in the order of the file, or one is there twice."""


def write(target: Any, batches: Iterable[pa.RecordBatch]) -> dict[int, Sums]:
    """Write readings, which come in order, as a Parquet file; return the sums by register. OrderError."""
    found: dict[int, Sums] = {}
    with pq.ParquetWriter(target, SCHEMA, **_OPTIONS) as writer:
        for batch in in_order(batches):
            writer.write_batch(batch, row_group_size=ROW_GROUP)
            add(found, batch)
    return found


def read(source: Any) -> Iterator[pa.RecordBatch]:
    """Yield the readings of a file."""
    for batch in pq.ParquetFile(source).iter_batches(ROW_GROUP):
        yield batch.cast(SCHEMA)


def in_order(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Yield the batches as they come; OrderError unless each key is greater than the one before."""
    last = None
    for batch in batches:
        if not batch.num_rows:
            continue
        keys = batch.select(list(ORDER))
        first = tuple(column[0].as_py() for column in keys.columns)
        if (last is not None and first <= last) or not _rises(keys):
            raise OrderError("readings are not in order, or one is there twice")
        last = tuple(column[-1].as_py() for column in keys.columns)
        yield batch


def add(sums: dict[int, Sums], batch: pa.RecordBatch) -> None:
    """Add the readings of a batch to sums by register."""
    for register_id in pc.unique(batch["register_id"]).to_pylist():
        part = batch.filter(pc.equal(batch["register_id"], pa.scalar(register_id, pa.int16())))
        times = _total(part["captured_at"].cast(pa.int64()))
        columns = (_total(part[name]) for name in _SUMMED)
        with_scheme = part.num_rows - part["scheme"].null_count
        found = Sums._make((part.num_rows, times, *columns, with_scheme))
        sums[register_id] = sums.get(register_id, NOTHING).plus(found)


def part_name(month: datetime, day: date, sha256: str) -> str:
    """Return the name of a file: it says what it holds, so another content never takes its place."""
    return f"readings-{month:%Y-%m}/{day:%Y-%m-%d}-{sha256[:16]}.parquet"


def manifest_name(month: datetime, octets_sha256: str) -> str:
    return f"readings-{month:%Y-%m}/manifest-{octets_sha256[:16]}.json"


def manifest(month: datetime, parts: Sequence[Part], sums: Mapping[int, Sums]) -> bytes:
    """Write what a month's files are and hold, for whoever has the files alone."""
    described = {
        "format": "ami-headend archive of readings, version 1",
        "month": f"{month:%Y-%m}",
        "columns": SCHEMA.names,
        "order": list(ORDER),
        "parts": [part._asdict() for part in parts],
        "sums_by_register_id": {str(register): sums[register]._asdict() for register in sorted(sums)},
    }
    return (json.dumps(described, indent=1) + "\n").encode()


def _total(column: pa.Array) -> int:
    """Add up a column exactly: halves of 32 bits cannot overflow in one batch."""
    wide = column.cast(pa.int64())
    high, low = pc.sum(pc.shift_right(wide, 32)).as_py() or 0, pc.sum(pc.bit_wise_and(wide, _LOW)).as_py() or 0
    return int(high << 32) + int(low)


def _rises(keys: pa.RecordBatch) -> bool:
    """Whether each key is greater than the one before."""
    rows = keys.num_rows - 1
    before, after = keys.slice(0, rows), keys.slice(1)
    rises: Any = pa.repeat(False, rows)
    equal: Any = pa.repeat(True, rows)
    for name in ORDER:
        rises = pc.or_(rises, pc.and_(equal, pc.greater(after[name], before[name])))
        equal = pc.and_(equal, pc.equal(after[name], before[name]))
    return rows == 0 or bool(pc.all(rises).as_py())
