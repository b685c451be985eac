"""Rows go when their time is over, and nothing that others need goes with them."""

from datetime import datetime, timedelta

import pytest
from pytest_django import Settings

from concentrators import retention, tasks
from concentrators.models import Concentrator, FailureTally, IntegrityFailure, RefusedFrame, Uplink
from tests.concentrators.fleet import NOW, commission, judged, verified

pytestmark = pytest.mark.django_db
OLD, NEW = NOW - timedelta(days=500), NOW - timedelta(days=300)


def garbage_at(concentrator: Concentrator, at: datetime) -> Uplink:
    return verified(concentrator, [b"garbage of %d" % at.timestamp(), b"and more"], at)


@pytest.fixture(autouse=True)
def short(settings: Settings) -> None:
    settings.FAILURE_KEEP_DAYS, settings.UPLINK_ROWS_KEEP_DAYS = 400, 450


def test_old_rows_go_and_young_ones_stay(concentrator: Concentrator) -> None:
    garbage_at(concentrator, OLD)
    young = garbage_at(concentrator, NEW)
    retention.delete_bodies(NOW)
    assert retention.delete_old(NOW) == {
        "failures": 2,
        "tallies": 1,
        "hop failures": 0,
        "reported sums": 0,
        "days of deadlines": 0,
        "register differences": 0,
        "masked sets": 0,
        "digests": 0,
        "uplinks": 1,
        "sessions": 0,
        "positions of the feed": 0,
        "lots": 0,
        "tallies of commands": 0,
    }
    assert Uplink.objects.get() == young
    assert set(IntegrityFailure.objects.values_list("uplink", flat=True)) == {young.pk}
    assert FailureTally.objects.get().failures == 2
    assert not any(retention.delete_old(NOW).values())


def test_an_uplink_stays_while_its_failures_do(concentrator: Concentrator, settings: Settings) -> None:
    uplink = garbage_at(concentrator, OLD)
    retention.delete_bodies(NOW)
    settings.FAILURE_KEEP_DAYS = 600
    assert retention.delete_old(NOW)["uplinks"] == 0
    assert Uplink.objects.get() == uplink


def test_what_is_not_verified_stays(concentrator: Concentrator) -> None:
    Uplink.objects.filter(pk=garbage_at(concentrator, OLD).pk).update(verified_at=None)
    assert retention.delete_old(NOW)["uplinks"] == 0


def test_more_than_a_batch(concentrator: Concentrator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "_BATCH", 2)
    for _ in range(5):
        Uplink.objects.filter(pk=garbage_at(concentrator, OLD).pk).update(body=None)
    assert retention.delete_old(NOW) == {
        "failures": 10,
        "tallies": 1,
        "hop failures": 0,
        "reported sums": 0,
        "days of deadlines": 0,
        "register differences": 0,
        "masked sets": 0,
        "digests": 0,
        "uplinks": 5,
        "sessions": 0,
        "positions of the feed": 0,
        "lots": 0,
        "tallies of commands": 0,
    }


def test_a_refused_frame_is_known_for_the_same_after_its_evidence_went(concentrator: Concentrator) -> None:
    (device,) = commission(1, concentrator)
    invalid = device.seal(b"?")
    assert judged(concentrator, [invalid]) == {"payload_invalid": 1}
    IntegrityFailure.objects.update(received_at=OLD + timedelta(days=60))
    assert retention.delete_old(NOW)["failures"] == 1
    assert RefusedFrame.objects.count() == 1
    assert judged(concentrator, [invalid]) == {"payload_invalid": 1}
    RefusedFrame.objects.update(received_at=OLD)
    assert retention.delete_old(NOW)["digests"] == 1


def test_the_task(concentrator: Concentrator) -> None:
    garbage_at(concentrator, OLD)
    tasks.delete_old_rows()
    assert not IntegrityFailure.objects.exists()
