"""Bad tags: counted by key, alarmed once, and no key ever changes by them."""

import logging

import pytest
from pytest_django import DjangoCaptureOnCommitCallbacks

from concentrators.models import Concentrator
from keyvault.device_keys import tag_failures
from keyvault.models import DeviceKey, TagFailures
from tests.concentrators.fleet import Device, commission, judged
from tests.factories import ConcentratorFactory, MeterFactory

pytestmark = pytest.mark.django_db


@pytest.fixture
def concentrator() -> Concentrator:
    return ConcentratorFactory.create()


def forged(device: Device, count: int, start: int = 0) -> list[bytes]:
    forger = Device(device.meter, bytes(32), device.epoch)
    return [forger.frame(0, counter=start + n) for n in range(count)]


def test_bad_tags_are_counted_by_key_and_change_none(concentrator: Concentrator) -> None:
    one, other = commission(2, concentrator)
    before = list(DeviceKey.objects.order_by("pk").values())
    stranger = Device(MeterFactory.build(), bytes(32))
    frames = [*forged(one, 3), *forged(other, 1), stranger.frame(0), b"garbage", one.frame(0)]
    assert judged(concentrator, frames)["tag_invalid"] == 4
    assert judged(concentrator, forged(one, 2, start=10)) == {"tag_invalid": 2}
    counted = {row.key.system_title: row.failures for row in TagFailures.objects.select_related("key")}
    assert counted == {one.title: 5, other.title: 1}
    assert list(DeviceKey.objects.order_by("pk").values()) == before
    assert judged(concentrator, [one.frame(1)]) == {"accepted": 1}


def test_the_alarm_comes_once(
    concentrator: Concentrator,
    caplog: pytest.LogCaptureFixture,
    django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks,
) -> None:
    (device,) = commission(1, concentrator)
    TagFailures.objects.create(key=device.row(), failures=tag_failures.ALARM_AT - 3)
    with caplog.at_level(logging.WARNING), django_capture_on_commit_callbacks(execute=True):
        for start in (0, 10, 20):
            judged(concentrator, forged(device, 2, start))
    alarms = [record for record in caplog.records if "ALARM" in record.message]
    assert len(alarms) == 1
    assert device.title.hex() in alarms[0].message
    assert TagFailures.objects.get().failures == tag_failures.ALARM_AT + 3
