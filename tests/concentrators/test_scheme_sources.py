"""The verdicts of each scheme with keys of each source: all go through one table, and none may differ."""

import secrets
from dataclasses import replace
from datetime import timedelta
from typing import NamedTuple

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from pytest_django import Settings

from concentrators.ingest import reverification
from concentrators.models import Concentrator
from keyvault.cose.kdf import derived_device_key
from keyvault.device_keys import agreement_keys, epochs, provisioning
from keyvault.device_keys.provisioning import NewKey
from keyvault.models import AgreementKey, KeySource, KeyState, Session
from keyvault.schemes.agreed import agree, agreed_device_key
from keyvault.schemes.table import SCHEMES, algorithm_for
from meters.registry import lifecycle
from tests.concentrators.fleet import NOW, Device, evidence, judged, outcome, readings_of, verified
from tests.concentrators.scheme_devices import MacDevice, SealedDevice, SessionDevice, meter_at
from tests.stateful.headend import ACTOR

pytestmark = pytest.mark.django_db
FLEET_KEY = bytes(range(32))
CLASSES: dict[str, type[Device]] = {"ccm": Device, "session": SessionDevice, "mac": MacDevice, "sealed": SealedDevice}
NEXT = dict(zip(CLASSES, [*list(CLASSES)[1:], "ccm"], strict=True))


class Made(NamedTuple):
    """A meter that nobody provisioned yet, and how to."""

    device: Device
    source: str
    entry: NewKey
    public: bytes

    def provision(self) -> None:
        match self.source:
            case "stored":
                provisioning.provision_stored([self.entry._replace(key=self.device.key)])
            case "derived":
                provisioning.provision_derived(provisioning.create_fleet_key("fleet", FLEET_KEY), [self.entry])
            case _:
                provisioning.provision_agreed([self.entry], {self.device.title: self.public})


def made(concentrator: Concentrator, scheme: str, source: str) -> Made:
    """A meter of a scheme whose key of epoch 1 comes from a source, in the registry alone."""
    version = AgreementKey.objects.first() or agreement_keys.init("hes-1", ACTOR)
    head_end, private = bytes(version.public), X25519PrivateKey.generate()
    public = private.public_key().public_bytes_raw()
    meter = meter_at(concentrator)
    title = bytes(meter.system_title)
    key = {
        "stored": secrets.token_bytes(32),
        "derived": derived_device_key(FLEET_KEY, title, 1),
        "agreed": agreed_device_key(agree(private, head_end), title, 1, public, head_end),
    }[source]
    goes_with = version.pk if source == "agreed" or scheme == "sealed" else None
    entry = NewKey(title, 1, None, algorithm_for(scheme, None), scheme, goes_with)
    return Made(of_class(scheme, Device(meter, key), head_end), source, entry, public)


def of_class(scheme: str, like: Device, head_end: bytes) -> Device:
    """The meter with the same key that seals in a scheme."""
    more = {"head_end": head_end} if scheme == "sealed" else {}
    alg = algorithm_for(scheme, None)
    return CLASSES[scheme](like.meter, like.key, like.epoch, alg, like.counters, **more)


def provisioned(concentrator: Concentrator, scheme: str, source: str) -> Device:
    one = made(concentrator, scheme, source)
    one.provision()
    row = one.device.row()
    assert (row.scheme, row.source) == (scheme, source)
    return one.device


def head_end_key() -> bytes:
    return bytes(AgreementKey.objects.get().public)


every = pytest.mark.parametrize(
    ("scheme", "source"),
    [(scheme, source) for scheme in CLASSES for source in ("stored", "derived", "agreed")],
    ids=str,
)


def test_every_scheme_that_meters_seal_in_is_here() -> None:
    # Scheme hop sends events in ccm frames; other contents are sealed as plain ones are.
    of_meters = {one.name for one in SCHEMES if one.number is not None and one.content == "plain"} - {"hop"}
    assert of_meters == CLASSES.keys()
    assert all(SCHEMES[name].sources == {source.value for source in KeySource} for name in CLASSES)


