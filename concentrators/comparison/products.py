"""The product's own sealing and opening of the same reading under each scheme: compared with, and timed. No Django."""

from collections.abc import Callable
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from concentrators.comparison.meters import (
    COUPON,
    DLMS_KEYS,
    DLMS_READING,
    EPHEMERAL,
    EPOCH,
    HEAD_END_PUBLIC,
    IDENTITY,
    IDENTITY_PUBLIC,
    KID,
    MASK_AUTHORITIES,
    MINUTES,
    READING,
    SESSION,
    SIGNING_SECRET,
    WH,
    coupon_secrets,
    dlms_frame,
    masked_pack,
    sign1,
    sign1_to_sign,
)
from concentrators.vectors.material import (
    CONCENTRATOR,
    COUNTER,
    DEVICE_KEY,
    HEAD_END_PRIVATE,
    METER_PRIVATE,
    TIME_S,
    TITLE,
)
from keyvault.cose.algorithms import AES_CCM_16_64_128, HMAC_256_256, HPKE_PSK
from keyvault.cose.kdf import uplink_key
from keyvault.cose.sealing import DirectionCipher
from keyvault.coupons import chameleon
from keyvault.coupons.forms import encode_reading, parse_reading, reading_to_sign
from keyvault.masking.masks import Cell, mask_key, masked
from keyvault.schemes.agreed import public_of
from keyvault.schemes.ccm import CCM_ENVELOPE
from keyvault.schemes.dlms.gcm import GcmCipher
from keyvault.schemes.dlms.security import algorithm_of
from keyvault.schemes.hop import hop_cipher
from keyvault.schemes.hop_tag import HopTagKey, parse_tagged
from keyvault.schemes.lines import Cipher, OpenedKey
from keyvault.schemes.mac import MacCipher
from keyvault.schemes.sealed import SealedSealer
from keyvault.schemes.session import SessionSealer
from keyvault.schemes.table import ENVELOPES, parse_frame
from meters.readings.obis import LOAD_PROFILE


class Sides(NamedTuple):
    """What seals a payload as a meter does, and what opens a frame as its reader does; keys are derived already."""

    seal: Callable[[bytes], bytes]
    open_: Callable[[bytes], bytes]


def _opener(envelope: str, alg: int, octets: bytes = DEVICE_KEY, context: bytes = b"") -> Callable[[bytes], bytes]:
    private = X25519PrivateKey.from_private_bytes(HEAD_END_PRIVATE)
    key = OpenedKey(octets, TITLE, EPOCH, alg, private)
    key.kid_context = context
    cipher: Cipher = ENVELOPES[envelope].cipher(key)
    return lambda frame: cipher.open_(parse_frame(frame))


def _of_kid(cipher: DirectionCipher | MacCipher) -> Callable[[bytes], bytes]:
    return lambda payload: cipher.seal(KID, COUNTER, payload)


def ccm() -> Sides:
    cipher = DirectionCipher(uplink_key(DEVICE_KEY, TITLE, EPOCH, AES_CCM_16_64_128), AES_CCM_16_64_128)
    return Sides(_of_kid(cipher), _opener("ccm", AES_CCM_16_64_128))


def session() -> Sides:
    sealer = SessionSealer(DEVICE_KEY, TITLE, EPOCH, AES_CCM_16_64_128, SESSION)
    opener = _opener("session", AES_CCM_16_64_128, context=SESSION)
    return Sides(lambda payload: sealer.seal_as(COUNTER, payload), opener)


def mac() -> Sides:
    return Sides(_of_kid(MacCipher(DEVICE_KEY, TITLE, EPOCH, HMAC_256_256)), _opener("mac", HMAC_256_256))


def hop() -> Sides:
    """The concentrator opens."""
    cipher = hop_cipher(DEVICE_KEY, TITLE, EPOCH, AES_CCM_16_64_128, CONCENTRATOR)
    return Sides(_of_kid(cipher), lambda frame: cipher.open_(CCM_ENVELOPE.parse(frame)))


def tagged() -> Sides:
    """The concentrator checks the tag, the head-end opens."""
    inside, key = ccm(), HopTagKey.of_device(DEVICE_KEY, TITLE, EPOCH, CONCENTRATOR)
    return Sides(
        lambda payload: key.seal_tag(inside.seal(payload)),
        lambda frame: inside.open_(key.check_tag(parse_tagged(frame))),
    )


def sealed() -> Sides:
    sealer = SealedSealer(DEVICE_KEY, TITLE, EPOCH, HEAD_END_PUBLIC)
    ephemeral = X25519PrivateKey.from_private_bytes(EPHEMERAL)
    return Sides(lambda payload: sealer.seal(COUNTER, payload, ephemeral), _opener("sealed", HPKE_PSK))


def dlms(control: int) -> Sides:
    cipher = GcmCipher(DLMS_KEYS, control)
    opener = _opener("dlms", algorithm_of(control), DLMS_KEYS)
    return Sides(lambda payload: dlms_frame(cipher.seal(TITLE, COUNTER, payload)), opener)


class Content(NamedTuple):
    """What a meter makes of the reading before it is sealed, and what a reader makes of it: the plain reading.

    A masked reading has no reader: what comes out is the masked value.
    """

    make: Callable[[], bytes]
    read: Callable[[bytes], bytes]


def plain(reading: bytes = READING) -> Content:
    return Content(lambda: reading, lambda payload: payload)


def signed() -> Content:
    public = chameleon.base_times(SIGNING_SECRET)
    k, t = coupon_secrets(COUPON)
    point = chameleon.base_times(k)
    commitment = chameleon.times(t, public)
    ready = chameleon.ready(k, SIGNING_SECRET)

    def make() -> bytes:
        hashed = chameleon.hash_of(reading_to_sign(KID, COUPON, READING), point, public)
        return encode_reading(KID, COUPON, READING, chameleon.respond(hashed, ready, t))

    def read(payload: bytes) -> bytes:
        said = parse_reading(payload)
        hashed = chameleon.hash_of(said.to_sign, point, public)
        if not chameleon.fits(hashed, said.response, point, public, commitment):
            raise ValueError("the signature does not fit")
        return said.payload

    return Content(make, read)


def ed25519() -> Content:
    """Ed25519 as its library signs, with R made anew; what is prepared changes the nonce alone."""
    private = Ed25519PrivateKey.from_private_bytes(IDENTITY)
    public = Ed25519PublicKey.from_public_bytes(IDENTITY_PUBLIC)
    signature_octets = 64

    def read(payload: bytes) -> bytes:
        public.verify(payload[-signature_octets:], sign1_to_sign())
        return READING

    return Content(lambda: sign1(private.sign(sign1_to_sign())), read)


def hidden() -> Content:
    private, own = X25519PrivateKey.from_private_bytes(METER_PRIVATE), public_of(METER_PRIVATE)
    keys = [mask_key(private, one, TITLE, own, one) for one in MASK_AUTHORITIES]
    cell = Cell(LOAD_PROFILE, TIME_S, MINUTES)
    return Content(lambda: masked_pack(masked(WH, keys, TITLE, cell)), lambda payload: payload)


DLMS = plain(DLMS_READING)
