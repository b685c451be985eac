"""The formats of the feed that have a row for each row: NDJSON, CSV and Parquet, streamed batch by batch."""

import json
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import Any

import pyarrow as pa

from concentrators.feed.rows import Resource
from concentrators.feed.tables import SCHEMAS
from meters.readings import export

Writer = Callable[[Resource, Iterable[pa.RecordBatch]], Iterator[bytes]]


def write_ndjson(resource: Resource, batches: Iterable[pa.RecordBatch]) -> Iterator[bytes]:
    """One JSON object a line; times in RFC 3339, UTC; ``quality`` is a list."""
    for batch in batches:
        lines = [json.dumps(_plain(row), ensure_ascii=False, separators=(",", ":")) for row in batch.to_pylist()]
        if lines:
            yield ("\n".join(lines) + "\n").encode()


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    plain = {name: _iso(value) if isinstance(value, datetime) else value for name, value in row.items()}
    return plain | {"quality": row["quality"].split()}


def _iso(at: datetime) -> str:
    return at.isoformat().replace("+00:00", "Z")


def write_csv(resource: Resource, batches: Iterable[pa.RecordBatch]) -> Iterator[bytes]:
    """CSV with a header line; texts that a spreadsheet would take for a formula get a leading quote."""
    yield from export.write_csv(SCHEMAS[resource], batches)


def write_parquet(resource: Resource, batches: Iterable[pa.RecordBatch]) -> Iterator[bytes]:
    """Parquet, a row group for each batch."""
    yield from export.write_parquet(SCHEMAS[resource], batches)


WRITERS: dict[str, Writer] = {"ndjson": write_ndjson, "csv": write_csv, "parquet": write_parquet}
