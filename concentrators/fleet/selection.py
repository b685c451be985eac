"""Selections of meters for new keys or for gap recovery."""

from collections.abc import Collection
from dataclasses import dataclass, fields
from datetime import datetime, timedelta

from django.db.models import Exists, OuterRef, QuerySet
from django.db.models.functions import Coalesce

from concentrators.fleet.assignments import holding
from concentrators.models import Concentrator
from keyvault.models import AgreementKey, DeviceKey, FleetKey, KeyState
from meters.group_models import FleetGroup
from meters.models import Meter, MeterStatus
from meters.registry.groups import of_meters
from meters.registry.lookup import RegistryError


@dataclass(frozen=True)
class Selection:
    """Meters in service that meet all given criteria; without any criterion, ``everything`` must be set.

    ``groups`` selects meters that are in any of them now; ``older_than_days`` is the age of the active key;
    ``compromised`` selects meters with a compromised newest key, ``derived_from`` those with an active key derived from
    a fleet key, ``agreed_with`` those with an active key that goes with a version of the head-end's agreement key.
    """

    system_titles: Collection[bytes] | None = None
    concentrator: Concentrator | None = None
    groups: Collection[FleetGroup] | None = None
    older_than_days: int | None = None
    compromised: bool = False
    derived_from: FleetKey | None = None
    agreed_with: AgreementKey | None = None
    everything: bool = False

    @property
    def says_nothing(self) -> bool:
        """Whether no criterion is given, nor everything selected."""
        return all(getattr(self, field.name) is field.default for field in fields(self))

    def meters(self, now: datetime) -> QuerySet[Meter]:
        """Return the meters by id."""
        own = DeviceKey.objects.filter(system_title=OuterRef("system_title"), epoch__gt=0)
        active = own.filter(state=KeyState.ACTIVE)
        meters = Meter.objects.filter(status=MeterStatus.COMMISSIONED)
        if self.system_titles is not None:
            meters = meters.filter(system_title__in=list(self.system_titles))
        if self.concentrator is not None:
            meters = meters.filter(pk__in=holding(now).filter(concentrator=self.concentrator).values("meter"))
        if self.groups is not None:
            meters = meters.filter(of_meters([group.pk for group in self.groups], "pk"))
        if self.older_than_days is not None:
            begun = active.alias(since=Coalesce("activated_at", "created_at"))
            meters = meters.filter(Exists(begun.filter(since__lte=now - timedelta(days=self.older_than_days))))
        if self.derived_from is not None:
            meters = meters.filter(Exists(active.filter(fleet_key=self.derived_from)))
        if self.agreed_with is not None:
            meters = meters.filter(Exists(active.filter(agreement_key=self.agreed_with)))
        if self.compromised:
            usable = own.filter(state__in=[KeyState.ACTIVE, KeyState.PENDING])
            meters = meters.filter(Exists(own.filter(state=KeyState.COMPROMISED)), ~Exists(usable))
        return meters.order_by("pk")


def find_concentrator(name: str) -> Concentrator:
    """Return the concentrator of this name; RegistryError if there is none."""
    found = Concentrator.objects.filter(name=name).first()
    if found is None:
        raise RegistryError(f"there is no concentrator {name}")
    return found
