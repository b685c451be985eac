"""Rows for tests."""

# factory_boy declares no types for its declarations.
# mypy: disable-error-code="attr-defined,no-untyped-call"

import factory
from django.utils import timezone
from factory.django import DjangoModelFactory

from concentrators.failures.kinds import FailureKind
from concentrators.models import Concentrator, IntegrityFailure, Uplink
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


class UplinkFactory(DjangoModelFactory[Uplink]):
    """A verified uplink of one rejected frame, whose octets are gone."""

    class Meta:
        model = Uplink

    concentrator = factory.SubFactory(ConcentratorFactory)
    received_at = factory.LazyFunction(timezone.now)
    verified_at = factory.SelfAttribute("received_at")
    due_at = factory.SelfAttribute("received_at")
    sha256 = factory.Sequence(lambda n: n.to_bytes(32, "big"))
    octets = 1
    frames = 1
    rejected = 1


class IntegrityFailureFactory(DjangoModelFactory[IntegrityFailure]):
    """An open failure of a frame that could not be read, in an uplink of its own."""

    class Meta:
        model = IntegrityFailure

    kind = FailureKind.MALFORMED
    severity = factory.LazyAttribute(lambda failure: FailureKind(failure.kind).severity)
    concentrator = factory.SubFactory(ConcentratorFactory)
    uplink = factory.SubFactory(
        UplinkFactory,
        concentrator=factory.SelfAttribute("..concentrator"),
        received_at=factory.SelfAttribute("..received_at"),
    )
    frame_index = 0
    frame = b"garbage"
    received_at = factory.LazyFunction(timezone.now)
    detail = "it begins with 0x67, not with CBOR tag 16 (0xd0)"
