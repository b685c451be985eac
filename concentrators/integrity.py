"""Integrity failures: keeping each with its evidence, and counting beyond what is kept."""

from collections import Counter
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import NamedTuple

from django.conf import settings
from django.db import connection

from concentrators.verdicts import FailureKind
from keyvault.sql import cursor, fetch_rows, int_array, octets_array

_DETAIL_LENGTH = 250
_COPY_FAILURES = """COPY concentrators_integrityfailure
    (kind, severity, concentrator_id, uplink_id, frame_index, frame, kid, invocation_counter, meter_id, received_at,
     detail) FROM STDIN (FORMAT BINARY)"""
_FAILURE_TYPES = ["varchar", "int2", "int4", "int8", "int4", "bytea", "bytea", "int8", "int4", "timestamptz", "varchar"]


class Failure(NamedTuple):
    """A refused frame: its place in the uplink, octets, reason, and what it claims of itself."""

    frame_index: int
    octets: bytes
    kind: FailureKind
    detail: str
    kid: bytes | None = None
    counter: int | None = None
    meter_id: int | None = None


def record(failures: Sequence[Failure], uplink_id: int, concentrator_id: int, received_at: datetime) -> None:
    """Count failures and keep their evidence, in the current transaction, with two queries.

    Per concentrator, kind and hour only FAILURE_ROWS_PER_HOUR rows are kept; the tally counts on.
    """
    room = _count(Counter(failure.kind for failure in failures), concentrator_id, received_at)
    with connection.wrap_database_errors, cursor() as batch, batch.copy(_COPY_FAILURES) as copy:
        copy.set_types(_FAILURE_TYPES)
        for failure in failures:
            room[failure.kind] -= 1
            if room[failure.kind] >= 0:
                copy.write_row(
                    (
                        failure.kind.value,
                        failure.kind.severity.value,
                        concentrator_id,
                        uplink_id,
                        failure.frame_index,
                        failure.octets,
                        failure.kid,
                        failure.counter,
                        failure.meter_id,
                        received_at,
                        failure.detail[:_DETAIL_LENGTH],
                    )
                )


def refused_before(frames: Collection[tuple[bytes, int]]) -> dict[tuple[bytes, int, bytes], FailureKind]:
    """Why frames were refused earlier, by (kid, counter, octets), for (kid, counter) given. One query."""
    rows = fetch_rows(
        """SELECT f.kid, f.invocation_counter, f.frame, f.kind
           FROM unnest(%s::bytea[], %s::bigint[]) AS n(kid, counter)
           JOIN concentrators_integrityfailure f ON f.kid = n.kid AND f.invocation_counter = n.counter
           ORDER BY f.id DESC""",
        octets_array(kid for kid, _ in frames),
        int_array(counter for _, counter in frames),
    )
    return {row[:3]: FailureKind(row[3]) for row in rows}  # the oldest row wins


def _count(kinds: Counter[FailureKind], concentrator_id: int, received_at: datetime) -> dict[FailureKind, int]:
    """Add to the tallies of the hour; gives how many rows may still be kept of each kind."""
    names = sorted(kinds)
    rows = fetch_rows(
        """INSERT INTO concentrators_failuretally AS t (concentrator_id, kind, hour, failures)
           SELECT %s, kind, date_trunc('hour', %s::timestamptz, 'UTC'), failures
           FROM unnest(%s::text[], %s::bigint[]) AS n(kind, failures)
           ON CONFLICT (concentrator_id, kind, hour) DO UPDATE SET failures = t.failures + excluded.failures
           RETURNING kind, failures""",
        concentrator_id,
        received_at,
        "{" + ",".join(names) + "}",
        int_array(kinds[kind] for kind in names),
    )
    return {
        FailureKind(kind): settings.FAILURE_ROWS_PER_HOUR - (failures - kinds[FailureKind(kind)])
        for kind, failures in rows
    }
