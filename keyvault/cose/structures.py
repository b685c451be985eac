"""The octets of a frame: COSE_Encrypt0 (RFC 9052 section 5.2) in deterministic encoding. Pure.

A frame has exactly one valid encoding (RFC 8949 section 4.2.1), so it is taken apart by comparing
octets: indefinite lengths, duplicate labels, further headers and trailing octets cannot be written
in it, and no general CBOR decoder ever sees octets that no key has vouched for (docs/adr/0001).
"""

import re
from typing import NamedTuple

SYSTEM_TITLE_OCTETS = 8
KID_OCTETS = 10
MAX_COUNTER = 2**40 - 1

# The octets before a frame's kid by its protected header: {1: alg, 4: kid, 6: Partial IV}, alg of one octet or two
# (0..255 and -1..-256), Partial IV of 1 to 5 octets. With an alg of two, the kid's head is the ninth octet.
_HEADS: dict[bytes, tuple[int, int, int, int, int, bytes]] = {
    b"\xd0\x83" + bytes((0x50 + len(alg) + octets,)) + b"\xa3\x01" + alg + b"\x04\x4a": (
        number,
        7 + len(alg),
        17 + len(alg),
        19 + len(alg),
        19 + len(alg) + octets,
        bytes((0x06, 0x40 + octets)),
    )
    for alg, number in [
        *((bytes((major + n,)), -1 - n if major else n) for major in (0x00, 0x20) for n in range(24)),
        *((bytes((major + 24, n)), -1 - n if major else n) for major in (0x00, 0x20) for n in range(24, 256)),
    ]
    for octets in range(1, 6)
}
# {}, and the head of the ciphertext, by the number of octets from there to the end of the frame.
_TAILS = {2 + octets: bytes((0xA0, 0x40 + octets)) for octets in range(24)} | {
    3 + octets: bytes((0xA0, 0x58, octets)) for octets in range(24, 256)
}
# Only to say what is wrong.
_ALG = rb"[\x00-\x17\x20-\x37]|[\x18\x38][\x18-\xff]"
_KID = rb"\x4a.{10}"
_PARTIAL_IV = rb"\x41.|\x42[^\x00].|\x43[^\x00].{2}|\x44[^\x00].{3}|\x45[^\x00].{4}"
_BSTR_HEAD = re.compile(rb"[\x40-\x57]|\x58[\x18-\xff]|\x59[^\x00].", re.DOTALL)  # shortest form
_HEADERS = [
    (b"\x01", "alg", re.compile(_ALG, re.DOTALL), "an integer of one or two octets in shortest form"),
    (b"\x04", "kid", re.compile(_KID, re.DOTALL), "a byte string of 10 octets (0x4a)"),
    (
        b"\x06",
        "Partial IV",
        re.compile(_PARTIAL_IV, re.DOTALL),
        "a byte string of 1 to 5 octets without a leading zero octet",
    ),
]
_ENC_STRUCTURE_HEAD = b"\x83\x68Encrypt0"
_ENC_STRUCTURE_HEADS = [_ENC_STRUCTURE_HEAD + bytes((0x40 + length,)) for length in range(24)]  # with bstr head


class MalformedError(ValueError):
    """The octets are no frame of docs/frame.md. Anyone can send such octets: noise or an attack.

    ``octet`` is where it breaks, counted from 0; None where the whole is at fault.
    """

    def __init__(self, why: str, octet: int | None = None) -> None:
        super().__init__(why)
        self.octet = octet


class Frame(NamedTuple):
    """A frame taken apart; nothing in it is authentic before its tag was verified.

    ``kid`` is system title (8 octets) and epoch (2, big endian); ``alg`` a COSE algorithm;
    ``counter`` the invocation counter, 0..2^40-1; ``protected`` the protected header as sent.
    """

    kid: bytes
    alg: int
    counter: int
    protected: bytes
    ciphertext: bytes


_new_frame = tuple.__new__  # half the time of Frame(...)
_from_bytes = int.from_bytes


