"""A frame of envelope ``dlms`` layer by layer, for people who look at evidence. Pure.

Links first, then blocks, then the ciphered APDU, which is counted from its own first octet where links took it apart.
"""

from typing import NamedTuple

from keyvault.cose.structures import MalformedError
from keyvault.schemes.dlms.apdu import parse_dlms
from keyvault.schemes.dlms.framing import (
    LLC,
    blocks,
    hdlc_frames,
    mbus_frames,
    unwrap,
    wrapper_frames,
)
from keyvault.schemes.dlms.security import ALGORITHMS, TAG_OCTETS, is_authenticated


class Piece(NamedTuple):
    """Octets of a frame that belong together; ``offset`` counts from the frame, or from the APDU in it."""

    offset: int
    octets: bytes
    depth: int
    meaning: str


def pieces(octets: bytes) -> list[Piece]:
    """What the octets are, as far as they are well formed; MalformedError where links, blocks or the header are not."""
    found = _links(octets)
    apdu = unwrap(octets)
    if apdu[:1] != b"\xdb":
        return [*found, Piece(0, apdu, len(found) > 0, _other(apdu))]
    return found + _ciphered(apdu, int(bool(found)))


def _links(octets: bytes) -> list[Piece]:
    first = octets[:1]
    if first == b"\x7e":
        return _hdlc(octets)
    if first in (b"\x68", b"\x10"):
        return _mbus(octets)
    if octets[:2] == b"\x00\x01":
        ends = _ends([8 + len(one.apdu) for one in wrapper_frames(octets)])
        ports = [f"from port {one.source} to {one.destination}" for one in wrapper_frames(octets)]
        return [
            Piece(start, octets[start:end], 0, f"TCP wrapper (IEC 62056-4-7) {port}")
            for (start, end), port in zip(ends, ports, strict=True)
        ]
    if octets.startswith(LLC):
        return [Piece(0, LLC, 0, "LLC header")]
    return _blocks(octets) if first == b"\xe0" else []


def _hdlc(octets: bytes) -> list[Piece]:
    found = []
    at = 0
    for one in hdlc_frames(octets):
        while octets[at : at + 1] == b"\x7e":
            at += 1
        end = at + (int.from_bytes(octets[at : at + 2], "big") & 0x07FF)
        more = ", a segment follows" if one.is_segmented else ""
        told = f"HDLC frame from {one.source.hex()} to {one.destination.hex()}{more}; its checksums fit"
        found.append(Piece(at, octets[at:end], 0, told))
        found += [piece._replace(offset=at) for piece in _blocks(one.information.removeprefix(LLC))]
        at = end
    return found


def _mbus(octets: bytes) -> list[Piece]:
    found = []
    at = 0
    for one in mbus_frames(octets):
        while octets[at] == 0x10:
            at += 5
        end = at + one.length + 6
        counted = f", counted modulo 256: L says {one.said}" if one.said != one.length else ""
        told = f"M-Bus long frame of {one.length} octets{counted}, CI {one.control_information:02x}; its checksum fits"
        found.append(Piece(at, octets[at:end], 0, told))
        at = end
    return found


def _blocks(octets: bytes) -> list[Piece]:
    if octets[:1] != b"\xe0":
        return []
    return [
        Piece(0, one.data, 1, f"block {one.number} of general-block-transfer{', the last' if one.is_last else ''}")
        for one in blocks(octets)
    ]


def _ciphered(apdu: bytes, depth: int) -> list[Piece]:
    """The header of general-glo-ciphering, ciphertext and tag."""
    frame = parse_dlms(apdu)
    control = frame.protected[0]
    body_at = len(apdu) - len(frame.ciphertext)
    tag_at = len(apdu) - TAG_OCTETS * is_authenticated(control)
    length_at = 11 if apdu[1] == 0x81 else 10
    known = ALGORITHMS.get(frame.alg)
    what = known.name if known is not None else "taken from no meter"
    parts = [
        (0, 1, "general-glo-ciphering"),
        (1, length_at, f"system title {frame.kid.hex()}"),
        (length_at, body_at - 5, f"length: {len(apdu) - body_at + 5} octets follow"),
        (body_at - 5, body_at - 4, f"security control {control:02x}: {what}"),
        (body_at - 4, body_at, f"invocation counter {frame.counter:,}"),
        (body_at, tag_at, "ciphertext" if control & 0x20 else "notification in clear"),
        (tag_at, len(apdu), "tag"),
    ]
    return [Piece(start, apdu[start:end], depth, told) for start, end, told in parts if start < end]


def _other(apdu: bytes) -> str:
    try:
        frame = parse_dlms(apdu)
    except MalformedError as error:
        return str(error)
    return f"general-ciphering from {frame.kid.hex()}, invocation counter {frame.counter:,}"


def _ends(lengths: list[int]) -> list[tuple[int, int]]:
    """Where pieces of some lengths begin and end, one after the other."""
    found, at = [], 0
    for length in lengths:
        found.append((at, at + length))
        at += length
    return found
