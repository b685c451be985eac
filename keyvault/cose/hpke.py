"""HPKE (RFC 9180) in mode_psk, single shot: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-128-GCM. Pure.

X25519, HMAC and AES are those of pyca/cryptography, which has only the base mode of HPKE. This module has the key
schedule (RFC 9180 sections 4.1 and 5.1); tests/keyvault/schemes/test_hpke.py compares it with the vectors of the RFC
and another library.
"""

from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC

from keyvault.cose.sealing import TagInvalidError

ENC_OCTETS = 32
_VERSION = b"HPKE-v1"
_KEM = _VERSION + b"KEM\x00\x20"
_SUITE = _VERSION + b"HPKE\x00\x20\x00\x01\x00\x01"
_MODE_PSK = b"\x01"
_KEY_OCTETS, _NONCE_OCTETS, _SECRET_OCTETS = 16, 12, 32
_FIRST_BLOCK = b"\x01"


_HASH = SHA256()


def _hmac(key: bytes, octets: bytes) -> bytes:
    one = HMAC(key, _HASH)
    one.update(octets)
    return one.finalize()


_NO_SALT = HMAC(b"", _HASH)


def _extract(octets: bytes) -> bytes:
    """LabeledExtract without a salt, of octets that begin with suite and label."""
    one = _NO_SALT.copy()
    one.update(octets)
    return one.finalize()


_EAE_PRK = _KEM + b"eae_prk"
_SHARED_SECRET = _SECRET_OCTETS.to_bytes(2, "big") + _KEM + b"shared_secret"
_PSK_ID_HASH = _SUITE + b"psk_id_hash"
_INFO_HASH = _SUITE + b"info_hash"
_SECRET = _SUITE + b"secret"
_KEY = _KEY_OCTETS.to_bytes(2, "big") + _SUITE + b"key"
_BASE_NONCE = _NONCE_OCTETS.to_bytes(2, "big") + _SUITE + b"base_nonce"


class Schedule(NamedTuple):
    """The AEAD key (16 octets) and nonce (12) of one message."""

    key: bytes
    nonce: bytes


class PskParty:
    """One party of HPKE with a pre-shared key: what all its messages have in common. Its keys cannot be printed.

    ``psk`` has at least 32 octets of entropy and is named by ``psk_id``; ``recipient`` is the recipient's public key
    (32 octets).
    """

    __slots__ = ("_before_info_hash", "_recipient", "_secret_input")

    def __init__(self, psk: bytes, psk_id: bytes, recipient: bytes) -> None:
        self._secret_input = _SECRET + psk
        self._before_info_hash = _MODE_PSK + _extract(_PSK_ID_HASH + psk_id)
        self._recipient = recipient

    def __reduce__(self) -> str:
        raise TypeError("a pre-shared key is never pickled or copied")

    def schedule(self, dh: bytes, enc: bytes, info: bytes) -> Schedule:
        """Return key and nonce for an ephemeral public key, from the Diffie-Hellman value (32 octets)."""
        eae_prk = _extract(_EAE_PRK + dh)
        shared_secret = _hmac(eae_prk, _SHARED_SECRET + enc + self._recipient + _FIRST_BLOCK)
        context = self._before_info_hash + _extract(_INFO_HASH + info)
        secret = HMAC(_hmac(shared_secret, self._secret_input), _HASH)
        nonce = secret.copy()
        secret.update(_KEY + context + _FIRST_BLOCK)
        nonce.update(_BASE_NONCE + context + _FIRST_BLOCK)
        return Schedule(secret.finalize()[:_KEY_OCTETS], nonce.finalize()[:_NONCE_OCTETS])


def open_psk(party: PskParty, private: X25519PrivateKey, enc: bytes, sealed: bytes, info: bytes, aad: bytes) -> bytes:
    """Open a message with the private key of the recipient.

    TagInvalidError if it does not open: forged, damaged, or an ``enc`` of small order (RFC 9180 section 7.1.4).
    """
    try:
        dh = private.exchange(X25519PublicKey.from_public_bytes(enc))
        key, nonce = party.schedule(dh, enc, info)
        return AESGCM(key).decrypt(nonce, sealed, aad)
    except (InvalidTag, ValueError):  # ValueError: the Diffie-Hellman value is all zero, or shorter than a tag
        raise TagInvalidError from None


def nonce_of(party: PskParty, private: X25519PrivateKey, enc: bytes, info: bytes) -> bytes | None:
    """The nonce (12 octets) of a message to the recipient; None for an ``enc`` of small order."""
    try:
        return party.schedule(private.exchange(X25519PublicKey.from_public_bytes(enc)), enc, info).nonce
    except ValueError:
        return None


def seal_psk(
    party: PskParty, recipient: X25519PublicKey, ephemeral: X25519PrivateKey, plaintext: bytes, info: bytes, aad: bytes
) -> tuple[bytes, bytes]:
    """Seal a message; return the ephemeral public key (32 octets), and the ciphertext with its tag.

    ``ephemeral`` is used for one message only, and then deleted.
    """
    enc = ephemeral.public_key().public_bytes_raw()
    key, nonce = party.schedule(ephemeral.exchange(recipient), enc, info)
    return enc, AESGCM(key).encrypt(nonce, plaintext, aad)
