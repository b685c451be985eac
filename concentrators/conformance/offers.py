"""Octets of a conformance run on their way: fetched and acknowledged by the meter's concentrator, like commands."""

from collections.abc import Sequence
from datetime import datetime

from django.db.models import F, QuerySet
from django.utils import timezone

from ami_headend.core.sql import execute, fetch_rows, int_array, octets_array
from concentrators.commands.downlink import Offer
from concentrators.fleet import laboratory
from concentrators.fleet.assignments import holding
from concentrators.models import Assignment, Concentrator, LaboratoryOffer, RepeatedUplink
from meters.models import Meter

_NEXT_NUMBER = "nextval(pg_get_serial_sequence('concentrators_command', 'id'))"


def numbers(count: int) -> list[int]:
    """Numbers of commands that no command has."""
    rows = fetch_rows(f"SELECT {_NEXT_NUMBER} FROM generate_series(1, %s)", count)
    return [row[0] for row in rows]


def put(meter: Meter, octets: Sequence[bytes]) -> list[int]:
    """Offer octets to the meter's concentrator, in this order; their numbers."""
    rows = fetch_rows(
        f"""INSERT INTO concentrators_laboratoryoffer (number, meter_id, octets)
            SELECT {_NEXT_NUMBER}, %s, o.octets FROM unnest(%s::bytea[]) WITH ORDINALITY AS o(octets, place)
            ORDER BY o.place RETURNING number""",
        meter.pk,
        octets_array(octets),
    )
    return [row[0] for row in rows]


def are_delivered(offered: Sequence[int]) -> bool:
    """Whether the concentrator says of all of these that it passed them on."""
    return not LaboratoryOffer.objects.filter(number__in=offered, delivered_at=None).exists()


def lose(meter: Meter, uplinks: int) -> None:
    """Lose the next uplinks of the meter's concentrator, none with 0: they are acknowledged, and never stored."""
    Concentrator.objects.filter(pk__in=_concentrators_of(meter)).update(uplinks_to_lose=uplinks)


def are_to_lose(meter: Meter) -> bool:
    """Whether uplinks of the meter's concentrator are to be lost yet."""
    return Concentrator.objects.filter(pk__in=_concentrators_of(meter), uplinks_to_lose__gt=0).exists()


def is_lost(concentrator: Concentrator) -> bool:
    """Whether this uplink of a concentrator is lost, which takes it off those that are to be.

    Never in production, and never of a concentrator without a laboratory meter, whatever its row says.
    """
    if not concentrator.uplinks_to_lose or not laboratory.is_allowed():
        return False
    of_laboratory = holding(timezone.now()).filter(concentrator=concentrator, meter__is_laboratory=True)
    rows = Concentrator.objects.filter(pk=concentrator.pk, uplinks_to_lose__gt=0)
    return of_laboratory.exists() and bool(rows.update(uplinks_to_lose=F("uplinks_to_lose") - 1))


def _concentrators_of(meter: Meter) -> QuerySet[Assignment, int]:
    return holding(timezone.now()).filter(meter=meter).values_list("concentrator_id", flat=True)


def withdraw(meter: Meter) -> None:
    """Nothing more is offered to the meter, and nothing noted or lost of its concentrator."""
    lose(meter, 0)
    LaboratoryOffer.objects.filter(meter=meter).delete()
    RepeatedUplink.objects.filter(concentrator__assignments__meter=meter).delete()


def fetch(concentrator_id: int, limit: int, now: datetime) -> list[Offer]:
    """What waits for meters of a concentrator, each once. One query; another where something waits."""
    mine = LaboratoryOffer.objects.filter(offered_at=None, meter__in=_meters_of(concentrator_id, now))
    rows = list(mine.order_by("number").values_list("number", "meter__system_title", "octets")[: max(0, limit)])
    if rows:
        execute(
            "UPDATE concentrators_laboratoryoffer SET offered_at = %s WHERE number = ANY(%s::bigint[])",
            now,
            int_array(number for number, *_ in rows),
        )
    return [Offer(number, bytes(title), bytes(octets)) for number, title, octets in rows]


def receipt(concentrator_id: int, number: int, *, delivered: bool, now: datetime) -> bool:
    """Octets were passed on to their meter, or were not and are offered again; False where this fetched none such."""
    mine = LaboratoryOffer.objects.filter(number=number, offered_at__isnull=False)
    mine = mine.filter(meter__in=_meters_of(concentrator_id, now))
    return bool(mine.update(delivered_at=now) if delivered else mine.update(offered_at=None))


def posted_again(concentrator_id: int, uplink_id: int, now: datetime) -> None:
    """Note that a body came again, where its concentrator has octets for a laboratory meter. One query."""
    execute(
        """INSERT INTO concentrators_repeateduplink (concentrator_id, uplink_id, posted_at)
           SELECT a.concentrator_id, %s, %s FROM concentrators_laboratoryoffer o
           JOIN concentrators_assignment a ON a.meter_id = o.meter_id
           WHERE a.concentrator_id = %s AND a.valid_from <= %s AND (a.valid_to IS NULL OR a.valid_to > %s) LIMIT 1""",
        uplink_id,
        now,
        concentrator_id,
        now,
        now,
    )


def _meters_of(concentrator_id: int, now: datetime) -> QuerySet[Assignment, int]:
    return holding(now).filter(concentrator=concentrator_id).values_list("meter_id", flat=True)
