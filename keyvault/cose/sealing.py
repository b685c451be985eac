"""Seals and opens frames of one direction of one key, as meter and head-end do. Pure."""

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESCCM

from keyvault.cose.algorithms import CCM
from keyvault.cose.kdf import TrafficKey
from keyvault.cose.structures import Frame, enc_structure, encode_frame, encode_protected


class TagInvalidError(Exception):
    """The tag is wrong: the frame is forged, damaged, or sealed with another key. Anyone can cause it."""


class DirectionCipher:
    """The cipher of one traffic key (one device, epoch and direction). Its key cannot be printed.

    ``alg`` is the COSE algorithm for which the key was derived.
    """

    __slots__ = ("_aead", "_base_iv", "alg")

    def __init__(self, traffic_key: TrafficKey, alg: int) -> None:
        self._aead = AESCCM(traffic_key.key, CCM[alg].tag_octets)
        self._base_iv = int.from_bytes(traffic_key.base_iv, "big")
        self.alg = alg

    def __reduce__(self) -> str:
        raise TypeError("a cipher holds key octets and is never pickled")

    def open_(self, frame: Frame) -> bytes:
        """Return the plaintext of a frame whose alg the caller has checked; TagInvalidError, which does not say why."""
        _, _, counter, protected, ciphertext = frame
        try:
            nonce = (self._base_iv ^ counter).to_bytes(13, "big")  # a call of _nonce costs every frame 40 ns
            return self._aead.decrypt(nonce, ciphertext, enc_structure(protected))
        except (InvalidTag, ValueError):  # ValueError: shorter than a tag
            raise TagInvalidError from None

    def seal(self, kid: bytes, counter: int, plaintext: bytes) -> bytes:
        """Seal a frame. The caller never repeats a ``counter`` (0..2^40-1) under one key."""
        return self.seal_under(encode_protected(self.alg, kid, counter), counter, plaintext)

    def seal_under(self, protected: bytes, counter: int, plaintext: bytes) -> bytes:
        """Like ``seal``, with a given protected header."""
        return encode_frame(protected, self._aead.encrypt(self._nonce(counter), plaintext, enc_structure(protected)))

    def open_with(self, frame: Frame, external_aad: bytes) -> bytes:
        """Like ``open_``, for a frame that is bound to octets outside it."""
        try:
            aad = enc_structure(frame.protected, external_aad)
            return self._aead.decrypt(self._nonce(frame.counter), frame.ciphertext, aad)
        except (InvalidTag, ValueError):
            raise TagInvalidError from None

    def seal_with(self, protected: bytes, counter: int, plaintext: bytes, external_aad: bytes) -> bytes:
        """Return the ciphertext of a frame that is bound to octets outside it; else like ``seal_under``."""
        return self._aead.encrypt(self._nonce(counter), plaintext, enc_structure(protected, external_aad))

    def inputs(self, frame: Frame, external_aad: bytes = b"") -> tuple[bytes, bytes]:
        """Nonce and AAD of a frame, for whoever looks for what a meter does otherwise."""
        return self._nonce(frame.counter), enc_structure(frame.protected, external_aad)

    def _nonce(self, counter: int) -> bytes:
        """Return Base IV XOR the left-padded Partial IV, 13 octets (RFC 9052 section 3.1)."""
        return (self._base_iv ^ counter).to_bytes(13, "big")
