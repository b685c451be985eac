"""The page of a meter that signs says how its coupons stand."""

from hashlib import sha256

import pytest
from django.test import Client
from django.urls import reverse

from concentrators.models import Concentrator, IntegrityFailure
from keyvault.models import MeterIdentity
from tests.concentrators import fleet
from tests.concentrators.fleet import judged, usual
from tests.concentrators.scheme_devices import of_signed, signing
from tests.factories import ConcentratorFactory

pytestmark = pytest.mark.django_db


def shown(client: Client, meter_id: int) -> str:
    return client.get(reverse("admin:meter", args=[meter_id])).content.decode()


def test_the_page_says_how_many_are_left(admin_client: Client) -> None:
    concentrator: Concentrator = ConcentratorFactory.create()
    meter = of_signed(concentrator)
    judged(concentrator, [meter.frame(0), meter.frame(1)])
    page = shown(admin_client, meter.meter.pk)
    assert "9 left" in page
    assert "identity certified by maker of signed meters" in page
    assert "coupon used twice" not in page
    judged(concentrator, [meter.seal_unsigned(meter.sign(usual(3), number=0))])
    assert "coupon used twice" in shown(admin_client, meter.meter.pk)
    silent = signing(fleet.commission(1, concentrator)[0])
    assert "none announced yet" in shown(admin_client, silent.meter.pk)
    MeterIdentity.objects.filter(system_title=silent.title).delete()
    assert "no identity is registered" in shown(admin_client, silent.meter.pk)
    assert "coupons to sign under" not in shown(admin_client, fleet.commission(1, concentrator)[0].meter.pk)


def test_a_failure_shows_what_is_proven(admin_client: Client) -> None:
    concentrator: Concentrator = ConcentratorFactory.create()
    meter = of_signed(concentrator)
    first, second = (meter.sign(usual(0, wh), number=4) for wh in (1, 2))
    judged(
        concentrator, [meter.seal_unsigned(first), meter.seal_unsigned(second), meter.seal_unsigned(meter.list_of(5))]
    )
    failures = IntegrityFailure.objects.filter(kind="coupon_reused")
    page = admin_client.get(reverse("admin:failure", args=[failures.earliest("frame_index").pk])).content.decode()
    for octets in (first, second, meter.list_of(0), meter.list_of(5)):
        assert sha256(octets).hexdigest() in page
    assert "announced in two lists" in page
    assert "Cell(" not in page