def parse_frame(octets: bytes) -> Frame:
    """Take a frame apart (RFC 9052 section 5.2; docs/frame.md section 2 for what is refused).

    Raises MalformedError for whatever is not the one valid encoding of a frame.
    """
    head = _HEADS.get(octets[:8]) or _HEADS.get(octets[:9])
    if head is not None:
        alg, kid_at, kid_end, counter_at, end, partial_iv_head = head
        rest = len(octets) - end
        tail = _TAILS.get(rest) or _long_tail(rest)
        start = end + len(tail)
        if (
            tail
            and octets[end:start] == tail
            and octets[kid_end:counter_at] == partial_iv_head
            and (octets[counter_at] or end == counter_at + 1)
        ):
            counter = _from_bytes(octets[counter_at:end], "big")
            return _new_frame(Frame, (octets[kid_at:kid_end], alg, counter, octets[3:end], octets[start:]))
    raise MalformedError(*_why_malformed(octets))


def _long_tail(rest: int) -> bytes:
    """What stands before a ciphertext of 256 to 65,535 octets; nothing where ``rest`` is of no such frame."""
    return b"\xa0\x59" + (rest - 4).to_bytes(2, "big") if 256 <= rest - 4 <= 0xFFFF else b""


def encode_frame(protected: bytes, ciphertext: bytes) -> bytes:
    """The octets of a frame around a protected header and a ciphertext with its tag."""
    return b"\xd0\x83" + encode_bstr(protected) + b"\xa0" + encode_bstr(ciphertext)


