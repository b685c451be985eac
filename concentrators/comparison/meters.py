"""A meter's side of each scheme, over primitives that count. No Django.

Each makes the same octets as the product does for the same reading, counter and keys (``products``).
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

import cbor2
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from concentrators.comparison.primitives import Primitives
from concentrators.vectors.material import (
    CONCENTRATOR,
    COUNTER,
    DEVICE_KEY,
    HEAD_END_PRIVATE,
    METER_PRIVATE,
    TIME_S,
    TITLE,
    energy,
)
from keyvault.cose.algorithms import AES_CCM_16_64_128, CCM, HMAC, HMAC_256_64, HMAC_256_256, HPKE_PSK
from keyvault.cose.kdf import HEAD_END, hop_mac_info, kdf_context, uplink_secret_info
from keyvault.cose.mac import encode_mac0, mac_structure
from keyvault.cose.structures import enc_structure, encode_bstr, encode_frame, encode_protected, make_kid
from keyvault.coupons.chameleon import GROUP_ORDER
from keyvault.coupons.forms import LIST_MAX_COUPONS, Coupon, encode_reading, parse_list, reading_to_sign, sign_list
from keyvault.masking.masks import MODULUS
from keyvault.schemes.agreed import public_of
from meters.readings.obis import LOAD_PROFILE

EPOCH, COUPON, MINUTES, WH = 1, 7, 30, 112
KID = make_kid(TITLE, EPOCH)
EPHEMERAL = bytes(range(0xC0, 0xE0))
SESSION = bytes.fromhex("6955b900a0a1a2a3a4a5a6a7")
IDENTITY = bytes(range(0xE0, 0x100))
IDENTITY_PUBLIC = Ed25519PrivateKey.from_private_bytes(IDENTITY).public_key().public_bytes_raw()
SIGNING_SEED, SIGNING_SECRET = b"a meter that signs", 0x1234567890ABCDEF << 160
COUPONS = range(LIST_MAX_COUPONS)
MASK_AUTHORITIES = tuple(public_of(bytes([octet]) * 32) for octet in (0x11, 0x12))
HEAD_END_PUBLIC = public_of(HEAD_END_PRIVATE)
READING = energy(WH)
# The same reading as a DLMS meter pushes it: data-notification [structure: start, energy of the interval in Wh].
DLMS_READING = bytes.fromhex("0f000000010002020669 55b900 0600000070")
DLMS_KEYS = DEVICE_KEY
_NONCE_OCTETS = 13


@dataclass
class CountedMeter:
    """A meter that was switched on, with what it keeps of its keys; ``once`` counts what that took."""

    p: Primitives = field(default_factory=Primitives)
    announced: bytes = b""  # the payload of the coupon list that was made last

    def traffic(self, salt: bytes = b"", party_v: bytes = HEAD_END) -> tuple[bytes, bytes]:
        """Key and Base IV of AES-CCM (RFC 9053 section 5.2)."""
        p, parties = self.p, ((TITLE, KID[8:]), (party_v, None))
        with p.at(p.once):
            prk = p.hmac(salt, DEVICE_KEY)
            octets = CCM[AES_CCM_16_64_128].key_octets
            key = p.hkdf_expand(prk, kdf_context(AES_CCM_16_64_128, 8 * octets, *parties), octets)
            base_iv = p.hkdf_expand(prk, kdf_context("IV-GENERATION", 8 * _NONCE_OCTETS, *parties), _NONCE_OCTETS)
        return key, base_iv

    def ccm(self, payload: bytes, party_v: bytes = HEAD_END) -> bytes:
        key, base_iv = self.traffic(party_v=party_v)
        return self._ccm(key, base_iv, encode_protected(AES_CCM_16_64_128, KID, COUNTER), payload)

    def session(self, payload: bytes) -> bytes:
        key, base_iv = self.traffic(SESSION)
        protected = b"\xa4" + encode_protected(AES_CCM_16_64_128, KID, COUNTER)[1:] + b"\x0a\x4c" + SESSION
        return self._ccm(key, base_iv, protected, payload)

    def _ccm(self, key: bytes, base_iv: bytes, protected: bytes, payload: bytes) -> bytes:
        nonce = (int.from_bytes(base_iv, "big") ^ COUNTER).to_bytes(_NONCE_OCTETS, "big")
        sealed = self.p.ccm(self.p.aes(key), nonce, enc_structure(protected), payload)
        return encode_frame(protected, sealed)

    def mac(self, payload: bytes, alg: int = HMAC_256_256) -> bytes:
        with self.p.at(self.p.once):
            key = self.p.hkdf(DEVICE_KEY, uplink_secret_info(TITLE, EPOCH, alg))
        protected = encode_protected(alg, KID, COUNTER)
        tag = self.p.hmac(key, mac_structure(protected, payload))[: HMAC[alg].tag_octets]
        return encode_mac0(protected, payload, tag)

    def hop(self, payload: bytes) -> bytes:
        return self.ccm(payload, CONCENTRATOR)

    def tagged(self, payload: bytes) -> bytes:
        """A ``ccm`` frame that wears a hop tag."""
        frame = self.ccm(payload)
        with self.p.at(self.p.once):
            key = self.p.hkdf(DEVICE_KEY, hop_mac_info(TITLE, EPOCH, CONCENTRATOR))
        protected = cbor2.dumps({1: HMAC_256_64, 4: KID})
        tag = self.p.hmac(key, mac_structure(protected, frame))[: HMAC[HMAC_256_64].tag_octets]
        return encode_mac0(protected, frame, tag)

    def sealed(self, payload: bytes) -> bytes:
        """HPKE in mode_psk (RFC 9180 section 5.1)."""
        p = self.p
        kem, suite = b"HPKE-v1KEM\x00\x20", b"HPKE-v1HPKE\x00\x20\x00\x01\x00\x01"
        protected = encode_protected(HPKE_PSK, KID, COUNTER)
        with p.at(p.once):
            psk = p.hkdf(DEVICE_KEY, uplink_secret_info(TITLE, EPOCH, HPKE_PSK))
            context = b"\x01" + p.hmac(b"", suite + b"psk_id_hash" + KID)
        enc = p.x25519(EPHEMERAL)
        eae_prk = p.hmac(b"", kem + b"eae_prk" + p.x25519(EPHEMERAL, HEAD_END_PUBLIC))
        shared = p.hkdf_expand(eae_prk, b"\x00\x20" + kem + b"shared_secret" + enc + HEAD_END_PUBLIC, 32)
        context += p.hmac(b"", suite + b"info_hash" + cbor2.dumps(["ami-headend sealed", protected]))
        secret = p.hmac(shared, suite + b"secret" + psk)
        key = p.hkdf_expand(secret, b"\x00\x10" + suite + b"key" + context, 16)
        nonce = p.hkdf_expand(secret, b"\x00\x0c" + suite + b"base_nonce" + context, 12)
        said = p.gcm(p.gcm_key(key), nonce, enc_structure(protected), payload, 16)
        return b"\xd0\x83" + encode_bstr(protected) + b"\xa1\x23\x58\x20" + enc + encode_bstr(said)

    def dlms(self, control: int) -> bytes:
        """A general-glo-ciphering APDU (Green Book Ed. 8 section 9.2.7) of suite 0."""
        p, half = self.p, len(DLMS_KEYS) // 2
        with p.at(p.once):
            key = p.gcm_key(DLMS_KEYS[:half])
        head = bytes((control,)) + COUNTER.to_bytes(4, "big")
        aad, tag_octets = head[:1] + DLMS_KEYS[half:], 12 if control & 0x10 else 0
        if control & 0x20:
            said = head + p.gcm(key, TITLE + head[1:], aad, DLMS_READING, tag_octets)
        else:
            said = head + DLMS_READING + p.gcm(key, TITLE + head[1:], aad + DLMS_READING, b"", tag_octets)
        return dlms_frame(said)

    def masked_reading(self) -> bytes:
        """The reading, hidden under a mask of each authority."""
        p, own = self.p, public_of(METER_PRIVATE)
        with p.at(p.once):
            keys = [
                p.hkdf(p.x25519(METER_PRIVATE, one), cbor2.dumps(["ami-headend mask key", TITLE, own, one]))
                for one in MASK_AUTHORITIES
            ]
        cell = cbor2.dumps(["ami-headend mask", TITLE, LOAD_PROFILE, TIME_S, MINUTES])
        masks = (int.from_bytes(p.hmac(key, cell)[:8], "big") for key in keys)
        return masked_pack((WH + sum(masks)) % MODULUS)

    def signed_reading(self) -> bytes:
        """The reading, signed under a coupon that was made, with those of its list, while the meter was idle."""
        p, x = self.p, SIGNING_SECRET
        with p.at(p.once):
            public = p.base_times(x)
        inverse = pow(x, -1, GROUP_ORDER)  # comes with x, from the factory
        with p.at(p.ahead):
            prepared = {number: self._coupon(number, inverse) for number in COUPONS}
            self._sign_list(public, [coupon for coupon, _, _ in prepared.values()])
        coupon, ready, t = prepared[COUPON]
        signed = reading_to_sign(KID, COUPON, READING) + coupon.point + public
        hashed = int.from_bytes(p.sha512(signed), "little") % GROUP_ORDER
        r = (t - p.multiply(hashed, ready)) % GROUP_ORDER
        return encode_reading(KID, COUPON, READING, r.to_bytes(32, "little"))

    def _coupon(self, number: int, inverse: int) -> tuple[Coupon, int, int]:
        """A coupon with what signing under it takes: k x^-1, and t."""
        p = self.p
        k, t = coupon_secrets(number, p.sha512)
        coupon = Coupon(p.base_times(k), p.base_times(p.multiply(t, SIGNING_SECRET)))
        return coupon, p.multiply(k, inverse), t

    def _sign_list(self, public: bytes, coupons: list[Coupon]) -> None:
        """The signature of a coupon list by the meter's identity, which is not a reading's."""
        self.announced = coupon_list(public, coupons)
        announced = parse_list(self.announced)
        signature = self.p.ed25519(IDENTITY, IDENTITY_PUBLIC, announced.to_sign)
        if signature != announced.signature:
            raise AssertionError("the counted signature of a coupon list is another than the product's")

    def ed25519_reading(self) -> bytes:
        """The reading in a COSE_Sign1 of Ed25519 whose nonce and R were made while the meter was idle."""
        p = self.p
        with p.at(p.once):
            secret, prefix = p.ed25519_secret(IDENTITY)
        with p.at(p.ahead):
            nonce = _scalar(p.sha512(prefix + COUNTER.to_bytes(5, "big")))
            point = p.base_times(nonce)
        return sign1(p.ed25519_answer(secret, IDENTITY_PUBLIC, nonce, point, sign1_to_sign()))


def coupon_secrets(
    number: int, sha512: Callable[[bytes], bytes] = lambda octets: hashlib.sha512(octets).digest()
) -> tuple[int, int]:
    """k and t of a coupon, by a pseudorandom function."""
    k, t = (_scalar(sha512(SIGNING_SEED + letter + number.to_bytes(4, "big"))) for letter in (b"k", b"t"))
    return k, t


def dlms_frame(said: bytes) -> bytes:
    """A general-glo-ciphering APDU around SC, counter, ciphertext and tag."""
    return b"\xdb\x08" + TITLE + bytes((len(said),)) + said


def masked_pack(value: int) -> bytes:
    """The pack of the reading as a masked value."""
    record = {-1: 26, -3: TIME_S, 0: LOAD_PROFILE, 1: "Wh", 8: value.to_bytes(8, "big")}
    return cbor2.dumps([record])


def coupon_list(public: bytes, coupons: list[Coupon]) -> bytes:
    """The payload that announces coupons."""
    return sign_list(Ed25519PrivateKey.from_private_bytes(IDENTITY), KID, COUPONS.start, public, coupons)


_SIGN1_PROTECTED = cbor2.dumps({1: -19, 4: KID})


def sign1_to_sign() -> bytes:
    """What an Ed25519 signature of the reading is over (RFC 9052 section 4.4)."""
    return cbor2.dumps(["Signature1", _SIGN1_PROTECTED, b"", READING])


def sign1(signature: bytes) -> bytes:
    """COSE_Sign1 (RFC 9052 section 4.2) of the reading."""
    return cbor2.dumps(cbor2.CBORTag(18, [_SIGN1_PROTECTED, {}, READING, signature]))


def _scalar(digest: bytes) -> int:
    return 1 + int.from_bytes(digest, "big") % (GROUP_ORDER - 1)
