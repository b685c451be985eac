"""Meters that enrol by certificate, and the authority that vouches for them."""

import itertools
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from keyvault.audit.chain import Actor
from keyvault.cose.kdf import uplink_key
from keyvault.cose.sealing import DirectionCipher
from keyvault.cose.structures import make_kid
from keyvault.enrolment import authorities
from keyvault.enrolment.authorities import PublicAuthority
from keyvault.enrolment.certificates import issue
from keyvault.enrolment.frames import seal_enrolment
from keyvault.models import AgreementKey
from keyvault.schemes.agreed import agree, agreed_device_key
from meters.models import Meter
from tests.concentrators.fleet import NOW, Device, usual

OFFICER = Actor("officer", "test")
DAY_S = 86_400
KID, ISSUER, AUDIENCE = b"authority-1", "test authority", "hes-1"
AUTHORITY = Ed25519PrivateKey.from_private_bytes(bytes(range(0xA0, 0xC0)))


def pin(now: datetime = NOW) -> None:
    """Pin the authority of tests."""
    public = AUTHORITY.public_key().public_bytes_raw()
    authorities.pin(PublicAuthority(KID, ISSUER, public), OFFICER, now)


class Newcomer:
    """A meter with a key pair of its own, which seals under what it agrees on with a version of the head-end's key."""

    def __init__(self, meter: Meter, version: AgreementKey, epoch: int = 1, alg: int = 10) -> None:
        self.meter, self.epoch, self.alg = meter, epoch, alg
        self.title = bytes(meter.system_title)
        self.kid = make_kid(self.title, epoch)
        self._private = X25519PrivateKey.generate()
        self.public = self._private.public_key().public_bytes_raw()
        self._head_end = bytes(version.public)
        self.counters = itertools.count()

    def key(self, epoch: int) -> bytes:
        """The device key of an epoch."""
        z = agree(self._private, self._head_end)
        return agreed_device_key(z, self.title, epoch, self.public, self._head_end)

    def certificate(self, **other: object) -> bytes:
        """A certificate as the authority of tests issues it, with other values than the usual ones."""
        at_s = int(NOW.timestamp())
        fields: dict[str, object] = {
            "authority": AUTHORITY,
            "kid": KID,
            "issuer": ISSUER,
            "system_title": self.title,
            "audience": AUDIENCE,
            "public": self.public,
            "cti": secrets.token_bytes(8),
            "issued_s": at_s - DAY_S,
            "expires_s": at_s + DAY_S,
        }
        return issue(**fields | other)  # type: ignore[arg-type]

    def frame(self, certificate: bytes, interval: int = 0, payload: bytes | None = None) -> bytes:
        """An enrolment frame with the readings of an interval."""
        cipher = DirectionCipher(uplink_key(self.key(self.epoch), self.title, self.epoch, self.alg), self.alg)
        octets = usual(interval) if payload is None else payload
        return seal_enrolment(cipher, self.kid, next(self.counters), octets, certificate)

    @property
    def device(self) -> Device:
        """The meter after it enrolled."""
        return Device(self.meter, self.key(self.epoch), self.epoch, self.alg, self.counters)


@contextmanager
def nothing_new(*models: type) -> Iterator[None]:
    """No row of these models comes or goes as long as the block runs."""
    before = [model.objects.count() for model in models]  # type: ignore[attr-defined]
    yield
    assert [model.objects.count() for model in models] == before  # type: ignore[attr-defined]
