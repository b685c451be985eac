"""The header of a ciphered APDU: who sent it, how it is protected, its invocation counter. Pure.

IEC 62056-5-3 (Green Book Ed. 8 section 9.2.7). ``parse_apdu`` takes one encoding of lengths or another, as meters
write them; all that it raises is MalformedError, or NotCipheredError for what is no ciphered APDU at all.
"""

from struct import Struct

from keyvault.cose.structures import SYSTEM_TITLE_OCTETS, Frame, MalformedError, MismatchError
from keyvault.schemes.dlms.framing import read_length, unwrap
from keyvault.schemes.dlms.security import TAG_OCTETS, algorithm_of, is_authenticated

_BEFORE_CIPHERTEXT = 5  # SC, IC
_FIELDS = 5  # of general-ciphering before its key: transaction id, originator, recipient, date-time, other information
_IDENTIFIED_GUEK = b"\x01\x00\x00"  # key info: present, identified key, GUEK
_NO_KEY_INFO = b"\x00"
# By SC: how many octets come with it at least, and the algorithm that it stands for.
_SHORTEST = [_BEFORE_CIPHERTEXT + TAG_OCTETS * is_authenticated(control) for control in range(256)]
_GLO, _GENERAL = ([algorithm_of(control, is_general=general) for control in range(256)] for general in (False, True))
_PROTECTED = [bytes((control,)) for control in range(256)]
# What most meters begin with: DB 08, title, 82 and a length of two octets, SC, IC.
_USUAL_HEAD = Struct(">H8sBHBI")
_HEAD_OCTETS, _BEFORE_CONTROL = _USUAL_HEAD.size, 13
_read_head = _USUAL_HEAD.unpack_from
_new_frame = tuple.__new__  # half the time of Frame(...)

# What cannot be taken from a push, and why: the first octet of each.
_NOT_TAKEN = (
    {
        0x0F: "a data notification in clear",
        0xC2: "an event notification in clear",
        0xDC: "ciphered under a dedicated key, which belongs to an association",
        0xDF: "signed (general-signing), which is not registered for any meter",
    }
    | dict.fromkeys(range(0xC8, 0xD0), "ciphered without the sender's title (service-specific glo-ciphering)")
    | dict.fromkeys(range(0xD2, 0xD8), "ciphered under a dedicated key, which belongs to an association")
)


def parse_dlms(octets: bytes) -> Frame:
    """Take a frame apart: the octets of one notification, with the links that carried it.

    Its ``kid`` is the sender's title alone, ``alg`` the number of its security control, ``protected`` what is
    authenticated beside key and plaintext (SC, and the fields of general-ciphering), ``ciphertext`` ends with the tag
    where there is one. MalformedError; MismatchError for what no key of a meter could protect so.
    """
    if len(octets) >= _HEAD_OCTETS:
        start, title, form, length, control, counter = _read_head(octets)
        is_whole = length == len(octets) - _BEFORE_CONTROL
        if is_whole and start == 0xDB08 and form == 0x82 and length >= _SHORTEST[control]:
            return _new_frame(Frame, (title, _GLO[control], counter, _PROTECTED[control], octets[_HEAD_OCTETS:]))
    apdu = octets if octets[:1] == b"\xdb" else unwrap(octets)
    first = apdu[:1]
    if first == b"\xdb":
        return _general_glo(apdu)
    if first == b"\xdd":
        return _general_ciphering(apdu)
    if first and first[0] in _NOT_TAKEN:
        raise MismatchError(_NOT_TAKEN[first[0]], 0)
    raise MalformedError(f"no APDU begins with {first.hex() or 'nothing'}")


def _general_glo(apdu: bytes) -> Frame:
    """DB F(title) len SC IC(4) CIPHERTEXT [TAG]."""
    if apdu[1:2] == b"\x08":
        at = 10
    elif apdu[1:3] == b"\x81\x08":
        at = 11
    else:
        raise MalformedError(f"a system title has {SYSTEM_TITLE_OCTETS} octets", 1)
    start, length = read_length(apdu, at)
    return _ciphered(apdu[at - 8 : at], apdu, start, length, b"")


def _general_ciphering(apdu: bytes) -> Frame:
    """DD, five fields, key info, F(SC IC CIPHERTEXT [TAG]); the fields are authenticated with their lengths."""
    at = 1
    fields = []
    for _ in range(_FIELDS):
        start, length = read_length(apdu, at)
        if start + length > len(apdu):
            raise MalformedError(f"a field of {length} octets, where {len(apdu) - start} follow", at)
        fields.append(apdu[start : start + length])
        at = start + length
    title = fields[1]
    if len(title) != SYSTEM_TITLE_OCTETS:
        raise MalformedError(f"a system title has {SYSTEM_TITLE_OCTETS} octets, not {len(title)}", 1)
    authenticated = apdu[1:at]
    if apdu[at : at + 1] == _NO_KEY_INFO:
        at += 1
    elif apdu[at : at + 3] == _IDENTIFIED_GUEK:
        at += 3
    elif apdu[at : at + 1] == b"\x01":
        raise MismatchError("general-ciphering under a broadcast, wrapped or agreed key, which is not taken")
    else:
        raise MalformedError("the key info of general-ciphering begins with 00 or 01", at)
    start, length = read_length(apdu, at)
    return _ciphered(title, apdu, start, length, authenticated)


def _ciphered(title: bytes, apdu: bytes, start: int, length: int, authenticated: bytes) -> Frame:
    if start + length != len(apdu):
        raise MalformedError(f"{length} octets announced, where {len(apdu) - start} follow", start)
    if length < _BEFORE_CIPHERTEXT:
        raise MalformedError(f"{length} octets are too few for a security header", start)
    control = apdu[start]
    if length < _SHORTEST[control]:
        raise MalformedError(f"{length} octets are too few for a security header and a tag", start)
    at = start + _BEFORE_CIPHERTEXT
    alg = (_GENERAL if authenticated else _GLO)[control]
    protected, counter = apdu[start : start + 1] + authenticated, int.from_bytes(apdu[start + 1 : at], "big")
    return _new_frame(Frame, (title, alg, counter, protected, apdu[at:]))
