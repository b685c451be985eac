"""Readings and events in the database: the catalogue for reading payloads, and values stored by COPY."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from django.db import connection

from ami_headend.core.sql import cursor, execute, fetch_rows, int_array, octets_array
from meters.contents.lines import Catalogue, RegisterRow
from meters.contents.table import Readers
from meters.readings import copy_format, partitions, push_profiles
from meters.readings.copy_format import COPY_HEAD, COPY_TAIL
from meters.readings.obis import RegisterKind
from meters.values import NewSignature, NewValue, Spot, Standing

_COPY_READINGS = """COPY meters_reading
    (captured_at, meter_id, register_id, value, uplink_id, interval_minutes, scheme) FROM STDIN (FORMAT BINARY)"""


class RegistersKept(NamedTuple):
    """The register table as read under a generation, the readers that use it, and from when on readings are stored:
    what is older is archived (None: nothing is).
    """

    generation: int | None
    has_profiles: bool
    catalogue: Catalogue
    readers: Readers
    stored_from: datetime | None = None


NO_REGISTERS = RegistersKept(None, False, Catalogue({}), Readers(Catalogue({})))


class Registers:
    """The register table, cached by a worker until its generation changes.

    It is read when a batch begins, never while the batch is decided. Threads may share it: each continues with the
    table that it got.
    """

    def __init__(self) -> None:
        self._kept = NO_REGISTERS

    def begin_batch(self, generation: int | None, *, with_profiles: bool = False) -> RegistersKept:
        """Return the table; read it again if its generation changed, because bounds may have changed too.

        ``with_profiles``: with the push profiles, by one more query where they are not kept yet.
        """
        kept = self._kept
        if generation is None or generation != kept.generation or with_profiles > kept.has_profiles:
            profiles = push_profiles.active() if with_profiles else ()
            catalogue = Catalogue({row[0]: RegisterRow(*row[1:]) for row in self._rows_of()}, profiles)
            readers = Readers(catalogue)
            kept = self._kept = RegistersKept(generation, with_profiles, catalogue, readers, self._stored_from())
        return kept

    def _stored_from(self) -> datetime | None:
        return partitions.stored_from()

    def _rows_of(self) -> list[tuple[Any, ...]]:
        return fetch_rows(
            """SELECT obis_code, id, unit, scaler, kind = %s, kind = %s, coalesce(minimum, -9223372036854775808),
                      coalesce(maximum, 9223372036854775807) FROM meters_register""",
            RegisterKind.INTERVAL.value,
            RegisterKind.EVENT.value,
        )


def copy_readings(rows: Sequence[NewValue]) -> list[bytes]:
    """Store readings by one binary COPY in the current transaction; return the rows as they were copied.

    IntegrityError if one is stored already; every time must lie in a partition. Rows go in the order of the primary
    key, so that two transactions that meet in the index wait for each other, but never in a circle.
    """
    body = copy_format.rows_of(rows)
    with connection.wrap_database_errors, cursor() as batch, batch.copy(_COPY_READINGS) as copy:
        copy.write(COPY_HEAD + b"".join(body) + COPY_TAIL)
    return body


def insert_signatures(rows: Sequence[NewSignature]) -> None:
    """Store the signatures of signed readings, one statement; IntegrityError if one is stored already."""
    execute(
        """INSERT INTO meters_signature (captured_at, meter_id, epoch, number, uplink_id, octets)
           SELECT to_timestamp(captured_s), meter_id, epoch, number, uplink_id, octets
           FROM unnest(%s::bigint[], %s::int[], %s::int[], %s::bigint[], %s::bigint[], %s::bytea[])
                AS n(captured_s, meter_id, epoch, number, uplink_id, octets)
           ORDER BY 1, 2, 3, 4""",
        int_array(row.captured_s for row in rows),
        int_array(row.meter_id for row in rows),
        int_array(row.epoch for row in rows),
        int_array(row.number for row in rows),
        int_array(row.uplink_id for row in rows),
        octets_array(row.octets for row in rows),
    )


def insert_events(rows: Sequence[NewValue], received_at: Mapping[int, datetime]) -> None:
    """Store meter events, with ``received_at`` by uplink; IntegrityError if one is stored already."""
    fetch_rows(
        """INSERT INTO meters_meterevent (meter_id, register_id, captured_at, value, uplink_id, received_at, scheme)
           SELECT meter_id, register_id, to_timestamp(captured_s), value, uplink_id, received_at, scheme
           FROM unnest(%s::int[], %s::smallint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::timestamptz[],
                       %s::smallint[])
                AS n(meter_id, register_id, captured_s, value, uplink_id, received_at, scheme)
           ORDER BY 1, 2, 3, 4
           RETURNING 1""",
        int_array(meter_id for meter_id, _, _, _ in rows),
        int_array(value.register_id for _, value, _, _ in rows),
        int_array(value.captured_s for _, value, _, _ in rows),
        int_array(value.value for _, value, _, _ in rows),
        int_array(uplink_id for _, _, uplink_id, _ in rows),
        [received_at[uplink_id] for _, _, uplink_id, _ in rows],
        [scheme for *_, scheme in rows],
    )


def standing_values(spots: Iterable[Spot]) -> dict[Spot, Standing]:
    """Return the values stored at the given places; one query for each table."""
    readings: list[Spot] = []
    events: list[Spot] = []
    for one in spots:
        (readings if one[3] is None else events).append(one)
    standing: dict[Spot, Standing] = {}
    if readings:
        found = fetch_rows(
            """SELECT n.meter_id, n.register_id, n.captured_s, r.value, r.uplink_id
               FROM unnest(%s::int[], %s::smallint[], %s::bigint[]) AS n(meter_id, register_id, captured_s)
               JOIN meters_reading r ON r.captured_at = to_timestamp(n.captured_s)
                    AND r.meter_id = n.meter_id AND r.register_id = n.register_id""",
            *(int_array(column) for column in list(zip(*readings, strict=True))[:3]),
        )
        standing.update({(*row[:3], None): row[3:] for row in found})
    if events:
        found = fetch_rows(
            """SELECT n.meter_id, n.register_id, n.captured_s, n.value, e.value, e.uplink_id
               FROM unnest(%s::int[], %s::smallint[], %s::bigint[], %s::bigint[])
                    AS n(meter_id, register_id, captured_s, value)
               JOIN meters_meterevent e ON e.captured_at = to_timestamp(n.captured_s)
                    AND e.meter_id = n.meter_id AND e.register_id = n.register_id AND e.value = n.value""",
            *(int_array(column) for column in zip(*events, strict=True)),
        )
        standing.update({row[:4]: row[4:] for row in found})
    return standing
