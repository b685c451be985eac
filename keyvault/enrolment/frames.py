"""The enrolment frame: a ``ccm`` frame that brings its meter's certificate, and is bound to it. Pure.

COSE_Encrypt0 with the protected header of any ``ccm`` frame, the unprotected header {13: certificate} (kcwt, RFC 9528
section 3.5.3), and the certificate's octets as external AAD. It has one encoding, except for the certificate.
"""

from typing import NamedTuple

from keyvault.cose.sealing import DirectionCipher
from keyvault.cose.structures import Frame, MalformedError, encode_bstr, encode_protected, parse_frame
from keyvault.enrolment.foreign_cbor import ForeignCborError, decode_item

_UNPROTECTED = b"\xa1\x0d"  # {13: ...
_HEAD_OCTETS = 3  # tag, array, head of the protected header


class EnrolmentFrame(NamedTuple):
    """A parsed enrolment frame, and the octets of its certificate; nothing in it is authentic."""

    frame: Frame
    certificate: bytes


def parse_enrolment(octets: bytes) -> EnrolmentFrame | None:
    """Parse an enrolment frame; None if the octets have no certificate.

    MalformedError if they have one, but are otherwise no frame.
    """
    if octets[:2] != b"\xd0\x83" or len(octets) < _HEAD_OCTETS or not 0x40 <= octets[2] <= 0x57:
        return None
    protected_end = _HEAD_OCTETS + octets[2] - 0x40
    start = protected_end + len(_UNPROTECTED)
    if octets[protected_end:start] != _UNPROTECTED:
        return None
    try:
        _, end = decode_item(octets, start)
    except ForeignCborError as error:
        raise MalformedError(f"the certificate in the unprotected header (13): {error}", start) from None
    frame = parse_frame(octets[:protected_end] + b"\xa0" + octets[end:])
    return EnrolmentFrame(frame, octets[start:end])


def seal_enrolment(cipher: DirectionCipher, kid: bytes, counter: int, payload: bytes, certificate: bytes) -> bytes:
    """Seal an enrolment frame, as a meter does. The caller never repeats a ``counter`` under one key."""
    protected = encode_protected(cipher.alg, kid, counter)
    ciphertext = cipher.seal_with(protected, counter, payload, certificate)
    return b"\xd0\x83" + encode_bstr(protected) + _UNPROTECTED + certificate + encode_bstr(ciphertext)
