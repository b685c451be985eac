"""Assignments of meters to concentrators over time, with totals moved along when they change."""

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from django.db import transaction
from django.db.models import Q, QuerySet
from django.utils import timezone

from ami_headend.core.sql import fetch_rows
from concentrators.commands import concentrator_titles
from concentrators.models import Assignment, Concentrator
from concentrators.totals import totals
from meters.models import Installation, Meter, MeterStatus, Place
from meters.readings.partitions import stored_from
from meters.registry import lifecycle
from meters.registry.interval_lengths import LONGEST_MINUTES


class AssignmentError(ValueError):
    """An assignment that cannot be made. The message names the caller's mistake."""


class NewAssignment(NamedTuple):
    """A meter and its future concentrator, by their ids."""

    meter_id: int
    concentrator_id: int


def holding(at: datetime) -> QuerySet[Assignment]:
    """Return the assignments in force at an instant."""
    return Assignment.objects.filter(Q(valid_to=None) | Q(valid_to__gt=at), valid_from__lte=at)


def assign(pairs: Iterable[NewAssignment | tuple[int, int]], valid_from: datetime) -> int:
    """Assign meters to concentrators from an instant on, ending present assignments; later totals move along.

    Meters of concentrators with a system title are then told the title (concentrators.commands.concentrator_titles).
    Return how many assignments changed. AssignmentError if a meter has an assignment that begins after ``valid_from``,
    or if another cell has it, or one of its concentrators.
    All or nothing, with a fixed number of queries.
    """
    wanted = dict(pairs)
    if not wanted:
        return 0
    with transaction.atomic():
        totals.lock()
        standing = {
            row.meter_id: row
            for row in Assignment.objects.filter(meter__in=wanted)
            .filter(Q(valid_to=None) | Q(valid_to__gt=valid_from))
            .order_by("valid_from")  # the last one of each meter wins
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
        _require_here(changed, [*changed.values(), *(standing[pk].concentrator_id for pk in changed if pk in standing)])
        _require_totals(standing.keys() & changed.keys(), valid_from)
        # An interval that began earlier may count for the concentrator at its end.
        start = valid_from - timedelta(minutes=LONGEST_MINUTES)
        totals.shift(list(changed), start, -1)
        ending = [standing[meter_id] for meter_id in changed if meter_id in standing]
        same_instant = [row.pk for row in ending if row.valid_from == valid_from]
        Assignment.objects.filter(pk__in=same_instant).delete()
        Assignment.objects.filter(pk__in=[row.pk for row in ending]).update(valid_to=valid_from)
        Assignment.objects.bulk_create(
            [Assignment(meter_id=m, concentrator_id=c, valid_from=valid_from) for m, c in changed.items()]
        )
        totals.shift(list(changed), start, +1)
        concentrator_titles.tell(changed, valid_from, timezone.now())
    return len(changed)


def end(meter_ids: Sequence[int], at: datetime) -> None:
    """End the assignments of meters at an instant; totals of later intervals move along.

    AssignmentError if one of them begins later.
    """
    with transaction.atomic():
        totals.lock()
        standing = Assignment.objects.filter(Q(valid_to=None) | Q(valid_to__gt=at), meter__in=meter_ids)
        later = standing.filter(valid_from__gte=at).first()
        if later is not None:
            raise AssignmentError(f"{later}: the meter has an assignment that begins after {at}")
        _require_totals([row.meter_id for row in standing], at)
        totals.shift(meter_ids, at, -1)
        standing.update(valid_to=at)
        totals.shift(meter_ids, at, +1)


def moved_away(concentrator_ids: Collection[int]) -> dict[int, str]:
    """Return which concentrators are of another cell, and of which. The others stay until this transaction ends."""
    rows = fetch_rows(
        """SELECT id, moved_to FROM concentrators_concentrator WHERE id = ANY(%s::bigint[]) ORDER BY id FOR SHARE""",
        [*set(concentrator_ids)],
    )
    return {pk: cell for pk, cell in rows if cell}


def _require_here(meter_ids: Collection[int], concentrator_ids: Collection[int]) -> None:
    for pk, cell in moved_away(concentrator_ids).items():
        raise AssignmentError(
            f"concentrator {Concentrator.objects.get(pk=pk)} was moved to cell {cell}: assign it there"
        )
    for meter in Meter.objects.filter(pk__in=meter_ids, status=MeterStatus.MOVED).order_by("pk")[:1]:
        raise AssignmentError(f"meter {meter} was moved to another cell: assign it there")


def _require_totals(meter_ids: Collection[int], at: datetime) -> None:
    """AssignmentError if meters that had a concentrator would change it in a time whose readings are archived."""
    first = stored_from()
    if meter_ids and first is not None and at < first:
        raise AssignmentError(
            f"readings before {first:%Y-%m} are archived, and their totals stay with the concentrator of then:"
            f" choose {first:%Y-%m-%dT%H:%MZ} or later"
        )


def exchange(place: Place, old: Meter, new: Meter, at: datetime) -> Installation:
    """Take one meter down from a place and hang another one there at the same instant; all or nothing.

    From then on no interval is expected of the old meter. It stays in service, so that its late frames are accepted.
    The new one is assigned to the old one's concentrator, unless it has one already: its part of the interval that the
    exchange cut counts there. RegistryError or AssignmentError if that is impossible.
    """
    with transaction.atomic():
        totals.lock()  # before any row, as always
        installed = lifecycle.exchange(place, old, new, at)
        open_ = Q(valid_to=None) | Q(valid_to__gt=at)
        standing = Assignment.objects.filter(open_, meter=old, valid_from__lt=at).first()
        if standing is not None:
            end([old.pk], at)
            if not Assignment.objects.filter(open_, meter=new).exists():
                assign([(new.pk, standing.concentrator_id)], at)
    return installed
