"""A meter that enrols anew while it is being given a key by command, with frames of both in one uplink."""

import pytest

from concentrators.models import Concentrator
from keyvault.device_keys import agreement_keys, epochs
from keyvault.device_keys.unwrapping import open_keys
from keyvault.enrolment import authorities
from keyvault.models import DeviceKey
from tests.concentrators.enrolling import OFFICER, Newcomer, pin
from tests.concentrators.fleet import NOW, Device, judged
from tests.concentrators.scheme_devices import SessionDevice
from tests.factories import ConcentratorFactory, MeterFactory

pytestmark = pytest.mark.django_db


class Scene:
    """A meter that was given a key of epoch 2 by command, and enrols as epoch 3 since."""

    def __init__(self) -> None:
        pin()
        version = agreement_keys.init("hes-1", OFFICER)
        self.concentrator: Concentrator = ConcentratorFactory.create()
        self.first = self._allowed(Newcomer(MeterFactory.create(), version))
        judged(self.concentrator, [self.first.frame(self.first.certificate())])
        epochs.begin([self.first.title])
        row = DeviceKey.objects.get(system_title=self.first.title, epoch=2)
        self.given = Device(self.first.meter, open_keys([row.pk])[0].octets, 2)
        self.again = self._allowed(Newcomer(self.first.meter, version, epoch=3))

    @staticmethod
    def _allowed(newcomer: Newcomer) -> Newcomer:
        authorities.allow([newcomer.title], OFFICER, NOW)
        return newcomer

    def states(self) -> dict[int, str]:
        return dict(DeviceKey.objects.filter(system_title=self.first.title, epoch__gt=0).values_list("epoch", "state"))


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_a_frame_that_proves_the_key_counts_and_late_ones_do(scene: Scene) -> None:
    enrolment = scene.again.frame(scene.again.certificate(), 2)
    late = scene.given.frame(3)
    assert judged(scene.concentrator, [scene.given.frame(1), enrolment]) == {"accepted": 2}
    assert scene.states() == {1: "retiring", 2: "retiring", 3: "active"}
    assert judged(scene.concentrator, [late, scene.again.device.frame(4)]) == {"accepted": 2}


def test_a_session_under_the_key_proves_it(scene: Scene) -> None:
    DeviceKey.objects.filter(system_title=scene.first.title, epoch=2).update(scheme="session")
    session = SessionDevice(scene.given.meter, scene.given.key, 2)
    enrolment = scene.again.frame(scene.again.certificate(), 2)
    assert judged(scene.concentrator, [session.frame(1), enrolment]) == {"accepted": 2}
    assert scene.states() == {1: "retiring", 2: "retiring", 3: "active"}


def test_a_refused_frame_under_the_key_holds_nothing_up(scene: Scene) -> None:
    enrolment = scene.again.frame(scene.again.certificate(), 2)
    refused = {"accepted": 1, "payload_invalid": 1}
    assert judged(scene.concentrator, [scene.given.seal(b"\x80"), enrolment]) == refused
    assert scene.states() == {1: "retiring", 2: "retired", 3: "active"}
