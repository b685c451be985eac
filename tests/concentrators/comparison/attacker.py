"""An attacker on the readings of a scheme, with what it has of keys, who tries with the product's own code."""

from collections.abc import Callable

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from concentrators.comparison.meters import (
    COUPON,
    EPOCH,
    HEAD_END_PUBLIC,
    KID,
    MASK_AUTHORITIES,
    READING,
    SESSION,
    SIGNING_SECRET,
    coupon_secrets,
    dlms_frame,
    masked_pack,
    sign1,
)
from concentrators.comparison.subjects import Subject
from concentrators.comparison.withstands import Power
from concentrators.vectors.material import CONCENTRATOR, COUNTER, DEVICE_KEY, METER_PRIVATE, TITLE
from keyvault.cose.kdf import uplink_key
from keyvault.cose.sealing import DirectionCipher, TagInvalidError
from keyvault.coupons import chameleon
from keyvault.coupons.forms import encode_reading, reading_to_sign
from keyvault.masking.masks import Cell, mask_key, masked, unmasked
from keyvault.schemes.dlms.gcm import GcmCipher
from keyvault.schemes.hop import hop_cipher
from keyvault.schemes.hop_tag import parse_tagged
from keyvault.schemes.lines import OpenedKey
from keyvault.schemes.mac import MacCipher
from keyvault.schemes.sealed import SealedSealer
from keyvault.schemes.session import SessionSealer
from keyvault.schemes.table import ENVELOPES, parse_frame

OTHER = READING[:-1] + b"\x00"  # it used nothing


def stolen(alg: int, octets: bytes = DEVICE_KEY, private: X25519PrivateKey | None = None) -> OpenedKey:
    """What somebody has who has a device key, and an agreement key of one's own where one is needed."""
    key = OpenedKey(octets, TITLE, EPOCH, alg, private or X25519PrivateKey.generate())
    key.kid_context = SESSION
    return key


class Attacker:
    """Somebody with a device key and, or, secrets of a meter or a head-end, who tries with the product's own code."""

    def __init__(self, subject: Subject, device_key: bytes | None, *, has_meter: bool = False) -> None:
        self.subject, self.key, self.has_meter = subject, device_key, has_meter
        self.frame = subject.counted().octets

    def can(self, agreement: X25519PrivateKey | None = None) -> Power:
        """What it can do with a reading that was recorded, and with one that it makes up."""
        return (Power.READS if self.reads(agreement) else Power.NOTHING) | (
            Power.FORGES if self.forges() else Power.NOTHING
        )

    def reads(self, agreement: X25519PrivateKey | None) -> bool:
        """Whether the reading is found: in the frame as it is, or in what the key opens."""
        seen = [self.frame]
        if self.key is not None:
            seen += self._opened(self.key, agreement)
        if any(self.subject.reading in one for one in seen):
            return True
        return self.has_meter and self.subject.content == "masked" and any(map(self._unmasks, seen))

    def _opened(self, key: bytes, agreement: X25519PrivateKey | None) -> list[bytes]:
        try:
            if self.subject.envelope == "hop":
                return [hop_cipher(key, TITLE, EPOCH, 10, CONCENTRATOR).open_(parse_frame(self.frame))]
            frame = parse_tagged(self.frame).frame if self.subject.envelope == "hop tag" else self.frame
            parsed = parse_frame(frame)
            return [ENVELOPES.of(frame).cipher(stolen(parsed.alg, key, agreement)).open_(parsed)]
        except TagInvalidError:
            return []

    def _unmasks(self, payload: bytes) -> bool:
        own = X25519PrivateKey.from_private_bytes(METER_PRIVATE)
        public = own.public_key().public_bytes_raw()
        cell = Cell("1-0:1.29.0", 1_767_225_600, 30)
        keys = [mask_key(own, one, TITLE, public, one) for one in MASK_AUTHORITIES]
        value = masked(112, keys, TITLE, cell)
        return masked_pack(value) in payload and unmasked(value, [value - 112]) == 112

    def forges(self) -> bool:
        """Whether the head-end, or the concentrator that opens, takes another reading than the meter's."""
        if self.key is None:
            return self._flips()
        forged = self._sealed(self.key, self._content())
        try:
            said = self.subject.sides().open_(forged)
            self.subject.reader().read(said)
        except (TagInvalidError, InvalidSignature, ValueError):
            return False
        return True

    def _flips(self) -> bool:
        """Whether any bit of a frame may be another one; who has no key knows where the reading stands."""
        flipped = self.frame[:-3] + bytes((self.frame[-3] ^ 1,)) + self.frame[-2:]
        try:
            return self.subject.sides().open_(flipped) != self.subject.sides().open_(self.frame)
        except (TagInvalidError, ValueError):
            return False

    def _content(self) -> bytes:
        if self.subject.content == "signed":
            k, t = coupon_secrets(COUPON) if self.has_meter else (5, 7)
            x = SIGNING_SECRET if self.has_meter else 9
            point = chameleon.base_times(coupon_secrets(COUPON)[0])
            hashed = chameleon.hash_of(reading_to_sign(KID, COUPON, OTHER), point, chameleon.base_times(SIGNING_SECRET))
            return encode_reading(KID, COUPON, OTHER, chameleon.respond(hashed, chameleon.ready(k, x), t))
        if self.subject.content == "Ed25519":
            return self.subject.reader().make() if self.has_meter else sign1(bytes(64))
        return masked_pack(4) if self.subject.content == "masked" else OTHER

    def _sealed(self, key: bytes, payload: bytes) -> bytes:
        name = self.subject.envelope
        ccm = DirectionCipher(uplink_key(key, TITLE, EPOCH, 10), 10)
        makers: dict[str, Callable[[], bytes]] = {
            "ccm": lambda: ccm.seal(KID, COUNTER, payload),
            "hop tag": lambda: self.subject.sides().seal(payload),
            "session": lambda: SessionSealer(key, TITLE, EPOCH, 10, SESSION).seal_as(COUNTER, payload),
            "mac": lambda: MacCipher(key, TITLE, EPOCH, 5).seal(KID, COUNTER, payload),
            "hop": lambda: hop_cipher(key, TITLE, EPOCH, 10, CONCENTRATOR).seal(KID, COUNTER, payload),
            "sealed": lambda: SealedSealer(key, TITLE, EPOCH, HEAD_END_PUBLIC).seal(COUNTER, payload),
        }
        if name in makers:
            return makers[name]()
        control = {"dlms": 0x30, "dlms in clear": 0x10, "dlms without tag": 0x20}[name]
        return dlms_frame(GcmCipher(key, control).seal(TITLE, COUNTER, self.subject.reading[:-1] + b"\x00"))
