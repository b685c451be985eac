"""Simulated meters that enrol by certificate, and whoever tries to with a wrong one: each verdict is the head-end's."""

from collections import Counter
from pathlib import Path

import pytest
from django.utils import timezone

from concentrators.models import Concentrator
from concentrators.simulator.factory import Factory
from concentrators.simulator.household import HouseholdLoad
from concentrators.simulator.misbehaviour_kinds import Misbehaviour
from concentrators.simulator.plan import Plan
from concentrators.simulator.production import Production
from concentrators.simulator.registration import concentrator_name, register
from concentrators.simulator.spool import Spool
from keyvault.cose.structures import split_sequence
from keyvault.models import AwaitedEnrolment, DeviceKey, Enrolment
from meters.models import MeterEvent
from tests.concentrators.fleet import judged

pytestmark = pytest.mark.django_db
SECRET = bytes(32)


def test_enrolments_end_as_the_truth_says_and_the_meters_go_on(tmp_path: Path) -> None:
    start_s = (int(timezone.now().timestamp()) // 86_400 - 1) * 86_400
    schemes = ["ccm", "session", "sealed"]
    rates = {Misbehaviour.CERTIFICATES.value: 0.01}
    plan = Plan(
        "0a0b0c0d",
        5,
        list("abcdef"),
        1,
        [30],
        start_s,
        start_s + 86_400,
        None,
        rates,
        schemes=schemes,
        enrolled_every=3,
    )
    head_end = bytes.fromhex(register(plan, SECRET).head_end)
    concentrator = Concentrator.objects.get(name=concentrator_name(plan, 0))
    spool = Spool(tmp_path)

    def boot() -> Production:
        return Production(plan, HouseholdLoad(5, start_s), spool, Factory(plan, SECRET, head_end))

    def post() -> Counter[str]:
        """Post everything, in an order that holds; the verdicts are those that were expected."""
        found: Counter[str] = Counter()
        while (batch := spool.next_batch(0, 100, partial=True)) is not None:
            found.update(judged(concentrator, split_sequence(batch.body), timezone.now()))
            spool.keep_receipt(batch, batch.id)
            spool.mark_verified(batch.id)
            spool.release_behind(0)
        expected: Counter[str] = Counter()
        for _, _, verdicts in spool.posted():
            expected.update(verdicts)
        posted.update(found)
        assert posted == expected
        return found

    posted: Counter[str] = Counter()
    assert len(plan.enrolled) == 2
    assert not boot().is_ready()
    production = boot()  # a run that was stopped then goes on, and nobody enrols twice
    assert not production.is_ready()
    assert post() == {
        "accepted": 2,
        "duplicate": 2,
        "certificate_expired": 2,
        "certificate_revoked": 2,
        "certificate_invalid": 6,
        "already_enrolled": 4,
    }
    assert production.is_ready()
    assert (Enrolment.objects.count(), AwaitedEnrolment.objects.count(), MeterEvent.objects.count()) == (2, 0, 2)
    production.advance(2)
    assert post() == {"accepted": 12}
    titles = [plan.system_title(number) for number in plan.enrolled]
    keys = DeviceKey.objects.filter(system_title__in=titles, epoch=1)
    assert {(key.source, key.scheme) for key in keys} == {
        ("agreed", plan.scheme_of(number)) for number in plan.enrolled
    }
