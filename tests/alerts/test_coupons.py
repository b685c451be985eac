"""Meters without coupons are told of, and double use is."""

from datetime import timedelta

import pytest
from django.utils import timezone

from ami_headend.alerts.models import Condition
from concentrators.models import Concentrator
from keyvault.models import Coupon, CouponList, DeviceKey, MeterIdentity
from meters.models import MeterStatus
from tests.alerts.conftest import evaluated, only
from tests.concentrators import fleet
from tests.concentrators.fleet import judged, usual
from tests.concentrators.scheme_devices import announce, of_signed, signing
from tests.concentrators.statements import counting
from tests.factories import ConcentratorFactory

pytestmark = pytest.mark.django_db
LONG = timedelta(days=3)


@pytest.fixture
def concentrator() -> Concentrator:
    return ConcentratorFactory.create()


def test_a_meter_without_coupons_until_it_announces_some(concentrator: Concentrator) -> None:
    rule = only(Condition.COUPONS_OUT)
    none, some, retired, _plain = (
        signing(fleet.commission(1, None)[0]),
        of_signed(concentrator),
        of_signed(concentrator),
        fleet.commission(1, None),
    )
    type(retired.meter).objects.filter(pk=retired.meter.pk).update(status=MeterStatus.RETIRED)
    assert evaluated(rule) == []  # its key is new
    DeviceKey.objects.update(created_at=timezone.now() - LONG)
    (alert,) = evaluated(rule)
    assert (alert.subject_id, "it keeps its readings" in alert.summary) == (none.meter.pk, True)
    Coupon.objects.update(spent_on=bytes(32))
    CouponList.objects.update(received_at=timezone.now() - LONG)
    assert {alert.subject_id for alert in evaluated(rule)} == {none.meter.pk, some.meter.pk}
    MeterIdentity.objects.filter(system_title=none.title).delete()
    DeviceKey.objects.filter(system_title=some.title).update(state="retiring")
    (alert,) = evaluated(rule)
    assert "its identity is not registered" in alert.summary


def test_a_coupon_used_twice_is_critical(concentrator: Concentrator) -> None:
    rule = only(Condition.KIND_SEEN, selector="coupon_reused")
    meter = of_signed(concentrator)
    frames = [meter.seal_unsigned(meter.sign(usual(0, wh), number=0)) for wh in (1, 2)]
    assert evaluated(rule) == []
    assert judged(concentrator, frames) == {"accepted": 1, "coupon_reused": 1}
    (alert,) = evaluated(rule)
    assert (alert.subject_id, rule.severity) == (meter.meter.pk, 30)


def test_of_many_it_asks_no_more_statements(concentrator: Concentrator) -> None:
    rule = only(Condition.COUPONS_OUT)
    costs = []
    for _ in range(2):
        for _ in range(3):
            announce(signing(fleet.commission(1, None)[0]), 100)
        Coupon.objects.update(spent_on=bytes(32))
        with counting() as statements:
            evaluated(rule)
        costs.append(len(statements))
    assert costs[0] == costs[1]
