"""Meters for tests that protect their frames by other schemes than the usual one, with keys of epoch 1."""

import secrets
from dataclasses import dataclass
from datetime import timedelta

from concentrators.models import Assignment, Concentrator
from keyvault.device_keys import agreement_keys, provisioning
from keyvault.device_keys.provisioning import NewKey
from keyvault.models import AgreementKey, InvocationCounter, Session
from keyvault.schemes.mac import MacCipher
from keyvault.schemes.sealed import SealedSealer
from keyvault.schemes.session import SessionSealer, kid_context
from meters.models import Meter
from tests.concentrators.fleet import NOW, START_S, Device
from tests.factories import MeterFactory
from tests.stateful.headend import ACTOR


def meter_at(concentrator: Concentrator) -> Meter:
    """A meter without a key, assigned for ever."""
    meter = MeterFactory.create()
    Assignment.objects.create(meter=meter, concentrator=concentrator, valid_from=NOW - timedelta(days=4000))
    return meter


class MacDevice(Device):
    """A meter that can hash, and no more."""

    def seal(self, payload: bytes, counter: int | None = None) -> bytes:
        cipher = MacCipher(self.key, self.title, self.epoch, self.alg)
        return cipher.seal(self.kid, next(self.counters) if counter is None else counter, payload)


def of_mac(concentrator: Concentrator) -> MacDevice:
    device = MacDevice(meter_at(concentrator), secrets.token_bytes(32), alg=4)
    provisioning.provision_stored([NewKey(device.title, 1, device.key, 4, "mac")])
    return device


@dataclass
class SessionDevice(Device):
    """A meter that begins a session with each boot; ``boot`` is what it stores of that."""

    opened_s: int = START_S
    boot: int = 0

    @property
    def context(self) -> bytes:
        return kid_context(self.opened_s, self.boot.to_bytes(8, "big"))

    @property
    def kid(self) -> bytes:
        return super().kid + self.context

    def seal(self, payload: bytes, counter: int | None = None) -> bytes:
        sealer = SessionSealer(self.key, self.title, self.epoch, self.alg, self.context)
        return sealer.seal_as(next(self.counters) if counter is None else counter, payload)

    def reboot(self, opened_s: int | None = None) -> "SessionDevice":
        """The same meter in its next session."""
        opened_s = self.opened_s if opened_s is None else opened_s
        return SessionDevice(self.meter, self.key, self.epoch, self.alg, opened_s=opened_s, boot=self.boot + 1)

    def counter(self) -> InvocationCounter:
        """The key's own, with the highest counter of the session."""
        counter = super().counter()
        counter.highest = Session.objects.get(key=counter.key_id, context=self.context).highest
        return counter

    def kept(self) -> list[bytes]:
        """The kid contexts of the key's sessions that are kept, the lowest first."""
        rows = Session.objects.filter(key=self.row()).order_by("context")
        return [bytes(context) for context in rows.values_list("context", flat=True)]


def of_session(concentrator: Concentrator) -> SessionDevice:
    device = SessionDevice(meter_at(concentrator), secrets.token_bytes(32))
    provisioning.provision_stored([NewKey(device.title, 1, device.key, 10, "session")])
    return device


@dataclass
class SealedDevice(Device):
    """A meter that seals to the head-end's agreement key."""

    alg: int = -65537
    head_end: bytes = b""

    def seal(self, payload: bytes, counter: int | None = None) -> bytes:
        sealer = SealedSealer(self.key, self.title, self.epoch, self.head_end)
        return sealer.seal(next(self.counters) if counter is None else counter, payload)


def of_sealed(concentrator: Concentrator) -> SealedDevice:
    version = AgreementKey.objects.first() or agreement_keys.init("hes-1", ACTOR)
    device = SealedDevice(meter_at(concentrator), secrets.token_bytes(32), head_end=bytes(version.public))
    provisioning.provision_stored([NewKey(device.title, 1, device.key, -65537, "sealed", version.pk)])
    return device
