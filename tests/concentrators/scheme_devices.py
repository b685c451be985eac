"""Meters for tests that protect their frames by other schemes than the usual one, with keys of epoch 1."""

import itertools
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from hashlib import sha512
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from concentrators.models import Assignment, Concentrator
from keyvault.cose.structures import make_kid
from keyvault.coupons import chameleon, identities
from keyvault.coupons import store as coupon_store
from keyvault.coupons.forms import Coupon, encode_reading, reading_to_sign, sign_list
from keyvault.coupons.verifying import Brought
from keyvault.device_keys import agreement_keys, provisioning
from keyvault.device_keys.provisioning import NewKey
from keyvault.enrolment import authorities
from keyvault.enrolment.authorities import PublicAuthority
from keyvault.enrolment.certificates import CURVE_ED25519, issue
from keyvault.models import AgreementKey, Authority, DeviceKey, InvocationCounter, Session
from keyvault.replay_window_store import Care
from keyvault.schemes.mac import MacCipher
from keyvault.schemes.sealed import SealedSealer
from keyvault.schemes.session import SessionSealer, kid_context
from meters.models import Meter
from tests.concentrators.fleet import NOW, START_S, Device, commission
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
        """The key's own, with the highest counter of the session and when that was heard."""
        counter = super().counter()
        session = Session.objects.get(key=counter.key_id, context=self.context)
        counter.highest, counter.heard_at, counter.heard_via = session.highest, session.heard_at, session.heard_via
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


@dataclass
class SignedDevice(Device):
    """A meter that signs its readings; ``inner`` seals what it signed."""

    inner: Device | None = None
    identity: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    coupons: "itertools.count[int]" = field(default_factory=itertools.count, repr=False)
    signing: int = field(default_factory=lambda: 1 + secrets.randbelow(2**250), repr=False)

    @property
    def kid(self) -> bytes:
        return self._inner.kid

    @property
    def _inner(self) -> Device:
        assert self.inner is not None
        return self.inner

    def secrets_of(self, number: int) -> tuple[int, int]:
        """k and t of a coupon."""
        seed = f"{self.signing}/{self.epoch}/{number}/".encode()
        k, t = (int.from_bytes(sha512(seed + letter).digest()) % chameleon.GROUP_ORDER for letter in (b"k", b"t"))
        return k, t

    @property
    def public(self) -> bytes:
        return chameleon.base_times(self.signing)

    def coupon(self, number: int) -> Coupon:
        k, t = self.secrets_of(number)
        return Coupon(chameleon.base_times(k), chameleon.times(t, self.public))

    @property
    def coupon_kid(self) -> bytes:
        return make_kid(self.title, self.epoch)

    def list_of(self, first: int, count: int = 11) -> bytes:
        """The payload that announces coupons."""
        coupons = [self.coupon(number) for number in range(first, first + count)]
        return sign_list(self.identity, self.coupon_kid, first, self.public, coupons)

    def sign(self, payload: bytes, number: int | None = None) -> bytes:
        """A signed payload, under the next coupon unless one is given."""
        n = next(self.coupons) if number is None else number
        k, t = self.secrets_of(n)
        point = chameleon.base_times(k)
        hashed = chameleon.hash_of(reading_to_sign(self.coupon_kid, n, payload), point, self.public)
        return encode_reading(
            self.coupon_kid, n, payload, chameleon.respond(hashed, chameleon.ready(k, self.signing), t)
        )

    def seal_unsigned(self, payload: bytes, counter: int | None = None) -> bytes:
        return self._inner.seal(payload, counter)

    def seal(self, payload: bytes, counter: int | None = None) -> bytes:
        return self._inner.seal(self.sign(payload), counter)

    def counter(self) -> InvocationCounter:
        return self._inner.counter()

    def certificate(self, authority: Ed25519PrivateKey, now_s: int, **other: object) -> bytes:
        fields: dict[str, Any] = {
            "authority": authority,
            "kid": AUTHORITY.encode(),
            "issuer": AUTHORITY,
            "system_title": self.title,
            "audience": "signed",
            "public": self.identity.public_key().public_bytes_raw(),
            "cti": secrets.token_bytes(8),
            "issued_s": now_s - 60,
            "expires_s": now_s + 86_400,
            "curve": CURVE_ED25519,
        }
        return issue(**(fields | other))


AUTHORITY = "maker of signed meters"
AUTHORITY_KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


def pinned() -> None:
    """The authority that certifies identities is pinned."""
    if not Authority.objects.filter(kid=AUTHORITY.encode()).exists():
        public = AUTHORITY_KEY.public_key().public_bytes_raw()
        authorities.pin(PublicAuthority(AUTHORITY.encode(), AUTHORITY, public), ACTOR, NOW)


def signing(inner: Device) -> SignedDevice:
    """A meter whose readings are signed in frames of another device, and whose identity is registered."""
    row = inner.row()
    DeviceKey.objects.filter(pk=row.pk).update(scheme=f"{row.scheme} + signed")
    device = SignedDevice(inner.meter, inner.key, inner.epoch, inner.alg, inner=inner, counters=inner.counters)
    pinned()
    identities.register([device.certificate(AUTHORITY_KEY, int(NOW.timestamp()))], ACTOR, NOW)
    return device


def announce(device: SignedDevice, first: int = 0, count: int = 11) -> None:
    """Coupons of a meter stand, without a frame of its own that brought them."""
    octets = device.list_of(first, count)
    coupons = coupon_store.read([(device.coupon_kid, octets)], Care.LOOK)
    coupons.announce(coupons.read_list(device.coupon_kid, octets, Brought(0, START_S)))
    coupon_store.save(coupons)


def of_signed(concentrator: Concentrator, make: Callable[[Concentrator], Device] | None = None) -> SignedDevice:
    """A meter that signs, in ``ccm`` frames unless ``make`` makes others, with eleven coupons."""
    device = signing(commission(1, concentrator)[0] if make is None else make(concentrator))
    announce(device)
    return device
