"""Envelope ``dlms``: ciphered push APDUs of IEC 62056-5-3, in the links that carry them (docs/dlms.md). Pure."""

from keyvault.cose.structures import Frame
from keyvault.schemes.dlms.apdu import parse_dlms
from keyvault.schemes.dlms.gcm import GcmCipher
from keyvault.schemes.dlms.security import ALGORITHMS, control_of
from keyvault.schemes.lines import Derived, Envelope, OpenedKey

MAX_OCTETS = 4096
# CBOR tag 17, of COSE_Mac0, is d1: what begins with that is no DLMS frame (a dedicated key could not protect a push).
_APDUS = (*range(0xC8, 0xD0), *range(0xD2, 0xD8), 0x0F, 0xC2, 0xDB, 0xDC, 0xDD, 0xDF, 0xE0)
_LINKS = (b"\x7e", b"\x68", b"\x00\x01", b"\xe6\xe7\x00")


def _cipher(key: OpenedKey) -> GcmCipher:
    return GcmCipher(key.octets, control_of(key.algorithm))


def _derived(key: OpenedKey, frame: Frame) -> list[Derived]:
    """The authentication key stands in the AAD, and is not told."""
    return [
        Derived("IV: system title and invocation counter", frame.kid + frame.counter.to_bytes(4, "big")),
        Derived("AAD before the authentication key", frame.protected[:1]),
        Derived("AAD after the authentication key", frame.protected[1:]),
    ]


DLMS_ENVELOPE = Envelope(
    "dlms",
    algorithms=ALGORITHMS,
    first_octets=(*(bytes((tag,)) for tag in _APDUS), *_LINKS),
    parse=parse_dlms,
    cipher=_cipher,
    reference="IEC 62056-5-3, DLMS UA Green Book Ed. 8 section 9.2.7",
    max_octets=MAX_OCTETS,
    has_key_sets=True,
    derived=_derived,
)
