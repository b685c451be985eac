"""What a comparison of registers with intervals looks at, for many meters in one query each."""

from collections import defaultdict
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from ami_headend.core.sql import fetch_rows, int_array, select
from meters.models import Meter, Register
from meters.readings import register_check
from meters.readings.obis import RegisterKind
from meters.readings.queries import Stored
from meters.readings.register_check import Entry, Measured, Pair

ByRegister = defaultdict[int, dict[int, int]]  # values by Unix second, by register
Span = tuple[int, int, int, int]  # meter, interval register, start and end (Unix seconds)


def pairs() -> list[Pair]:
    """Return the registers of the catalogue that can be compared."""
    return register_check.pairs(
        Entry(row.pk, row.obis_code, RegisterKind(row.kind), row.unit, row.scaler, row.maximum)
        for row in Register.objects.all()
    )


def counter_ids(of: Collection[Pair]) -> list[int]:
    """Return the cumulative registers of pairs, by id."""
    return sorted({one.register_id for pair in of for one in pair.counters})


def lengths(meter_ids: Collection[int]) -> dict[int, int]:
    """Return the present interval lengths of meters, in minutes."""
    return dict(Meter.objects.filter(pk__in=meter_ids).values_list("pk", "interval_minutes"))


def register_readings(
    of: Collection[Pair], meter_ids: Collection[int], start: datetime, end: datetime
) -> dict[int, ByRegister]:
    """Return the readings of cumulative registers in [start, end], by meter; only of meters that have some."""
    found: dict[int, ByRegister] = {}
    for meter_id, register_id, at_s, value in _readings("value", counter_ids(of), meter_ids, start, end):
        found.setdefault(meter_id, defaultdict(dict))[register_id][at_s] = value
    return found


def intervals(
    of: Collection[Pair], meter_ids: Collection[int], start: datetime, end: datetime
) -> defaultdict[tuple[int, int], list[Measured]]:
    """Return the intervals that begin in [start, end], by meter and register."""
    found: defaultdict[tuple[int, int], list[Measured]] = defaultdict(list)
    registers = sorted(pair.interval_id for pair in of)
    for meter_id, register_id, at_s, minutes, value in _readings(
        "interval_minutes, value", registers, meter_ids, start, end
    ):
        found[meter_id, register_id].append(Measured(at_s, minutes, value))
    return found


def stored(spans: Sequence[Span]) -> list[Stored]:
    """Return the intervals of spans as they are stored, in the order of their key."""
    # Each span by itself (OFFSET 0): who expects few readings would compare all of the period with each span.
    rows = select(
        f"""SELECT {", ".join(f"r.{name}" for name in Stored._fields)}
            FROM unnest(%s::int[], %s::smallint[], %s::bigint[], %s::bigint[])
                     AS n(meter_id, register_id, start_s, end_s)
            CROSS JOIN LATERAL (
                SELECT * FROM meters_reading
                WHERE meter_id = n.meter_id AND register_id = n.register_id
                      AND captured_at >= to_timestamp(n.start_s) AND captured_at < to_timestamp(n.end_s)
                      AND captured_at >= to_timestamp(%s) AND captured_at < to_timestamp(%s) OFFSET 0
            ) r
            ORDER BY r.captured_at, r.meter_id, r.register_id""",
        [
            *(int_array(span[column] for span in spans) for column in range(4)),
            min(span[2] for span in spans),
            max(span[3] for span in spans),
        ],
    )
    return [Stored._make(row) for row in rows]


def meters_with_registers(of: Collection[Pair], start: datetime, end: datetime) -> list[int]:
    """Return the meters that have a reading of a cumulative register in (start, end]."""
    rows = fetch_rows(
        """SELECT DISTINCT meter_id FROM meters_reading
           WHERE captured_at > %s AND captured_at <= %s AND register_id = ANY(%s::smallint[])""",
        start,
        end,
        int_array(counter_ids(of)),
    )
    return [meter_id for (meter_id,) in rows]


def _readings(
    columns: str, register_ids: Collection[int], meter_ids: Collection[int], start: datetime, end: datetime
) -> list[Any]:
    return select(
        f"""SELECT meter_id, register_id, extract(epoch FROM captured_at)::bigint, {columns} FROM meters_reading
            WHERE captured_at >= %s AND captured_at <= %s AND meter_id = ANY(%s::int[])
                  AND register_id = ANY(%s::smallint[])""",
        [start, end, int_array(meter_ids), int_array(register_ids)],
    )
