"""Sealing and opening of one direction of one key: what a meter does, and the head-end with it. Pure."""

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESCCM

from keyvault.cose.algorithms import CCM
from keyvault.cose.kdf import TrafficKey
from keyvault.cose.structures import Frame, enc_structure, encode_frame, encode_protected


class TagInvalidError(Exception):
    """The tag does not fit: forged, damaged, or sealed with another key. Anyone can cause it."""


class DirectionCipher:
    """The cipher of one traffic key (one device, epoch and direction). Holds no printable key.

    ``alg`` is the COSE algorithm the key was derived for.
    """

    __slots__ = ("_aead", "_base_iv", "alg")

    def __init__(self, traffic_key: TrafficKey, alg: int) -> None:
        self._aead = AESCCM(traffic_key.key, CCM[alg].tag_octets)
        self._base_iv = int.from_bytes(traffic_key.base_iv, "big")
        self.alg = alg

    def __reduce__(self) -> str:
        raise TypeError("a cipher holds key octets and is never pickled")

    def open_(self, frame: Frame) -> bytes:
        """The plaintext of a frame whose alg the caller has compared; TagInvalidError: never an oracle of why."""
        _, _, counter, protected, ciphertext = frame
        try:
            nonce = (self._base_iv ^ counter).to_bytes(13, "big")  # a call of _nonce costs every frame 40 ns
            return self._aead.decrypt(nonce, ciphertext, enc_structure(protected))
        except (InvalidTag, ValueError):  # ValueError: shorter than a tag
            raise TagInvalidError from None

    def seal(self, kid: bytes, counter: int, plaintext: bytes) -> bytes:
        """A frame under this key. The caller never repeats a ``counter`` (0..2^40-1) under one key."""
        return self.seal_under(encode_protected(self.alg, kid, counter), counter, plaintext)

    def seal_under(self, protected: bytes, counter: int, plaintext: bytes) -> bytes:
        """As ``seal``, under a protected header that says more."""
        return encode_frame(protected, self._aead.encrypt(self._nonce(counter), plaintext, enc_structure(protected)))

    def open_with(self, frame: Frame, external_aad: bytes) -> bytes:
        """As ``open_``, of a frame that is bound to octets outside of it."""
        try:
            aad = enc_structure(frame.protected, external_aad)
            return self._aead.decrypt(self._nonce(frame.counter), frame.ciphertext, aad)
        except (InvalidTag, ValueError):
            raise TagInvalidError from None

    def seal_with(self, protected: bytes, counter: int, plaintext: bytes, external_aad: bytes) -> bytes:
        """The ciphertext of a frame that is bound to octets outside of it; otherwise as ``seal_under``."""
        return self._aead.encrypt(self._nonce(counter), plaintext, enc_structure(protected, external_aad))

    def _nonce(self, counter: int) -> bytes:
        """Base IV XOR the left-padded Partial IV, 13 octets (RFC 9052 section 3.1)."""
        return (self._base_iv ^ counter).to_bytes(13, "big")
