"""Key source ``agreed``: X25519, static on both sides; nothing secret is shipped (docs/schemes.md). Pure.

Both sides compute Z = X25519(own private key, the other's public key), and from it the device key of an epoch. There
is no forward secrecy: whoever has the private key of the head-end has the device keys of all its meters.
"""

import cbor2
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from keyvault.cose.kdf import DEVICE_KEY_OCTETS
from keyvault.cose.structures import make_kid
from keyvault.schemes.lines import KeyInputs, Source

PUBLIC_OCTETS = 32
PRIVATE_OCTETS = 32
_FIELD_PRIME = 2**255 - 19
_ANY_PRIVATE = X25519PrivateKey.from_private_bytes(bytes(PRIVATE_OCTETS))


class AgreementError(ValueError):
    """A public key that cannot be used: an attack, or a damaged list of keys."""


def check_public(public: bytes) -> None:
    """Check a public key; AgreementError if it is not canonical, or yields a Z that is all zero.

    RFC 7748 section 5 accepts several encodings of one point; here a key has one, because it names one meter.
    """
    if len(public) != PUBLIC_OCTETS:
        raise AgreementError(f"an X25519 public key has {PUBLIC_OCTETS} octets, not {len(public)}")
    if int.from_bytes(public, "little") >= _FIELD_PRIME:
        raise AgreementError("the X25519 public key is not in its one encoding: its number is 2^255 - 19 or more")
    agree(_ANY_PRIVATE, public)


def public_of(private: bytes) -> bytes:
    """Return the public key (32 octets) of a private key (32 octets)."""
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def agree(private: X25519PrivateKey, public: bytes) -> bytes:
    """Compute Z (32 octets) from one's private key and the other's public key (32 octets; RFC 7748 section 6.1).

    AgreementError if Z is all zero: then the public key is a point of small order, and everybody knows Z.
    """
    try:
        return private.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:
        raise AgreementError("the X25519 public key is a point of small order: Z would be all zero") from None


def agreed_device_key(z: bytes, system_title: bytes, epoch: int, meter: bytes, head_end: bytes) -> bytes:
    """Derive the device key (32 octets) of an epoch (0: transfer key) from Z and both public keys (HKDF, RFC 5869)."""
    return HKDF(SHA256(), DEVICE_KEY_OCTETS, None, agreed_info(system_title, epoch, meter, head_end)).derive(z)


def agreed_info(system_title: bytes, epoch: int, meter: bytes, head_end: bytes) -> bytes:
    """The info string of the device key of an epoch, with both public keys."""
    kid = make_kid(system_title, epoch)
    return cbor2.dumps(["ami-headend agreed key", kid[:8], kid[8:], meter, head_end])


def _device_key(inputs: KeyInputs) -> bytes:
    private, meter = inputs.agreement_private, inputs.kept
    if private is None:
        raise AgreementError("a key that is agreed on needs the head-end's agreement key")
    head_end = private.public_key().public_bytes_raw()
    return agreed_device_key(agree(private, meter), inputs.system_title, inputs.epoch, meter, head_end)


AGREED = Source("agreed", is_of_fleet=False, device_key=_device_key, reference="X25519, RFC 7748")
