"""The octets of a frame: COSE_Encrypt0 (RFC 9052 section 5.2) in deterministic encoding. Pure.

A frame has exactly one valid encoding (RFC 8949 section 4.2.1), so that it is parsed by comparing octets: it cannot
have indefinite lengths, duplicate labels, further headers or trailing octets, and no general CBOR decoder reads octets
that are not authenticated (docs/adr/0001). Nonces are made in ``sealing``.
"""

from typing import NamedTuple

from keyvault.cose.forms import (
    ALG,
    KID,
    KID_OCTETS,
    PARTIAL_IV,
    SHORT_ALGS,
    Form,
    bstr_head,
    heads,
    long_tail,
    short_tail,
    why_malformed,
)

SYSTEM_TITLE_OCTETS = 8
MAX_COUNTER = 2**40 - 1

# The fields of a head that parsing needs, as plain tuples: each frame unpacks one.
_HEADS = {
    start: (head.alg, head.kid_at, head.kid_end, head.counter_at, head.counter_end, head.counter_head)
    for start, head in heads(b"\xd0\x83", SHORT_ALGS).items()
}
_FORM = Form("COSE_Encrypt0", 16, (18, 23), (ALG, KID, PARTIAL_IV), ("ciphertext",))
_ENC_STRUCTURE_HEAD = b"\x83\x68Encrypt0"
# The head of the protected header, by its length.
_ENC_STRUCTURE_HEADS = [_ENC_STRUCTURE_HEAD + bstr_head(length) for length in range(48)]


class MalformedError(ValueError):
    """The octets are not a frame as in docs/frame.md. Anyone can send such octets: noise or an attack.

    ``octet`` is the position of the fault, from 0; None if the whole is at fault.
    """

    def __init__(self, why: str, octet: int | None = None) -> None:
        super().__init__(why)
        self.octet = octet


class MismatchError(MalformedError):
    """The octets are well formed, but protected as no key of this head-end could be, or not protected at all."""


class Frame(NamedTuple):
    """A parsed frame; nothing in it is authentic before its tag is verified.

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
    """Parse a frame (RFC 9052 section 5.2; docs/frame.md section 2 says what is rejected).

    MalformedError for everything but the one valid encoding of a frame.
    """
    head = _HEADS.get(octets[:8]) or _HEADS.get(octets[:9])
    if head is not None:
        alg, kid_at, kid_end, counter_at, end, counter_head = head
        rest = len(octets) - end
        tail = short_tail(rest) or long_tail(rest)
        start = end + len(tail)
        if (
            tail
            and octets[end:start] == tail
            and octets[kid_end:counter_at] == counter_head
            and (octets[counter_at] or end == counter_at + 1)
        ):
            counter = _from_bytes(octets[counter_at:end], "big")
            return _new_frame(Frame, (octets[kid_at:kid_end], alg, counter, octets[3:end], octets[start:]))
    raise MalformedError(*why_malformed(octets, _FORM))


def encode_frame(protected: bytes, ciphertext: bytes) -> bytes:
    """Encode a frame with a protected header and a ciphertext with its tag."""
    return b"\xd0\x83" + encode_bstr(protected) + b"\xa0" + encode_bstr(ciphertext)


def encode_protected(alg: int, kid: bytes, counter: int) -> bytes:
    """Encode the protected header {1: alg, 4: kid, 6: Partial IV} (RFC 9052 section 3.1).

    ``kid`` has 10 octets, ``counter`` is 0..2^40-1; ValueError (the caller's mistake) otherwise.
    """
    if len(kid) != KID_OCTETS:
        raise ValueError(f"a kid has {KID_OCTETS} octets, not {len(kid)}")
    if not 0 <= counter <= MAX_COUNTER:
        raise ValueError(f"an invocation counter is 0 to 2^40-1, not {counter}")
    partial_iv = counter.to_bytes(max(1, (counter.bit_length() + 7) // 8), "big")
    return b"\xa3\x01" + _encode_int(alg) + b"\x04\x4a" + kid + b"\x06" + encode_bstr(partial_iv)


def enc_structure(protected: bytes, external_aad: bytes = b"") -> bytes:
    """Return the additional authenticated data ["Encrypt0", protected, external_aad] (RFC 9052 section 5.3)."""
    if not external_aad and len(protected) < 48:  # every frame
        return _ENC_STRUCTURE_HEADS[len(protected)] + protected + b"\x40"
    return _ENC_STRUCTURE_HEAD + encode_bstr(protected) + encode_bstr(external_aad)


def make_kid(system_title: bytes, epoch: int) -> bytes:
    """Return the kid of a device key: system title (8 octets) and epoch (0..65535, 2 octets big endian)."""
    if len(system_title) != SYSTEM_TITLE_OCTETS:
        raise ValueError(f"a system title has {SYSTEM_TITLE_OCTETS} octets, not {len(system_title)}")
    return system_title + epoch.to_bytes(2, "big")


def encode_sequence(frames: list[bytes]) -> bytes:
    """Encode the body of an uplink: a CBOR sequence (RFC 8742) of byte strings, one for each frame."""
    return b"".join(map(encode_bstr, frames))


def split_sequence(body: bytes) -> list[bytes]:
    """Split the body of an uplink into frames, which are untrusted octets. Inverse of encode_sequence.

    MalformedError names the octet if the body is not a CBOR sequence (RFC 8742) of byte strings of definite length; an
    empty body is an empty sequence.
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
    """Encode a CBOR byte string in shortest form (RFC 8949 section 3.1, major type 2), up to 65,535 octets."""
    return bstr_head(len(octets)) + octets


def _encode_int(value: int) -> bytes:
    major, magnitude = (0x00, value) if value >= 0 else (0x20, -1 - value)
    if magnitude < 24:
        return bytes((major + magnitude,))
    for info, octets in ((24, 1), (25, 2), (26, 4)):
        if magnitude < 1 << 8 * octets:
            return bytes((major + info,)) + magnitude.to_bytes(octets, "big")
    raise ValueError(f"no COSE algorithm of this head-end has the number {value}")