@every
def test_accepted_once_and_nothing_else(concentrator: Concentrator, scheme: str, source: str) -> None:
    device = provisioned(concentrator, scheme, source)
    frame = device.frame(0)
    flipped = [
        frame[:at] + bytes((frame[at] ^ 1 << at % 8,)) + frame[at + 1 :] for at in range(0, len(frame), len(frame) // 9)
    ]
    assert "accepted" not in judged(concentrator, flipped)
    assert readings_of(device) == {}
    assert judged(concentrator, [frame, frame]) == {"accepted": 1, "duplicate": 1}
    assert judged(concentrator, [frame], NOW + timedelta(seconds=1)) == {"duplicate": 1}
    assert readings_of(device) == {0: 100}
    assert device.counter().highest == 0


@every
def test_another_scheme_under_the_same_key_is_a_mismatch(concentrator: Concentrator, scheme: str, source: str) -> None:
    device = provisioned(concentrator, scheme, source)
    others = [of_class(other, device, head_end_key()) for other in CLASSES if other != scheme]
    uplink = verified(concentrator, [other.frame(0, counter=0) for other in others])
    assert outcome(uplink) == {"algorithm_mismatch": len(others)}
    assert {row.detail for row in evidence(uplink)} == {
        f"envelope {other}, provisioned is {scheme}" for other in CLASSES if other != scheme
    }
    assert not Session.objects.exists()
    assert judged(concentrator, [device.frame(0, counter=0)]) == {"accepted": 1}  # the counter was kept


@every
def test_a_move_to_another_scheme_and_its_grace_time(
    concentrator: Concentrator, scheme: str, source: str, settings: Settings
) -> None:
    old = provisioned(concentrator, scheme, source)
    late = [old.frame(n) for n in range(3)]
    assert judged(concentrator, late[:1]) == {"accepted": 1}
    following = replace(old, key=secrets.token_bytes(32), epoch=2)
    new = of_class(NEXT[scheme], following, head_end_key())
    goes_with = AgreementKey.objects.get().pk if NEXT[scheme] == "sealed" else None
    provisioning.provision_pending([NewKey(new.title, 2, new.key, new.alg, NEXT[scheme], goes_with)], {})
    assert judged(concentrator, [new.frame(3)]) == {"accepted": 1}
    assert (old.row().state, new.row().state) == (KeyState.RETIRING, KeyState.ACTIVE)
    assert judged(concentrator, late[1:2]) == {"accepted": 1}
    epochs.retire_due(NOW + timedelta(days=settings.KEY_GRACE_DAYS + 1))
    assert judged(concentrator, [late[2], new.frame(4)]) == {"accepted": 1, "key_retired": 1}
    epochs.compromise([new.row().pk], ACTOR)
    assert judged(concentrator, [new.frame(5)]) == {"key_retired": 1}
    assert readings_of(old).keys() == {0, 1, 3, 4}


def again(uplink_id: int) -> int:
    """How many frames are accepted when an uplink's waiting ones are judged again."""
    return reverification.verify_all_again([uplink_id]).verdicts.accepted


@every
def test_frames_wait_for_their_key_and_count_once(concentrator: Concentrator, scheme: str, source: str) -> None:
    one = made(concentrator, scheme, source)
    frames = [one.device.frame(0), one.device.frame(1)]
    uplink = verified(concentrator, [*frames, frames[0]])
    assert (outcome(uplink), uplink.waiting) == ({"unknown_device": 3}, 3)
    assert again(uplink.pk) == 0
    one.provision()
    assert [again(uplink.pk), again(uplink.pk)] == [2, 0]
    assert judged(concentrator, frames) == {"duplicate": 2}
    assert readings_of(one.device).keys() == {0, 1}
    assert one.device.counter().highest == 1


@every
def test_a_suspended_meter_keeps_its_frames_until_it_is_back(
    concentrator: Concentrator, scheme: str, source: str
) -> None:
    device = provisioned(concentrator, scheme, source)
    lifecycle.suspend(device.meter)
    frame = device.frame(0)
    uplink = verified(concentrator, [frame])
    assert (outcome(uplink), again(uplink.pk)) == ({"device_suspended": 1}, 0)
    lifecycle.resume(device.meter)
    assert [again(uplink.pk), again(uplink.pk)] == [1, 0]
    assert judged(concentrator, [frame, frame]) == {"duplicate": 2}  # the very same uplink would be none
