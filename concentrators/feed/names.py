"""What stands in the feed for the ids of stored rows: meters, places, registers, schemes, times of receipt.

Names are looked up once for a page, in Arrow arrays, whole columns at a time.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from functools import cache
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ami_headend.core.sql import fetch_rows, int_array
from concentrators.feed.rows import Quality
from keyvault.schemes.table import HOP, SCHEMES, scheme_numbered
from meters.contents.signed import SIGNED
from meters.readings.queries import exact_text

TIME = pa.timestamp("us", tz="UTC")
_IN_CLEAR = "in clear"
_PLAIN = -6  # Arrow writes smaller numbers with an exponent


@cache
def quality_of(scheme: str) -> tuple[Quality, ...]:
    """Return what is known of values that a scheme protected."""
    line = SCHEMES.get(scheme)
    if line is None:
        return (Quality.UNKNOWN_PROTECTION,)
    if not line.is_authenticated:
        return (Quality.UNAUTHENTICATED,)
    if line.name == HOP:
        return (Quality.TRUSTED_AT_CONCENTRATOR,)
    more = [Quality.CARRIED_IN_CLEAR] if line.caveat.endswith(_IN_CLEAR) else []
    more += [Quality.SIGNED] if line.content == SIGNED.name else []
    return (Quality.AUTHENTIC, *more)


class Lookup:
    """Values of several columns by id, null where an id is unknown."""

    def __init__(self, statement: str, types: Sequence[Any]) -> None:
        self._statement, self._types = statement, types
        self._rows: dict[int, tuple[Any, ...]] = {}
        self._ids: Any = pa.array([], pa.int64())
        self._values: list[Any] = [pa.array([], kind) for kind in types]

    def know(self, ids: Any) -> None:
        """Look up the ids of a column that are not known yet: one query, or none."""
        missing = [one for one in pc.unique(ids).to_pylist() if one not in self._rows]
        if not missing:
            return
        self._rows |= {row[0]: row[1:] for row in fetch_rows(self._statement, int_array(missing))}
        self._ids = pa.array(self._rows.keys(), pa.int64())
        columns = zip(*self._rows.values(), strict=True) if self._rows else [()] * len(self._types)
        self._values = [pa.array(column, kind) for column, kind in zip(columns, self._types, strict=True)]

    def columns(self, ids: Any) -> list[Any]:
        """Return the columns for the ids of rows, which are known."""
        index = pc.index_in(ids.cast(pa.int64()), value_set=self._ids)
        return [values.take(index) for values in self._values]


def meters() -> Lookup:
    """System title in hex digits, serial number."""
    return Lookup(
        "SELECT id, encode(system_title, 'hex'), serial_number FROM meters_meter WHERE id = ANY(%s::int[])",
        [pa.string(), pa.string()],
    )


def registers() -> Lookup:
    """OBIS code, kind, unit, scaler."""
    return Lookup(
        "SELECT id, obis_code, kind, unit, scaler FROM meters_register WHERE id = ANY(%s::int[])",
        [pa.string(), pa.string(), pa.string(), pa.int16()],
    )


def uplinks() -> Lookup:
    """When an uplink was received, by a right clock."""
    return Lookup(
        "SELECT id, coalesce(corrected_at, received_at) FROM concentrators_uplink WHERE id = ANY(%s::bigint[])",
        [TIME],
    )


def schemes(numbers: Any) -> tuple[Any, Any]:
    """Return the names of schemes for a column of numbers, and what is known of their values, space between."""
    known = [None, *(one for one in pc.unique(numbers).to_pylist() if one is not None)]
    lines = [scheme_numbered(number).name for number in known]
    index = pc.fill_null(pc.index_in(numbers, value_set=pa.array(known[1:], pa.int16())), -1)
    index = pc.add(index, 1)
    qualities = pa.array([" ".join(quality_of(name)) for name in lines], pa.string())
    return pa.array(lines, pa.string()).take(index), qualities.take(index)


_PLACES = """
SELECT i.meter_id, p.name, i.installed_at, i.removed_at
FROM meters_installation i JOIN meters_place p ON p.id = i.place_id
WHERE i.meter_id = ANY(%s::int[]) AND i.installed_at <= %s AND (i.removed_at IS NULL OR i.removed_at > %s)
"""


def places(meter_ids: Any, captured_at: Any) -> Any:
    """Return the name of the place where each meter hung at each time; null where it hung nowhere. One query."""
    span = pc.min_max(captured_at).as_py()
    first, last = span["min"], span["max"]
    stays: dict[int, list[tuple[str, datetime, datetime | None]]] = {}
    for meter_id, *stay in fetch_rows(_PLACES, int_array(pc.unique(meter_ids).to_pylist()), last, first):
        stays.setdefault(meter_id, []).append((stay[0], stay[1], stay[2]))
    # Nearly all meters hang at one place throughout; the rows of the others are looked at one by one.
    steady = {
        meter_id: found[0][0]
        for meter_id, found in stays.items()
        if found[0][1] <= first and (found[0][2] is None or found[0][2] > last)
    }
    names = pa.array(steady.values(), pa.string())
    shown = names.take(pc.index_in(meter_ids.cast(pa.int64()), value_set=pa.array(steady.keys(), pa.int64())))
    moving = pa.array(stays.keys() - steady.keys(), pa.int64())
    if not len(moving):
        return shown
    listed = shown.to_pylist()
    for row in pc.indices_nonzero(pc.is_in(meter_ids.cast(pa.int64()), value_set=moving)).to_pylist():
        listed[row] = _stay_at(stays[meter_ids[row].as_py()], captured_at[row].as_py())
    return pa.array(listed, pa.string())


def _stay_at(stays: Iterable[tuple[str, datetime, datetime | None]], at: datetime) -> str | None:
    return next((name for name, since, until in stays if since <= at and (until is None or at < until)), None)


def exact_texts(values: Any, scalers: Any) -> Any:
    """Write value x 10^scaler in all its digits, for columns of each."""
    texts = None
    for scaler in pc.unique(scalers).to_pylist():
        if _PLAIN <= scaler <= 0:  # the same digits, with the point elsewhere
            wide = values.cast(pa.decimal128(19, 0))
            kind = pa.decimal128(38, -scaler)
            text = pa.Array.from_buffers(kind, len(wide), wide.buffers(), wide.null_count, wide.offset).cast(
                pa.string()
            )
        else:
            text = pa.array([exact_text(value, scaler) for value in values.to_pylist()], pa.string())
        texts = text if texts is None else pc.if_else(pc.equal(scalers, scaler), text, texts)
    return texts
