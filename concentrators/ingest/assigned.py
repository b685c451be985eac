"""Meters as verification needs them, kept per process for as long as no meter and no assignment changes.

Every statement that changes a meter, an assignment or an interval length, or that tells a meter to change
its length, gives the registry another generation, at random,
in its own transaction (a trigger, so that nobody can forget it; at random, so that a number never
comes back after a rollback or a restore). What was read under a generation holds while it stands.
"""

from collections.abc import Collection

from ami_headend.core.sql import fetch_rows, octets_array
from meters.models import MeterStatus
from meters.readings.expectation import assignment_of
from meters.registry.interval_lengths import Lengths

_KEPT_AT_MOST = 2_000_000  # some 300 octets each


class AssignedMeter:
    """A meter as verification needs it: id, whether it is in service, interval length, and its assignments.

    ``lengths`` is None but where another interval length held once, or may hold already.
    """

    __slots__ = ("_assignments", "id", "in_service", "interval_minutes", "is_retired", "lengths")

    def __init__(self, meter_id: int, status: str, interval_minutes: int, lengths: Lengths | None = None) -> None:
        self.id = meter_id
        self.in_service = status == MeterStatus.COMMISSIONED
        self.is_retired = status == MeterStatus.RETIRED
        self.interval_minutes = interval_minutes
        self.lengths = lengths
        self._assignments: list[tuple[int, int, int | None]] = []

    def add(self, concentrator_id: int, from_s: int, to_s: int | None) -> None:
        self._assignments.append((concentrator_id, from_s, to_s))

    def concentrator_of(self, start_s: int, minutes: int) -> int | None:
        """The concentrator that an interval counts to, or None; ``start_s`` is its start in Unix seconds."""
        return assignment_of(self._assignments, start_s, start_s + 60 * minutes)


class _Kept:
    """The meters read under one generation of the registry."""

    def __init__(self) -> None:
        self.generation: int | None = None
        self.registers: int | None = None
        self.meters: dict[bytes, AssignedMeter] = {}

    def under(self, generation: int | None) -> dict[bytes, AssignedMeter]:
        """What is kept under a generation; nothing under another one, or where none is known."""
        if generation is None or generation != self.generation or len(self.meters) > _KEPT_AT_MOST:
            self.generation, self.meters = generation, {}
        return self.meters


_kept = _Kept()


def assigned_meters(system_titles: Collection[bytes]) -> dict[bytes, AssignedMeter]:
    """Meters and their assignments by system title, and maybe others; at most two queries.

    A title that is not found is no meter. What is given must not be changed.
    """
    if not system_titles:
        return {}
    rows = fetch_rows("SELECT number, registers FROM concentrators_registrygeneration")
    _kept.registers = rows[0][1] if rows else None
    meters = _kept.under(rows[0][0] if rows else None)
    missing = [title for title in system_titles if title not in meters]
    if missing:
        meters.update(_read(missing))
    return meters


def registers_generation() -> int | None:
    """The generation of the register catalogue when ``assigned_meters`` looked last; None where none is known."""
    return _kept.registers


def _read(system_titles: Collection[bytes]) -> dict[bytes, AssignedMeter]:
    rows = fetch_rows(
        """SELECT m.system_title, m.id, m.status, m.interval_minutes,
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
    for title, meter_id, status, interval_minutes, ended, announced, concentrator_id, from_s, to_s in rows:
        meter = meters.get(title)
        if meter is None:
            lengths = Lengths(ended or (), interval_minutes, announced or ()) if ended or announced else None
            meter = meters[title] = AssignedMeter(meter_id, status, interval_minutes, lengths)
        if concentrator_id is not None:
            meter.add(concentrator_id, from_s, to_s)
    return meters
