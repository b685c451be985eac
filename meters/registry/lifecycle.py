"""A meter's life in service: installed at a place, exchanged for another, suspended, resumed, retired, moved away."""

from datetime import datetime

from django.db import transaction
from django.db.models import QuerySet

from meters.models import Installation, Meter, MeterStatus, Place
from meters.registry.lookup import RegistryError


def suspend(meter: Meter) -> None:
    """Suspend a meter: its frames are rejected from now on; keys and counters stay as they are."""
    _move(meter, MeterStatus.COMMISSIONED, MeterStatus.SUSPENDED)


def resume(meter: Meter) -> None:
    """Take a suspended meter back into service."""
    _move(meter, MeterStatus.SUSPENDED, MeterStatus.COMMISSIONED)


def retire(meter: Meter, at: datetime) -> None:
    """Take a meter out of service for good: no intervals are expected from ``at`` on, and its frames are rejected.

    Frames of an exchanged meter may be under way for days: retire it when they have arrived.
    """
    with transaction.atomic():
        meter = _locked(meter)
        _check_is_here(meter)
        if meter.status == MeterStatus.RETIRED:
            raise RegistryError(f"meter {meter} was retired at {meter.retired_at} already")
        if at < meter.commissioned_at:
            raise RegistryError(f"meter {meter} was commissioned at {meter.commissioned_at}, after {at}")
        standing = _standing(meter)
        if standing is not None:
            _remove(standing, at)
        Meter.objects.filter(pk=meter.pk).update(status=MeterStatus.RETIRED, retired_at=at)


def install(meter: Meter, place: Place, at: datetime) -> Installation:
    """Install a meter at a place from ``at`` on; both must be free from then on."""
    with transaction.atomic():
        meter = _locked(meter)
        Place.objects.select_for_update().get(pk=place.pk)
        _check_is_here(meter)
        if meter.status == MeterStatus.RETIRED:
            raise RegistryError(f"meter {meter} is retired")
        for column, what in (("meter", meter), ("place", place)):
            others = Installation.objects.filter(**{column: what}).exclude(removed_at__lte=at)
            if other := others.select_related("meter", "place").order_by("installed_at").first():
                until = other.removed_at or "further notice"
                raise RegistryError(f"{column} {what} is taken: {other} from {other.installed_at} until {until}")
        return Installation.objects.create(meter=meter, place=place, installed_at=at)


def exchange(place: Place, old: Meter, new: Meter, at: datetime) -> Installation:
    """Remove one meter from a place and install another there at the same instant.

    The old meter stays in service, so that late frames are accepted; ``retire`` it later.
    """
    with transaction.atomic():
        # In the order of their ids, so that two exchanges do not deadlock.
        list(Meter.objects.select_for_update().filter(pk__in=[old.pk, new.pk]).order_by("pk"))
        _check_is_here(_locked(old))
        standing = _standing(old)
        if standing is None or standing.place_id != place.pk:
            raise RegistryError(f"meter {old} does not hang at {place}")
        _remove(standing, at)
        return install(new, place, at)


def move_out(meters: QuerySet[Meter], at: datetime) -> int:
    """Give meters to another cell: from ``at`` on no intervals are expected here, their frames are rejected, and they
    get no command. Retired ones stay so. Return how many; one statement.
    """
    here = meters.filter(status__in=[MeterStatus.COMMISSIONED, MeterStatus.SUSPENDED])
    return here.update(status=MeterStatus.MOVED, retired_at=at)


def take_in(meters: QuerySet[Meter]) -> int:
    """Take meters that were given to this cell, or given away by mistake, into service. Return how many."""
    return meters.filter(status=MeterStatus.MOVED).update(status=MeterStatus.COMMISSIONED, retired_at=None)


def _check_is_here(meter: Meter) -> None:
    if meter.status == MeterStatus.MOVED:
        raise RegistryError(f"meter {meter} was moved to another cell: change it there")


def _locked(meter: Meter) -> Meter:
    return Meter.objects.select_for_update().get(pk=meter.pk)


def _standing(meter: Meter) -> Installation | None:
    return Installation.objects.filter(meter=meter, removed_at=None).select_related("meter", "place").first()


def _remove(standing: Installation, at: datetime) -> None:
    if at <= standing.installed_at:
        raise RegistryError(f"{standing} began at {standing.installed_at}, not before {at}")
    Installation.objects.filter(pk=standing.pk).update(removed_at=at)


def _move(meter: Meter, before: MeterStatus, after: MeterStatus) -> None:
    if not Meter.objects.filter(pk=meter.pk, status=before).update(status=after):
        meter.refresh_from_db(fields=["status"])
        raise RegistryError(f"meter {meter} is {meter.status}, not {before.value}")
    meter.status = after
