"""Rows for tests."""

# factory_boy declares no types for its declarations.
# mypy: disable-error-code="attr-defined,no-untyped-call"

import factory
from django.utils import timezone
from factory.django import DjangoModelFactory

from concentrators.models import Concentrator
from meters.models import Meter


class MeterFactory(DjangoModelFactory[Meter]):
    """A commissioned meter of half-hour intervals, with a system title of its own and no key."""

    class Meta:
        model = Meter

    system_title = factory.Sequence(lambda n: (0x0024_BEFF_FE00_0000 + n).to_bytes(8, "big"))
    serial_number = factory.Sequence("meter-{}".format)
    commissioned_at = factory.LazyFunction(timezone.now)


class ConcentratorFactory(DjangoModelFactory[Concentrator]):
    class Meta:
        model = Concentrator

    name = factory.Sequence("concentrator-{}".format)
