"""The formats of the feed that have a row for each row: NDJSON, CSV and Parquet, streamed batch by batch."""

import json
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from concentrators.feed.rows import Resource
from concentrators.feed.tables import SCHEMAS
from meters.readings import export

Writer = Callable[[Resource, Iterable[pa.RecordBatch]], Iterator[bytes]]


def write_ndjson(resource: Resource, batches: Iterable[pa.RecordBatch]) -> Iterator[bytes]:
    """One JSON object a line; times in RFC 3339, UTC; ``quality`` is a list.

    Lines are put together column by column: several times as fast as an object for each row.
    """
    for batch in batches:
        if batch.num_rows:
            parts: list[Any] = []
            for before, (name, column) in zip("{" + "," * batch.num_columns, _columns(batch), strict=False):
                parts += [f"{before}{json.dumps(name)}:", _as_json(name, column)]
            lines = pc.binary_join_element_wise(*parts, "}", "")
            yield ("\n".join(lines.to_pylist()) + "\n").encode()


def _columns(batch: pa.RecordBatch) -> Iterator[tuple[str, pa.Array]]:
    return zip(batch.schema.names, batch.columns, strict=True)


def _as_json(name: str, column: pa.Array) -> pa.Array:
    """Return the JSON text of each value."""
    if pa.types.is_integer(column.type):
        texts = column.cast(pa.string())
    else:
        encoded = column.dictionary_encode()  # most columns have few different values
        values = encoded.dictionary.to_pylist()
        texts = pa.array([_text(name, value) for value in values], pa.string()).take(encoded.indices)
    return pc.fill_null(texts, "null")


def _text(name: str, value: Any) -> str:
    if isinstance(value, datetime):
        return json.dumps(value.isoformat().replace("+00:00", "Z"))
    return json.dumps(value.split() if name == "quality" else value, ensure_ascii=False, separators=(",", ":"))


def write_csv(resource: Resource, batches: Iterable[pa.RecordBatch]) -> Iterator[bytes]:
    """CSV with a header line; texts that a spreadsheet would take for a formula get a leading quote."""
    yield from export.write_csv(SCHEMAS[resource], batches)


def write_parquet(resource: Resource, batches: Iterable[pa.RecordBatch]) -> Iterator[bytes]:
    """Parquet, a row group for each batch."""
    yield from export.write_parquet(SCHEMAS[resource], batches)


WRITERS: dict[str, Writer] = {"ndjson": write_ndjson, "csv": write_csv, "parquet": write_parquet}
