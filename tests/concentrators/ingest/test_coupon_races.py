"""Coupons under contention: whatever another worker does between two statements of one, a coupon is spent once.

The frames are under two epochs of a meter, so that no counter tells the workers of each other.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest
from pytest_django import DjangoDbBlocker

from concentrators.ingest import reverification, verification
from concentrators.models import Concentrator, Uplink
from keyvault.device_keys import key_rows, provisioning
from keyvault.models import Coupon, CouponDispute, CouponList, KeyState
from meters.models import Signature
from tests.concentrators.fleet import Device, outcome, post, readings_of, usual
from tests.concentrators.scheme_devices import SignedDevice, of_signed
from tests.factories import ConcentratorFactory
from tests.flows import databases
from tests.stateful.faults import Fault, Faults, Worker


@pytest.fixture(scope="module", autouse=True)
def own_database(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[None]:
    """One database for all of this module: each case has a meter of its own."""
    with django_db_blocker.unblock(), databases.copied():
        yield


@pytest.fixture
def db() -> None:
    """Not pytest-django's: these tests commit."""


class Case(NamedTuple):
    """What two concentrators post, and how often each verdict is given in the end, whoever comes first."""

    first: list[bytes]
    second: list[bytes]
    verdicts: dict[str, int]


Scene = Callable[[SignedDevice, SignedDevice], Case]


def two_things(old: SignedDevice, new: SignedDevice) -> Case:
    """Two things are signed under one coupon."""
    first, second = (old.sign(usual(0, wh), number=0) for wh in (100, 200))
    return Case([old.seal_unsigned(first)], [new.seal_unsigned(second)], {"accepted": 1, "coupon_reused": 1})


def one_thing(old: SignedDevice, new: SignedDevice) -> Case:
    """One signature, sealed twice."""
    signed = old.sign(usual(0), number=0)
    return Case([old.seal_unsigned(signed)], [new.seal_unsigned(signed)], {"accepted": 2})


def two_lists(old: SignedDevice, new: SignedDevice) -> Case:
    """Two lists announce one coupon."""
    lists = [old.list_of(first) for first in (11, 12)]
    return Case([old.seal_unsigned(lists[0])], [new.seal_unsigned(lists[1])], {"accepted": 1, "coupon_reused": 1})


def a_list_and_its_reading(old: SignedDevice, new: SignedDevice) -> Case:
    """A list over one concentrator, and what is signed under it over the other."""
    listed, signed = old.list_of(11), old.sign(usual(0), number=13)
    return Case([new.seal_unsigned(signed)], [old.seal_unsigned(listed)], {"accepted": 2})


def judge(worker: Worker, uplink: Uplink) -> None:
    with worker.at_work():
        verification.verify(uplink.pk, worker.own)


def meters(concentrator: Concentrator) -> tuple[SignedDevice, SignedDevice]:
    """One meter with eleven coupons of its first epoch, under that and under the next."""
    old = of_signed(concentrator)
    key_rows.set_key_state([old.row().pk], KeyState.RETIRING)
    key = bytes(31) + b"\x01"
    provisioning.provision_stored([provisioning.NewKey(old.title, 2, key, 10, "ccm + signed")])
    inner = Device(old.meter, key, 2)
    return old, SignedDevice(old.meter, key, 2, inner=inner, identity=old.identity, signing=old.signing)


def beside(
    scene: Scene, concentrators: list[Concentrator], statement: int, workers: list[Worker], faults: Faults
) -> bool:
    """One worker verifies, and at a statement of it another verifies what shares a coupon with it."""
    old, new = meters(concentrators[0])
    case = scene(old, new)
    one, other = (
        post(concentrator, frames)
        for concentrator, frames in zip(concentrators, (case.first, case.second), strict=True)
    )
    came: list[int] = []

    def between() -> None:
        came.append(statement)
        judge(workers[1], other)

    faults.run(lambda: judge(workers[0], one), Fault(statement, between))
    verdicts: dict[str, int] = {}
    for uplink in (one, other):
        judge(workers[1], uplink)
    reverification.verify_all_again([one.pk, other.pk])
    for uplink in (one, other):
        uplink.refresh_from_db()
        for verdict, frames in outcome(uplink).items():
            verdicts[verdict] = verdicts.get(verdict, 0) + frames
    assert verdicts == case.verdicts
    coupons = Coupon.objects.filter(system_title=old.title)
    spent = coupons.exclude(spent_on=None)
    assert Signature.objects.filter(meter_id=old.meter.pk).count() == spent.count() == len(readings_of(old))
    assert CouponDispute.objects.filter(coupon__in=coupons).count() == case.verdicts.get("coupon_reused", 0)
    assert coupons.count() == 11 * CouponList.objects.filter(pk__in=coupons.values("announced")).count()
    return bool(came)


@pytest.mark.parametrize("scene", [two_things, one_thing, two_lists, a_list_and_its_reading])
def test_between_any_two_statements(scene: Scene) -> None:
    concentrators = ConcentratorFactory.create_batch(2)
    workers, faults = [Worker(), Worker()], Faults()
    with faults.installed():
        statement = 0
        while True:
            for worker in workers:
                worker.look_first(False)
            if not beside(scene, concentrators, statement, workers, faults):
                break
            statement += 1
    assert statement >= 8
