"""Masked values in the database: stored by COPY, apart from readings, until they are part of a set.

A masked value has 64 bits without a sign; PostgreSQL's bigint has one. It is stored as the number of the same bits:
sums are the same modulo 2^64.
"""

import struct
from collections.abc import Iterable, Sequence
from datetime import datetime

from django.db import connection

from ami_headend.core.sql import cursor, execute, fetch_rows, int_array
from meters.readings.copy_format import COPY_HEAD, COPY_TAIL, PG_EPOCH_S
from meters.values import MASKED, NewValue, Spot, Standing

_HALF, _WHOLE = 2**63, 2**64
_ROW = struct.Struct("!hiqiiihiqiqihih")
_COPY = """COPY meters_maskedreading
    (captured_at, meter_id, register_id, value, uplink_id, interval_minutes, scheme) FROM STDIN (FORMAT BINARY)"""


def signed(value: int) -> int:
    """Return a number of 0 to 2^64 - 1 as the signed number with the same bits."""
    return value - _WHOLE if value >= _HALF else value


def copy_masked(rows: Sequence[NewValue]) -> None:
    """Store masked values by one binary COPY in the current transaction, in the order of the primary key.

    IntegrityError if one is stored already; every time must lie in a partition.
    """
    # fmt: off
    body = [
        _ROW.pack(7, 8, (value.captured_s - PG_EPOCH_S) * 1_000_000, 4, meter_id, 2, value.register_id,
                  8, signed(value.value), 8, uplink_id, 2, value.interval_minutes, 2, scheme or 0)
        for meter_id, value, uplink_id, scheme in rows
    ]
    # fmt: on
    body.sort()
    with connection.wrap_database_errors, cursor() as batch, batch.copy(_COPY) as copy:
        copy.write(COPY_HEAD + b"".join(body) + COPY_TAIL)


def standing_masked(spots: Iterable[Spot]) -> dict[Spot, Standing]:
    """Return the masked values stored at the given places; one query."""
    found = fetch_rows(
        """SELECT n.meter_id, n.register_id, n.captured_s, r.value, r.uplink_id
           FROM unnest(%s::int[], %s::smallint[], %s::bigint[]) AS n(meter_id, register_id, captured_s)
           JOIN meters_maskedreading r ON r.captured_at = to_timestamp(n.captured_s)
                AND r.meter_id = n.meter_id AND r.register_id = n.register_id""",
        *(int_array(column) for column in list(zip(*spots, strict=True))[:3]),
    )
    return {(*row[:3], MASKED): (row[3] % _WHOLE, row[4]) for row in found}


def relabel(meter_id: int, start: datetime, end: datetime | None, interval_minutes: int) -> int:
    """Change the interval length of masked values of a meter in [start, end) that are in no set yet; return how many.

    Values in a set are unchanged: their masks were for another length, so the set has no total.
    """
    return execute(
        """UPDATE meters_maskedreading SET interval_minutes = %s
           WHERE captured_at >= %s AND (%s::timestamptz IS NULL OR captured_at < %s) AND meter_id = %s
                 AND set_id IS NULL AND interval_minutes <> %s""",
        interval_minutes,
        start,
        end,
        end,
        meter_id,
        interval_minutes,
    )
