"""The cache of meters and registers of a worker, valid until a meter, an assignment or a register changes.

A trigger gives the registry a new generation with every statement that changes a meter, an assignment or an interval
length, or that tells a meter to change its length. The number is random, so that it does not come back after a rollback
or a restore. The cache is valid while the generation stays the same.
"""

from collections.abc import Collection, Mapping
from typing import NamedTuple

from ami_headend.core.sql import fetch_rows, octets_array
from concentrators.ingest.facts import AssignedMeter
from meters.models import MeterStatus
from meters.registry.interval_lengths import Lengths

_KEPT_AT_MOST = 2_000_000  # some 300 octets each


class _Kept(NamedTuple):
    """Meters by system title, read under one generation of the registry."""

    generation: int | None
    meters: dict[bytes, AssignedMeter]


class KeptMeters:
    """The meters that a worker has cached. Threads may share it: each keeps what it was given."""

    def __init__(self) -> None:
        self._kept = _Kept(None, {})

    def __contains__(self, system_title: bytes) -> bool:
        return system_title in self._kept.meters

    def read(self, system_titles: Collection[bytes]) -> Mapping[bytes, AssignedMeter]:
        """Return meters with their assignments by system title, and maybe others; at most two queries.

        A title that is missing in the result has no meter.
        """
        return self.look(system_titles)[0]

    def look(self, system_titles: Collection[bytes]) -> tuple[Mapping[bytes, AssignedMeter], int | None]:
        """Like ``read``, with the generation of the registers at that time; None if there is none."""
        if not system_titles:
            return {}, None
        rows = fetch_rows("SELECT number, registers FROM concentrators_registrygeneration")
        generation, registers = rows[0] if rows else (None, None)
        kept = self._kept
        if generation is None or generation != kept.generation or len(kept.meters) > _KEPT_AT_MOST:
            kept = self._kept = _Kept(generation, {})
        missing = [title for title in system_titles if title not in kept.meters]
        if missing:
            kept.meters.update(_read(missing))
        return kept.meters, registers


def _read(system_titles: Collection[bytes]) -> dict[bytes, AssignedMeter]:
    rows = fetch_rows(
        """SELECT m.system_title, m.id, m.serial_number, m.status, m.interval_minutes,
                  (SELECT array_agg(ARRAY[extract(epoch FROM valid_to)::bigint, l.interval_minutes] ORDER BY valid_to)
                   FROM meters_earlierlength l WHERE l.meter_id = m.id),
                  (SELECT array_agg(ARRAY[(parameters->>'from_s')::bigint, (parameters->>'interval_minutes')::bigint])
                   FROM concentrators_command c WHERE c.meter_id = m.id AND c.kind = 5
                        AND c.entered_at IS NULL AND c.state NOT IN ('refused', 'cancelled')),
                  a.concentrator_id,
                  ceil(extract(epoch FROM a.valid_from))::bigint, ceil(extract(epoch FROM a.valid_to))::bigint
           FROM unnest(%s::bytea[]) AS t(title)
           JOIN meters_meter m ON m.system_title = t.title
           LEFT JOIN concentrators_assignment a ON a.meter_id = m.id
           ORDER BY a.valid_from""",
        octets_array(system_titles),
    )
    meters: dict[bytes, AssignedMeter] = {}
    for (
        title,
        meter_id,
        serial_number,
        status,
        interval_minutes,
        ended,
        announced,
        concentrator_id,
        from_s,
        to_s,
    ) in rows:
        meter = meters.get(title)
        if meter is None:
            lengths = Lengths(ended or (), interval_minutes, announced or ()) if ended or announced else None
            meter = meters[title] = AssignedMeter(
                meter_id,
                interval_minutes,
                lengths,
                in_service=status == MeterStatus.COMMISSIONED,
                is_retired=status == MeterStatus.RETIRED,
                serial_number=serial_number,
            )
        if concentrator_id is not None:
            meter.add(concentrator_id, from_s, to_s)
    return meters
