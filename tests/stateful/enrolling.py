"""Enrolment at the head-end under test: an authority, its certificates, who may enrol, and what is cut off."""

from datetime import timedelta
from hashlib import sha256

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from keyvault.device_keys import agreement_cut_off, agreement_keys, epochs
from keyvault.device_keys.fingerprints import fingerprint
from keyvault.enrolment import authorities
from keyvault.enrolment.authorities import PublicAuthority
from keyvault.enrolment.certificates import issue, revoke
from keyvault.models import AgreementKey
from keyvault.schemes.agreed import agree, agreed_device_key
from keyvault.schemes.table import algorithm_for
from meters.models import Meter
from tests.stateful.entities import Certificate, Sent
from tests.stateful.faults import Faults
from tests.stateful.field import HonestMeter, Made
from tests.stateful.ground import ACTOR, AGREEMENT_KEY, Change, clock
from tests.stateful.holding import Holding
from tests.stateful.registry import USUAL

AUTHORITY = Ed25519PrivateKey.from_private_bytes(sha256(b"authority").digest())
KID, ISSUER = b"authority-1", "stateful authority"
_CUT_OFF: set[Change] = {(before, "compromised") for before in ("pending", "active", "retiring", "retired")}


class Enrolling(Holding):
    """What an authority, operators and newcomers do."""

    def __init__(self, faults: Faults) -> None:
        super().__init__(faults)
        authorities.pin(PublicAuthority(KID, ISSUER, AUTHORITY.public_key().public_bytes_raw()), ACTOR, clock.now)
        self.certificates: dict[bytes, tuple[Certificate, bytes]] = {}  # the newest of each meter, and its octets
        self._pairs = self._issued = 0

    def register_newcomer(self, number: int, concentrator: int, scheme: str) -> HonestMeter:
        """A new meter in the registry without any key, which brings a key pair of its own."""
        title = (0x0024_BEFF_FE00_0001 + number).to_bytes(8, "big")
        row = Meter.objects.create(system_title=title, serial_number=f"meter {number}", commissioned_at=clock.now)
        return self.take_in(row, self._made(title, 1, scheme), concentrator)

    def _made(self, title: bytes, epoch: int, scheme: str) -> Made:
        """A new key pair of a meter, and what it agrees on by it with the newest version of the head-end's key."""
        self._pairs += 1
        private = sha256(title + self._pairs.to_bytes(4, "big")).digest()
        own, head_end = X25519PrivateKey.from_private_bytes(private), bytes(self.agreement_key.public)
        z, public = agree(own, head_end), own.public_key().public_bytes_raw()
        key, transfer_key = (agreed_device_key(z, title, one, public, head_end) for one in (epoch, 0))
        return Made(key, transfer_key, algorithm_for(scheme, None), USUAL, scheme, head_end, private, epoch)

    def is_enrolling(self, meter: HonestMeter) -> bool:
        """Whether a meter has a key pair that the head-end has not taken yet, or never will."""
        key = self.truth.keys.get((meter.title, meter.made.epoch))
        return bool(meter.made.private) and (key is None or key.name != fingerprint(meter.made.key))

    def lose_memory(self, meter: HonestMeter) -> None:
        """A meter has lost its counters: it makes a new pair, and begins as the epoch after the newest."""
        newest = self.truth.newest(meter.title)
        epoch = 1 if newest is None else newest[0] + 1
        meter.begin_with(self._made(meter.title, epoch, meter.scheme), clock.now_s)
        self.certificates.pop(meter.title, None)

    def certify(self, meter: HonestMeter, issued: timedelta, lasts: timedelta) -> None:
        """The authority issues a certificate of a meter's key pair, as of some time ago; it revokes the one before."""
        self._issued += 1
        issued_s = int((clock.now - issued).timestamp())
        public = X25519PrivateKey.from_private_bytes(meter.made.private).public_key().public_bytes_raw()
        cti = sha256(public + self._issued.to_bytes(4, "big")).digest()[:8]
        version = AgreementKey.objects.get(public=meter.made.head_end).pk
        certificate = Certificate(cti, issued_s, int((clock.now - issued + lasts).timestamp()), public, version)
        octets = issue(AUTHORITY, KID, ISSUER, meter.title, AGREEMENT_KEY, public, cti, *certificate[1:3])
        self.certificates[meter.title] = certificate, octets

    def allow(self, meter: HonestMeter) -> None:
        """An operator lets a meter enrol, in the scheme that it has."""
        scheme = meter.made.scheme
        authorities.allow([meter.title], ACTOR, clock.now, scheme, algorithm_for(scheme, None))
        self.truth.vouching.awaited[meter.title] = scheme

    def enrol(self, meter: HonestMeter) -> Sent:
        """A meter's frame with its certificate, which goes into the air."""
        certificate, octets = self.certificates[meter.title]
        self.air.append(meter.enrol(octets, certificate, clock.now_s))
        return self.air[-1]

    def finish_enrolment(self, meter: HonestMeter) -> None:
        """Whatever went wrong: an operator allows it, and the meter enrols with a new pair and a good certificate."""
        self.lose_memory(meter)
        self.certify(meter, timedelta(0), timedelta(days=900))
        self.allow(meter)
        self.arrive(0, [self.enrol(meter)], worker=0)
        assert not self.is_enrolling(meter), "a good certificate did not enrol its meter"

    def revoke(self, meter: HonestMeter, *, compromise: bool) -> None:
        """The authority revokes the newest certificate of a meter; what it enrolled may be cut off with it."""
        certificate, _ = self.certificates[meter.title]
        revoked = authorities.revoke(self.revocation(certificate.cti), ACTOR, clock.now)
        enrolled = certificate.cti in self.truth.vouching.enrolled.values()
        assert (revoked.enrolment is not None) == enrolled
        self.truth.vouching.revoked.add(certificate.cti)
        if compromise and revoked.key_ids:
            epochs.compromise(revoked.key_ids, ACTOR)
        self.learn(_CUT_OFF)

    def revocation(self, cti: bytes) -> bytes:
        """What the authority says to revoke a certificate."""
        return revoke(AUTHORITY, KID, cti, clock.now_s)

    def rotate_agreement_key(self) -> None:
        """Keys that begin from now on go with the next version."""
        self.agreement_key = agreement_keys.rotate(AGREEMENT_KEY, ACTOR, clock.now)

    def cut_off_agreement_key(self) -> None:
        """The version that stands leaks: the next one takes its place, and what was agreed on with it is cut off."""
        leaked = self.agreement_key
        self.rotate_agreement_key()
        agreement_cut_off.cut_off(AGREEMENT_KEY, leaked.version, ACTOR, clock.now)
        self.truth.vouching.cut_off.add(leaked.pk)
        self.learn(_CUT_OFF)
