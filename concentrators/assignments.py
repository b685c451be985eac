"""Which meter belongs to which concentrator, when; and moving totals along when that changes."""

from collections.abc import Collection, Iterable
from datetime import datetime
from typing import NamedTuple

from django.db import transaction
from django.db.models import Q

from concentrators import totals
from concentrators.models import Assignment
from keyvault.sql import fetch_rows, octets_array
from meters.models import MeterStatus


class AssignmentError(ValueError):
    """An assignment that cannot be made; the caller's mistake, named."""


class AssignedMeter:
    """A meter as verification needs it: id, whether it is in service, interval length, and its assignments."""

    __slots__ = ("_assignments", "id", "in_service", "interval_minutes")

    def __init__(self, meter_id: int, status: str, interval_minutes: int) -> None:
        self.id = meter_id
        self.in_service = status == MeterStatus.COMMISSIONED
        self.interval_minutes = interval_minutes
        self._assignments: list[tuple[int, int, int | None]] = []

    def add(self, concentrator_id: int, from_s: int, to_s: int | None) -> None:
        self._assignments.append((concentrator_id, from_s, to_s))

    def concentrator_at(self, time_s: int) -> int | None:
        """The concentrator that the meter is assigned to at a Unix second, or None."""
        for concentrator_id, from_s, to_s in self._assignments:
            if from_s <= time_s and (to_s is None or time_s < to_s):
                return concentrator_id
        return None


class NewAssignment(NamedTuple):
    """A meter and the concentrator it is to belong to, by their ids."""

    meter_id: int
    concentrator_id: int


def assigned_meters(system_titles: Collection[bytes]) -> dict[bytes, AssignedMeter]:
    """Meters and their assignments by system title, in one query."""
    if not system_titles:
        return {}
    rows = fetch_rows(
        """SELECT m.system_title, m.id, m.status, m.interval_minutes, a.concentrator_id,
                  ceil(extract(epoch FROM a.valid_from))::bigint, ceil(extract(epoch FROM a.valid_to))::bigint
           FROM unnest(%s::bytea[]) AS t(title)
           JOIN meters_meter m ON m.system_title = t.title
           LEFT JOIN concentrators_assignment a ON a.meter_id = m.id""",
        octets_array(system_titles),
    )
    meters: dict[bytes, AssignedMeter] = {}
    for title, meter_id, status, interval_minutes, concentrator_id, from_s, to_s in rows:
        meter = meters.get(title)
        if meter is None:
            meter = meters[title] = AssignedMeter(meter_id, status, interval_minutes)
        if concentrator_id is not None:
            meter.add(concentrator_id, from_s, to_s)
    return meters


def assign(pairs: Iterable[NewAssignment | tuple[int, int]], valid_from: datetime) -> int:
    """Assign meters to concentrators from an instant on, ending what stood then; totals from there on move along.

    Gives how many assignments changed. Raises AssignmentError where a meter has an assignment that
    begins later than ``valid_from``. All or nothing, with a fixed number of queries.
    """
    wanted = dict(pairs)
    with transaction.atomic():
        totals.lock()
        standing = {
            row.meter_id: row
            for row in Assignment.objects.filter(meter__in=wanted)
            .filter(Q(valid_to=None) | Q(valid_to__gt=valid_from))
            .order_by("valid_from")  # the last one of each meter stays
        }
        later = [row for row in standing.values() if row.valid_from > valid_from]
        if later:
            raise AssignmentError(f"{later[0]}: the meter has an assignment that begins after {valid_from}")
        changed = {
            meter_id: concentrator_id
            for meter_id, concentrator_id in wanted.items()
            if meter_id not in standing
            or standing[meter_id].concentrator_id != concentrator_id
            or standing[meter_id].valid_to is not None
        }
        totals.shift(list(changed), valid_from, -1)
        ending = [standing[meter_id] for meter_id in changed if meter_id in standing]
        same_instant = [row.pk for row in ending if row.valid_from == valid_from]
        Assignment.objects.filter(pk__in=same_instant).delete()
        Assignment.objects.filter(pk__in=[row.pk for row in ending]).update(valid_to=valid_from)
        Assignment.objects.bulk_create(
            [Assignment(meter_id=m, concentrator_id=c, valid_from=valid_from) for m, c in changed.items()]
        )
        totals.shift(list(changed), valid_from, +1)
    return len(changed)
