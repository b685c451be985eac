"""Rows of the feed as Arrow record batches, in the columns that consumers get (docs/integration.md), and as objects."""

from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from concentrators.feed import names
from concentrators.feed.names import TIME
from concentrators.feed.packed import Columns
from concentrators.feed.rows import Change, EventRow, Quality, ReadingRow, RegisterKind, Resource

_OF_ANY = [
    ("position", pa.int64()),
    ("row", pa.int32()),
    ("change", pa.string()),
    ("system_title", pa.string()),
    ("serial_number", pa.string()),
    ("usage_point", pa.string()),
    ("obis_code", pa.string()),
    ("captured_at", TIME),
    ("scheme", pa.string()),
    ("quality", pa.string()),
    ("received_at", TIME),
    ("verified_at", TIME),
    ("uplink", pa.int64()),
]
_OF_READINGS = [
    ("kind", pa.string()),
    ("interval_minutes", pa.int16()),
    ("interval_end", TIME),
    ("value", pa.string()),
    ("unit", pa.string()),
    ("former_interval_minutes", pa.int16()),
]
SCHEMAS = {
    Resource.READINGS: pa.schema([*_OF_ANY, *_OF_READINGS]),
    Resource.EVENTS: pa.schema([*_OF_ANY, ("value", pa.int64())]),
}
_MINUTE_US = 60_000_000
Chosen = Callable[[list[int]], Collection[int]]


class Piece(NamedTuple):
    """Consecutive rows of one position; the first has the number ``row``."""

    position: int
    row: int
    change: str
    stored_at: datetime
    columns: Columns


class Tables:
    """Makes the record batches of a page of one resource; remembers the names that it looked up.

    ``shows_places``: with the names of places. ``only`` chooses of the ids of meters those whose rows are told.
    """

    def __init__(self, resource: Resource, *, shows_places: bool, only: Chosen | None = None) -> None:
        self._resource, self._shows_places, self._only = resource, shows_places, only
        self._meters, self._registers = names.meters(), names.registers()

    def batch(self, pieces: Sequence[Piece]) -> pa.RecordBatch:
        """Return the rows of pieces; a fixed number of queries."""
        schema, told = SCHEMAS[self._resource], self._told(pieces)
        if not told or not len(told["position"]):
            return pa.RecordBatch.from_pylist([], schema=schema)
        told |= self._looked_up(told)
        return pa.record_batch([told[field.name].cast(field.type) for field in schema], schema=schema)

    def count(self, pieces: Sequence[Piece]) -> int:
        """Count the rows of pieces that are told; a query, if they are chosen."""
        return len(self._told(pieces).get("position", ()))

    def _told(self, pieces: Sequence[Piece]) -> dict[str, Any]:
        """Return what pieces say of the meters that are told; empty if they have no rows."""
        given = [self._given(piece) for piece in pieces]
        told = {name: pa.concat_arrays([one[name] for one in given]) for name in given[0]} if given else {}
        if told and self._only is not None:
            wanted = pa.array(self._only(pc.unique(told["meter_id"]).to_pylist()), pa.int64())
            is_told = pc.is_in(told["meter_id"].cast(pa.int64()), value_set=wanted)
            told = {name: column.filter(is_told) for name, column in told.items()}
        return told

    def _given(self, piece: Piece) -> dict[str, Any]:
        """Return what a piece says without looking anything up."""
        rows = len(piece.columns.value)
        return {
            "position": pa.repeat(pa.scalar(piece.position, pa.int64()), rows),
            "row": pa.array(range(piece.row, piece.row + rows), pa.int32()),
            "change": pa.repeat(piece.change, rows),
            "verified_at": pa.repeat(pa.scalar(piece.stored_at, TIME), rows),
            **piece.columns._asdict(),
        }

    def _looked_up(self, told: dict[str, Any]) -> dict[str, Any]:
        uplinks = names.uplinks()  # nearly every batch has others
        for lookup, ids in (
            (self._meters, told["meter_id"]),
            (self._registers, told["register_id"]),
            (uplinks, told["uplink_id"]),
        ):
            lookup.know(ids)
        title, serial = self._meters.columns(told["meter_id"])
        code, kind, unit, scaler = self._registers.columns(told["register_id"])
        (received_at,) = uplinks.columns(told["uplink_id"])
        captured_at = told["captured_us"].cast(TIME)
        scheme, quality = names.schemes(told["scheme"])
        is_flagged = pc.equal(told["change"], Change.FLAGGED.value)
        quality = pc.if_else(is_flagged, pc.binary_join_element_wise(quality, Quality.FAILED.value, " "), quality)
        found = {
            "system_title": title,
            "serial_number": serial,
            "usage_point": names.places(told["meter_id"], captured_at)
            if self._shows_places
            else pa.nulls(len(captured_at), pa.string()),
            "obis_code": code,
            "captured_at": captured_at,
            "scheme": scheme,
            "quality": quality,
            "received_at": received_at,
            "uplink": told["uplink_id"],
        }
        if self._resource is Resource.EVENTS:
            return found
        minutes = told["interval_minutes"]
        length_us = pc.multiply(minutes.cast(pa.int64()), _MINUTE_US)
        end_us = pc.if_else(pc.greater(minutes, 0), pc.add(told["captured_us"], length_us), pa.scalar(None, pa.int64()))
        return found | {
            "kind": kind,
            "interval_end": end_us.cast(TIME),
            "value": names.exact_texts(told["value"], scaler),
            "unit": unit,
            "former_interval_minutes": told["former_minutes"],
        }


def as_objects(resource: Resource, batch: pa.RecordBatch) -> Iterator[ReadingRow | EventRow]:
    """Yield the rows of a record batch as objects."""
    for line in batch.to_pylist():
        line |= {"change": Change(line["change"]), "quality": tuple(map(Quality, line["quality"].split()))}
        if resource is Resource.EVENTS:
            yield EventRow(**line)
        else:
            del line["interval_end"]  # of a reading it follows from the rest
            yield ReadingRow(**line | {"kind": RegisterKind(line["kind"]), "value": Decimal(line["value"])})
