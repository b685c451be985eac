"""Records integrity failures: stores each with its evidence, and counts those beyond the limit.

Groups of like failures (FailureGroup) are counted by the triggers of ``concentrators/migrations/_triggers.py``.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from hashlib import sha256

from django.conf import settings
from django.db import connection

from ami_headend.core.sql import cursor, execute, fetch_rows, int_array, octets_array
from concentrators.failures.kinds import BEFORE_COUNTER, WAITING, FailureKind
from concentrators.ingest.decisions import Failure
from keyvault.schemes.table import ENVELOPES

DIGEST_OCTETS = 16
_DETAIL_LENGTH = 250
_COPY_FAILURES = """COPY concentrators_integrityfailure
    (kind, severity, concentrator_id, uplink_id, frame_index, frame, kid, invocation_counter, meter_id, received_at,
     detail, is_copy) FROM STDIN (FORMAT BINARY)"""
_FAILURE_TYPES = [
    *("varchar", "int2", "int4", "int8", "int4", "bytea", "bytea", "int8", "int4", "timestamptz", "varchar", "bool")
]


def record(failures: Sequence[Failure], uplink_id: int, concentrator_id: int, received_at: datetime) -> None:
    """Count failures and store their evidence, in the current transaction, with three queries.

    Octets that were rejected for the same reason before, and whose evidence is stored, are a copy and no new failure.
    At most FAILURE_ROWS_PER_HOUR rows per concentrator, kind and hour are stored. Beyond that only the tally counts. If
    the counter of a frame was taken, its digest is stored (with a fourth query). Triggers count stored failures without
    copies, by meter and kind (FailureGroup); those rows are locked last, in the order of their key.
    """
    copies = _copies(failures)
    room = _count(Counter(failure.kind for failure in failures), concentrator_id, received_at)
    unkept: list[Failure] = []
    with connection.wrap_database_errors, cursor() as batch, batch.copy(_COPY_FAILURES) as copy:
        copy.set_types(_FAILURE_TYPES)
        for number, failure in enumerate(failures):
            room[failure.kind] -= 1
            if room[failure.kind] >= 0:
                copy.write_row(
                    (
                        failure.kind.value,
                        failure.kind.severity.value,
                        concentrator_id,
                        uplink_id,
                        failure.frame_index,
                        _evidence(failure.octets),
                        failure.kid,
                        failure.counter,
                        failure.meter_id,
                        received_at,
                        failure.detail[:_DETAIL_LENGTH],
                        failure.is_copy or number in copies,
                    )
                )
            elif failure.kind not in BEFORE_COUNTER and failure.kid is not None and failure.counter is not None:
                unkept.append(failure)
    if unkept:
        _keep_digests(unkept, received_at)


def waiting_evidence(uplink_id: int, frame_indexes: Iterable[int]) -> dict[int, int]:
    """Return the ids of stored failures of an uplink's waiting frames, with the frames' indexes.

    The caller holds the uplink's row.
    """
    rows = fetch_rows(
        """SELECT id, frame_index FROM concentrators_integrityfailure
           WHERE uplink_id = %s AND frame_index = ANY(%s::int[]) AND kind = ANY(%s::text[])""",
        uplink_id,
        int_array(frame_indexes),
        _names(WAITING),
    )
    return dict(rows)


def withdraw(failure_ids: Collection[int]) -> None:
    """Delete the evidence of waiting frames that were judged again. Call it after ``record``: groups are
    locked last.
    """
    execute("DELETE FROM concentrators_integrityfailure WHERE id = ANY(%s::bigint[])", int_array(failure_ids))


def uncount(kinds: Counter[FailureKind], concentrator_id: int, received_at: datetime) -> None:
    """Subtract withdrawn failures from the tallies of their hour. Call it after ``record``: tallies are locked last."""
    _count(Counter({kind: -failures for kind, failures in kinds.items()}), concentrator_id, received_at)
    execute(
        """DELETE FROM concentrators_failuretally WHERE failures = 0 AND kind = ANY(%s::text[])
           AND concentrator_id = %s AND hour = date_trunc('hour', %s::timestamptz, 'UTC')""",
        _names(kinds),
        concentrator_id,
        received_at,
    )


def refused_before(frames: Collection[tuple[bytes, int, bytes]]) -> dict[tuple[bytes, int, bytes], FailureKind]:
    """Return why frames, each (kid, counter, octets), were rejected earlier with their counters taken; only those that
    were.

    The oldest rejection of each; one query, and one row for each frame, however often it was sent. A rejection that
    took no counter does not say what happened when the frame came again.
    """
    asked = {(kid, counter, _digest(octets)): (kid, counter, octets) for kid, counter, octets in frames}
    rows = fetch_rows(
        """WITH n AS (SELECT * FROM unnest(%s::bytea[], %s::bigint[], %s::bytea[]) AS n(kid, counter, digest))
           (SELECT DISTINCT ON (n.kid, n.counter, n.digest) n.kid, n.counter, n.digest, f.kind
            FROM n JOIN concentrators_integrityfailure f
                 ON f.kid = n.kid AND f.invocation_counter = n.counter AND substr(sha256(f.frame), 1, 16) = n.digest
            WHERE f.kind <> ALL(%s::text[])
            ORDER BY n.kid, n.counter, n.digest, f.id)
           UNION ALL
           SELECT n.kid, n.counter, n.digest, r.kind
           FROM n JOIN concentrators_refusedframe r
                ON r.kid = n.kid AND r.invocation_counter = n.counter AND r.digest = n.digest""",
        octets_array(kid for kid, _, _ in asked),
        int_array(counter for _, counter, _ in asked),
        octets_array(digest for _, _, digest in asked),
        _names(BEFORE_COUNTER),
    )
    return {asked[row[:3]]: FailureKind(row[3]) for row in rows}


def _digest(octets: bytes) -> bytes:
    """Return the digest of the octets of a frame that evidence stores."""
    return sha256(_evidence(octets)).digest()[:DIGEST_OCTETS]


def _evidence(octets: bytes) -> bytes:
    """Return the octets of a frame that are stored: as many as its envelope may have; the uplink holds the rest."""
    longest = settings.FRAME_MAX_OCTETS
    return octets if len(octets) <= longest else octets[: max(longest, ENVELOPES.of(octets).max_octets)]


def _copies(failures: Sequence[Failure]) -> set[int]:
    """Return the positions of failures that are copies of one earlier in the list, or of stored evidence.

    One query. At most as many of a kind are checked as could be stored, so that a flood does not cost more.
    """
    copies: set[int] = set()
    first: dict[tuple[FailureKind, bytes], int] = {}
    looked_at: Counter[FailureKind] = Counter()
    for number, failure in enumerate(failures):
        place = failure.kind, _digest(failure.octets)
        if first.setdefault(place, number) != number:
            copies.add(number)
        elif looked_at[failure.kind] < settings.FAILURE_ROWS_PER_HOUR:
            looked_at[failure.kind] += 1
        else:
            del first[place]
    rows = fetch_rows(
        """SELECT n.place FROM unnest(%s::int[], %s::text[], %s::bytea[]) AS n(place, kind, digest)
           WHERE EXISTS (SELECT FROM concentrators_integrityfailure f
                         WHERE substr(sha256(f.frame), 1, 16) = n.digest AND f.kind = n.kind)""",
        int_array(first.values()),
        _names(kind for kind, _ in first),
        octets_array(digest for _, digest in first),
    )
    return copies.union(row[0] for row in rows)


def _keep_digests(failures: Sequence[Failure], received_at: datetime) -> None:
    execute(
        """INSERT INTO concentrators_refusedframe (kid, invocation_counter, digest, kind, received_at)
           SELECT kid, counter, digest, kind, %s
           FROM unnest(%s::bytea[], %s::bigint[], %s::bytea[], %s::text[]) AS n(kid, counter, digest, kind)
           ORDER BY 1, 2, 3 ON CONFLICT DO NOTHING""",
        received_at,
        octets_array(failure.kid or b"" for failure in failures),
        int_array(failure.counter or 0 for failure in failures),
        octets_array(_digest(failure.octets) for failure in failures),
        _names(failure.kind for failure in failures),
    )


def _count(kinds: Counter[FailureKind], concentrator_id: int, received_at: datetime) -> dict[FailureKind, int]:
    """Add to the tallies of the hour; return how many more rows of each kind may be stored."""
    names = sorted(kinds)
    rows = fetch_rows(
        """INSERT INTO concentrators_failuretally AS t (concentrator_id, kind, hour, failures)
           SELECT %s, kind, date_trunc('hour', %s::timestamptz, 'UTC'), failures
           FROM unnest(%s::text[], %s::bigint[]) AS n(kind, failures)
           ON CONFLICT (concentrator_id, kind, hour) DO UPDATE SET failures = t.failures + excluded.failures
           RETURNING kind, failures""",
        concentrator_id,
        received_at,
        _names(names),
        int_array(kinds[kind] for kind in names),
    )
    return {
        FailureKind(kind): settings.FAILURE_ROWS_PER_HOUR - (failures - kinds[FailureKind(kind)])
        for kind, failures in rows
    }


def _names(kinds: Iterable[FailureKind]) -> str:
    """Return PostgreSQL's text of an array of kinds."""
    return "{" + ",".join(kinds) + "}"
