"""COSE_Mac0 (RFC 9052 section 6.2) with HMAC-SHA-256 (RFC 9053 section 3.1): tags over readable payloads. Pure."""

from hmac import compare_digest

from cryptography.hazmat.primitives import hmac
from cryptography.hazmat.primitives.hashes import SHA256

from keyvault.cose.algorithms import HMAC
from keyvault.cose.forms import bstr_head
from keyvault.cose.sealing import TagInvalidError
from keyvault.cose.structures import encode_bstr

_MAC_STRUCTURE_HEAD = b"\x84\x64MAC0"
# The head of the protected header, by its length; and the octets before a payload, by its length.
_PROTECTED_HEADS = [_MAC_STRUCTURE_HEAD + bstr_head(length) for length in range(24)]
_PAYLOAD_HEADS = [b"\x40" + bstr_head(length) for length in range(256)]


def mac_structure(protected: bytes, payload: bytes) -> bytes:
    """Return what a tag covers: ["MAC0", protected, external_aad, payload] (RFC 9052 section 6.3), nothing external."""
    if len(protected) < 24 and len(payload) < 256:  # every usual frame
        return _PROTECTED_HEADS[len(protected)] + protected + _PAYLOAD_HEADS[len(payload)] + payload
    return _MAC_STRUCTURE_HEAD + encode_bstr(protected) + b"\x40" + encode_bstr(payload)


def encode_mac0(protected: bytes, payload: bytes, tag: bytes) -> bytes:
    """Encode a COSE_Mac0 with CBOR tag 17."""
    return b"\xd1\x84" + encode_bstr(protected) + b"\xa0" + encode_bstr(payload) + encode_bstr(tag)


class MacKey:
    """A key (32 octets) of HMAC 256/64 (``alg`` 4) or HMAC 256/256 (5). It cannot be printed."""

    __slots__ = ("_hmac", "_tag_octets", "alg")

    def __init__(self, key: bytes, alg: int) -> None:
        self._hmac = hmac.HMAC(key, SHA256())
        self._tag_octets = HMAC[alg].tag_octets
        self.alg = alg

    def __reduce__(self) -> str:
        raise TypeError("a key is never pickled")

    def tag(self, protected: bytes, payload: bytes) -> bytes:
        """Return the tag over a protected header and a payload."""
        one = self._hmac.copy()
        one.update(mac_structure(protected, payload))
        return one.finalize()[: self._tag_octets]

    def check(self, protected: bytes, payload: bytes, tag: bytes) -> None:
        """Check a tag; TagInvalidError if it is wrong, without saying why."""
        one = self._hmac.copy()
        one.update(mac_structure(protected, payload))
        if not compare_digest(one.finalize()[: self._tag_octets], tag):  # in constant time
            raise TagInvalidError
