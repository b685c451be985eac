"""Meters for tests that mask what they measure, under each envelope that goes with it."""

import secrets
from dataclasses import dataclass
from typing import ClassVar

import cbor2
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from concentrators.models import Concentrator
from keyvault.device_keys import agreement_keys, provisioning
from keyvault.device_keys.provisioning import NewKey
from keyvault.masking.masks import Cell, mask_key, masked, unmasked
from keyvault.masking.masks import mask as mask_of
from keyvault.models import AgreementKey
from meters.models import MaskedReading
from tests.concentrators.fleet import HALF_HOUR_S, INTERVAL, START_S, Device
from tests.concentrators.scheme_devices import MacDevice, SealedDevice, SessionDevice, meter_at
from tests.stateful.headend import ACTOR

AUTHORITIES = tuple(X25519PrivateKey.from_private_bytes(bytes((octet,)) * 32) for octet in (0x11, 0x12))
PUBLICS = tuple(one.public_key().public_bytes_raw() for one in AUTHORITIES)


class Masking(Device):
    """A meter that masks the load profile with two authorities; all of them have one mask pair here."""

    model: ClassVar[type] = MaskedReading
    pair: ClassVar[X25519PrivateKey] = X25519PrivateKey.from_private_bytes(bytes(range(0x60, 0x80)))

    @property
    def mask_keys(self) -> list[bytes]:
        own = self.pair.public_key().public_bytes_raw()
        return [mask_key(self.pair, public, self.title, own, public) for public in PUBLICS]

    def cell(self, interval: int) -> Cell:
        return Cell(INTERVAL, START_S + interval * HALF_HOUR_S, 30)

    def payload(self, interval: int, wh: int = 100) -> bytes:
        value = masked(wh, self.mask_keys, self.title, self.cell(interval))
        return masked_payload(self.cell(interval).start_s, value)

    def frame(self, interval: int, wh: int = 100, counter: int | None = None) -> bytes:
        return self.seal(self.payload(interval, wh), counter)

    def told(self, interval: int, value: int) -> int:
        return unmasked(value, (mask_of(key, self.title, self.cell(interval)) for key in self.mask_keys))


def masked_payload(start_s: int, value: int) -> bytes:
    """The pack of one masked value of the load profile."""
    return cbor2.dumps([{-1: 26, -3: start_s, 0: INTERVAL, 1: "Wh", 8: value.to_bytes(8, "big")}])


@dataclass
class MaskedCcm(Masking):
    pass


@dataclass
class MaskedSession(Masking, SessionDevice):
    pass


@dataclass
class MaskedSealed(Masking, SealedDevice):
    pass


@dataclass
class MaskedMac(Masking, MacDevice):
    pass


def of_masked_ccm(concentrator: Concentrator) -> MaskedCcm:
    device = MaskedCcm(meter_at(concentrator), secrets.token_bytes(32))
    provisioning.provision_stored([NewKey(device.title, 1, device.key, 10, "ccm + masked")])
    return device


def of_masked_session(concentrator: Concentrator) -> MaskedSession:
    device = MaskedSession(meter_at(concentrator), secrets.token_bytes(32))
    provisioning.provision_stored([NewKey(device.title, 1, device.key, 10, "session + masked")])
    return device


def of_masked_mac(concentrator: Concentrator) -> MaskedMac:
    device = MaskedMac(meter_at(concentrator), secrets.token_bytes(32), alg=4)
    provisioning.provision_stored([NewKey(device.title, 1, device.key, 4, "mac + masked")])
    return device


def of_masked_sealed(concentrator: Concentrator) -> MaskedSealed:
    version = AgreementKey.objects.first() or agreement_keys.init("hes-1", ACTOR)
    device = MaskedSealed(meter_at(concentrator), secrets.token_bytes(32), head_end=bytes(version.public))
    provisioning.provision_stored([NewKey(device.title, 1, device.key, -65537, "sealed + masked", version.pk)])
    return device


MASKED_MAKES = {
    "ccm + masked": of_masked_ccm,
    "session + masked": of_masked_session,
    "mac + masked": of_masked_mac,
    "sealed + masked": of_masked_sealed,
}