def encode_protected(alg: int, kid: bytes, counter: int) -> bytes:
    """The protected header {1: alg, 4: kid, 6: Partial IV} (RFC 9052 section 3.1).

    ``kid`` has 10 octets, ``counter`` is 0..2^40-1; ValueError (the caller's mistake) otherwise.
    """
    if len(kid) != KID_OCTETS:
        raise ValueError(f"a kid has {KID_OCTETS} octets, not {len(kid)}")
    if not 0 <= counter <= MAX_COUNTER:
        raise ValueError(f"an invocation counter is 0 to 2^40-1, not {counter}")
    partial_iv = counter.to_bytes(max(1, (counter.bit_length() + 7) // 8), "big")
    return b"\xa3\x01" + _encode_int(alg) + b"\x04\x4a" + kid + b"\x06" + encode_bstr(partial_iv)


def enc_structure(protected: bytes, external_aad: bytes = b"") -> bytes:
    """The additional authenticated data ["Encrypt0", protected, external_aad] (RFC 9052 section 5.3)."""
    if not external_aad and len(protected) < 24:  # every frame
        return _ENC_STRUCTURE_HEADS[len(protected)] + protected + b"\x40"
    return _ENC_STRUCTURE_HEAD + encode_bstr(protected) + encode_bstr(external_aad)


def make_kid(system_title: bytes, epoch: int) -> bytes:
    """The kid of a device key: system title (8 octets) and epoch (0..65535, 2 octets big endian)."""
    if len(system_title) != SYSTEM_TITLE_OCTETS:
        raise ValueError(f"a system title has {SYSTEM_TITLE_OCTETS} octets, not {len(system_title)}")
    return system_title + epoch.to_bytes(2, "big")


def encode_sequence(frames: list[bytes]) -> bytes:
    """An uplink's body: a CBOR sequence (RFC 8742) of byte strings, one frame each."""
    return b"".join(map(encode_bstr, frames))


def split_sequence(body: bytes) -> list[bytes]:
    """The frames of an uplink's body, untrusted octets each. Inverse of encode_sequence.

    Raises MalformedError, naming the octet, where the body is no CBOR sequence (RFC 8742) of byte
    strings of definite length; an empty body is a sequence of none.
    """
    frames = []
    position, end = 0, len(body)
    while position < end:
        first = body[position]
        if first == 0x58 and position + 1 < end:  # the usual frame: 24 to 255 octets
            start = position + 2
            length = body[position + 1]
        elif 0x40 <= first <= 0x57:
            start = position + 1
            length = first - 0x40
        elif 0x58 <= first <= 0x5B:
            start = position + 1 + (1 << (first - 0x58))
            if start > end:
                raise MalformedError(f"the body ends inside the length of the byte string at octet {position}")
            length = int.from_bytes(body[position + 1 : start], "big")
        else:
            raise MalformedError(f"octet {position} (0x{first:02x}) does not begin a byte string of definite length")
        if length > end - start:
            raise MalformedError(
                f"the byte string at octet {position} announces {length} octets, but {max(0, end - start)} follow"
            )
        position = start + length
        frames.append(body[start:position])
    return frames


def encode_bstr(octets: bytes) -> bytes:
    """A CBOR byte string in shortest form (RFC 8949 section 3.1, major type 2), up to 65,535 octets."""
    length = len(octets)
    if length < 24:
        return bytes((0x40 + length,)) + octets
    if length < 256:
        return bytes((0x58, length)) + octets
    if length < 65_536:
        return b"\x59" + length.to_bytes(2, "big") + octets
    raise ValueError(f"a frame has at most 65,535 octets, not {length}")


def _encode_int(value: int) -> bytes:
    major, magnitude = (0x00, value) if value >= 0 else (0x20, -1 - value)
    if magnitude < 24:
        return bytes((major + magnitude,))
    if magnitude < 256:
        return bytes((major + 24, magnitude))
    raise ValueError(f"no COSE algorithm of this head-end has the number {value}")


def _announced(head: bytes) -> int:
    """How many octets the head of a byte string announces."""
    return int.from_bytes(head[1:], "big") if len(head) > 1 else head[0] - 0x40


def _why_malformed(octets: bytes) -> tuple[str, int]:
    """One sentence for the operator: the first thing that is wrong with a frame, and at which octet."""
    if not octets:
        return "the frame is empty", 0
    if octets[0] != 0xD0:
        return f"it begins with 0x{octets[0]:02x}, not with CBOR tag 16 (0xd0)", 0
    if octets[1:2] != b"\x83":
        return "tag 16 is not followed by an array of three, of definite length and shortest form (0x83)", 1
    if len(octets) < 3 or not 0x40 <= octets[2] <= 0x57:
        return "the protected header is not a byte string of definite length and shortest form, 18 to 23 octets", 2
    unprotected = 3 + octets[2] - 0x40
    if len(octets) < unprotected:
        return "the frame ends inside the protected header", len(octets)
    wrong = _why_protected(octets[3:unprotected])
    if wrong is not None:
        return wrong[0], 3 + wrong[1]
    if octets[unprotected : unprotected + 1] != b"\xa0":
        why = "the unprotected header is not the empty map (0xa0): every header stands in the protected one"
        return why, unprotected
    head = _BSTR_HEAD.match(octets, unprotected + 1)
    if head is None:
        why = "the ciphertext is not a byte string of definite length and shortest form, up to 65,535 octets"
        return why, unprotected + 1
    announced = _announced(head.group())
    follow = len(octets) - head.end()
    if follow < announced:
        return f"the ciphertext announces {announced} octets, but {follow} follow", len(octets)
    return f"octets follow the ciphertext: {follow - announced} of them", head.end() + announced


def _why_protected(protected: bytes) -> tuple[str, int] | None:
    """What is wrong with a protected header, and at which of its octets; or nothing."""
    if protected[:1] != b"\xa3":
        return "the protected header is not a map of exactly three, 1: alg, 4: kid, 6: Partial IV (0xa3)", 0
    position = 1
    for label, name, value, form in _HEADERS:
        if protected[position : position + 1] != label:
            where = f"at octet {position} of the protected header: 1, 4, 6, in order"
            return f"label {label[0]} ({name}) is missing {where}", position
        match = value.match(protected, position + 1)
        if match is None:
            return f"the {name} is not {form}", position + 1
        position = match.end()
    if position != len(protected):
        return "octets follow the three labels in the protected header", position
    return None
