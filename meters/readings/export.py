"""Rows as CSV and Parquet streams: memory holds one batch, however long the export is."""

import itertools
import types
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from decimal import Decimal
from typing import Any, get_args, get_origin, get_type_hints

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from django.http import StreamingHttpResponse

BATCH = 20_000  # rows in one query, and in one row group of Parquet
_TIME = pa.timestamp("us", tz="UTC")
# Beginnings that spreadsheets take for a formula: also after spaces and control characters of Unicode, and in the
# full-width signs of East Asian scripts.
_FORMULA = r"^([\pZ\pC]*[=+\-@\t\r\n\x{FF1D}\x{FF0B}\x{FF0D}\x{FF20}])"
_NUMBER = r"^[+-]?[0-9]+(\.[0-9]+)?$"
READING_SCHEMA = pa.schema(
    [
        ("system_title", pa.string()),
        ("obis_code", pa.string()),
        ("captured_at", _TIME),
        ("interval_minutes", pa.int16()),
        ("value", pa.int64()),
        ("scaler", pa.int16()),
        ("unit", pa.string()),
        ("quantity", pa.string()),
        ("uplink", pa.int64()),
        ("scheme", pa.string()),
        ("caveat", pa.string()),
    ]
)
EVENT_SCHEMA = pa.schema(
    [
        ("id", pa.int64()),
        ("system_title", pa.string()),
        ("serial_number", pa.string()),
        ("obis_code", pa.string()),
        ("captured_at", _TIME),
        ("received_at", _TIME),
        ("value", pa.int64()),
        ("name", pa.string()),
        ("severity", pa.string()),
        ("type", pa.string()),
        ("is_acknowledged", pa.bool_()),
        ("uplink", pa.int64()),
        ("scheme", pa.string()),
        ("caveat", pa.string()),
    ]
)


_TYPES: dict[Any, pa.DataType] = {
    int: pa.int64(),
    str: pa.string(),
    bool: pa.bool_(),
    float: pa.float64(),
    Decimal: pa.decimal128(38, 6),
    datetime: _TIME,
}


def schema_of(form: type[Any], **others: pa.DataType) -> pa.Schema:
    """Return the columns of a named tuple, by the types of its fields; ``others`` have another one than usual."""
    hints = get_type_hints(form)
    return pa.schema([(name, others.get(name) or _TYPES[_plain(hint)]) for name, hint in hints.items()])


def _plain(hint: Any) -> Any:
    return get_args(hint)[0] if get_origin(hint) is types.UnionType else hint


class _Outbox:
    """The file that a writer writes to; its content is taken out after each batch."""

    closed = False

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._octets = 0

    def write(self, octets: Any) -> int:
        part = bytes(octets)
        self._parts.append(part)
        self._octets += len(part)
        return len(part)

    def tell(self) -> int:
        return self._octets

    def flush(self) -> None:
        """Do nothing: nothing is buffered."""

    def close(self) -> None:
        self.closed = True

    def take(self) -> bytes:
        taken = b"".join(self._parts)
        self._parts.clear()
        return taken


def stream_csv(schema: pa.Schema, batches: Iterable[list[Any]]) -> Iterator[bytes]:
    """Stream batches of rows as CSV with a header; times in ISO 8601, UTC. Every CSV of the head-end is written here.

    A text that a spreadsheet would take for a formula gets a leading quote (OWASP: CSV injection); numbers do not.
    """
    yield from write_csv(schema, _record_batches(schema, batches))


def write_csv(schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> Iterator[bytes]:
    """Do the same with record batches of the schema."""
    texts = pa.schema([(field.name, pa.string() if field.type == _TIME else field.type) for field in schema])
    yield from _stream(batches, lambda outbox: pa_csv.CSVWriter(outbox, texts), _for_a_spreadsheet)


def csv_answer(name: str, schema: pa.Schema, batches: Iterable[list[Any]]) -> StreamingHttpResponse:
    """Stream batches of rows as a CSV file to save; an immediate error comes before status 200 is sent."""
    return file_answer("csv", name, schema, batches)


def file_answer(form: str, name: str, schema: pa.Schema, batches: Iterable[list[Any]]) -> StreamingHttpResponse:
    """Stream batches of rows as a file to save, in the form ``csv`` or ``parquet``, as ``csv_answer``."""
    found = iter(batches)
    first = list(itertools.islice(found, 1))
    stream, content_type = {
        "csv": (stream_csv, "text/csv; charset=utf-8"),
        "parquet": (stream_parquet, "application/vnd.apache.parquet"),
    }[form]
    return StreamingHttpResponse(
        stream(schema, itertools.chain(first, found)),
        content_type=content_type,
        headers={"Content-Disposition": f'attachment; filename="{name}.{form}"'},
    )


def stream_parquet(schema: pa.Schema, batches: Iterable[list[Any]]) -> Iterator[bytes]:
    """Stream batches of rows as Parquet, one row group each."""
    yield from write_parquet(schema, _record_batches(schema, batches))


def write_parquet(schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> Iterator[bytes]:
    """Do the same with record batches of the schema."""
    yield from _stream(batches, lambda outbox: pq.ParquetWriter(outbox, schema), lambda batch: batch)


def _record_batches(schema: pa.Schema, batches: Iterable[list[Any]]) -> Iterator[pa.RecordBatch]:
    for rows in batches:
        if rows:  # an empty batch has no columns
            columns = zip(*rows, strict=True)
            arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
            yield pa.record_batch(arrays, schema=schema)


def _stream(
    batches: Iterable[pa.RecordBatch],
    open_writer: Callable[[_Outbox], Any],
    convert: Callable[[pa.RecordBatch], pa.RecordBatch],
) -> Iterator[bytes]:
    outbox = _Outbox()
    with open_writer(outbox) as writer:
        for batch in batches:
            writer.write_batch(convert(batch))
            if octets := outbox.take():
                yield octets
    yield outbox.take()


def _for_a_spreadsheet(batch: pa.RecordBatch) -> pa.RecordBatch:
    return pa.record_batch([_as_text(column) for column in batch.columns], names=batch.schema.names)


def _as_text(column: pa.Array) -> pa.Array:
    if column.type == _TIME:
        return pc.strftime(column, "%Y-%m-%dT%H:%M:%SZ")
    if pa.types.is_string(column.type):
        harmless = pc.replace_substring_regex(column, _FORMULA, r"'\1")
        return pc.if_else(pc.match_substring_regex(column, _NUMBER), column, harmless)
    return column
