"""Links that carry an APDU: HDLC, M-Bus long frames, the TCP wrapper, general block transfer. Pure.

``unwrap`` takes them off in one fixed order, once each: link, then blocks. All it raises is MalformedError, with the
octet where it breaks. Nothing here is authentic: a checksum finds noise, and no attacker.
"""

from typing import NamedTuple

from keyvault.cose.structures import MalformedError
from keyvault.schemes.dlms.crc import crc_x25

LLC = b"\xe6\xe7\x00"
BLOCK = 0xE0
_FLAG = 0x7E
_HDLC_SHORTEST = 7  # format 2, addresses 1 + 1, control 1, FCS 2
_MBUS_SHORT, _MBUS_SHORT_OCTETS = 0x10, 5
_MBUS_LONG, MBUS_STOP = 0x68, 0x16
_MBUS_BEFORE_DATA = 5  # C, A, CI, STSAP, DTSAP
_MBUS_AROUND = 6  # 68 L L 68 before what L counts; checksum and stop octet after it
_MBUS_MODULO = 256  # Sagemcom T210-D counts L modulo 256
_WRAPPER_HEAD = 8
_from_bytes = int.from_bytes


class HdlcFrame(NamedTuple):
    """An HDLC frame of type 3 (ISO/IEC 13239, IEC 62056-46): addresses as sent, whether a segment follows it."""

    destination: bytes
    source: bytes
    is_segmented: bool
    information: bytes


class MBusFrame(NamedTuple):
    """A long frame of M-Bus (EN 13757-2, -3). ``length`` is what L had to be, ``said`` what it says (T210-D: - 256)."""

    control_information: int
    source: int
    destination: int
    length: int
    said: int
    data: bytes


class WrapperFrame(NamedTuple):
    """A frame of the TCP wrapper (IEC 62056-4-7): ports of source and destination, and the APDU, or a part of it."""

    source: int
    destination: int
    apdu: bytes


class Block(NamedTuple):
    """A block of general block transfer (IEC 62056-5-3): its number from 1, and whether it is the last."""

    number: int
    is_last: bool
    data: bytes


def unwrap(octets: bytes) -> bytes:
    """The APDU of one notification, out of all segments and blocks that carry it; as it is where nothing does."""
    first = octets[:1]
    if first == b"\x7e":
        octets = _joined_hdlc(hdlc_frames(octets))
    elif first in (b"\x68", b"\x10"):
        octets = _joined_mbus(mbus_frames(octets))
    elif octets[:2] == b"\x00\x01":
        octets = b"".join(frame.apdu for frame in wrapper_frames(octets))
    elif octets.startswith(LLC):
        octets = octets[len(LLC) :]
    if octets[:1] == b"\xe0":
        octets = _joined_blocks(blocks(octets))
        if octets[:1] == b"\xe0":
            raise MalformedError("blocks inside of blocks")
    return octets


def hdlc_frames(octets: bytes) -> list[HdlcFrame]:
    """The HDLC frames of some octets, flags between them shared or doubled; every length and checksum must fit."""
    frames = []
    at, end = 0, len(octets)
    while at < end:
        if octets[at] != _FLAG:
            raise MalformedError(f"an HDLC frame begins with the flag 7e, not with {octets[at]:02x}", at)
        if at + 1 == end:  # the closing flag
            break
        if octets[at + 1] == _FLAG:
            at += 1
            continue
        frame, at = _hdlc_frame(octets, at + 1)
        frames.append(frame)
    if not frames or octets[-1] != _FLAG:
        raise MalformedError("the octets end before an HDLC frame does", end)
    return frames


def _hdlc_frame(octets: bytes, start: int) -> tuple[HdlcFrame, int]:
    """The frame whose format field is at ``start``, and where its closing flag is; no stuffing: 7e may be in it."""
    form = int.from_bytes(octets[start : start + 2], "big")
    length = form & 0x07FF
    end = start + length
    if form >> 12 != 0xA:
        raise MalformedError(f"an HDLC frame of type 3 begins with a, not with {form >> 12:x}", start)
    if length < _HDLC_SHORTEST or end > len(octets):
        raise MalformedError(f"an HDLC frame of {length} octets, where {len(octets) - start} follow", start)
    destination, at = _hdlc_address(octets, start + 2, end)
    source, at = _hdlc_address(octets, at, end)
    at += 1  # control
    # The header first: in a stream of junk it costs far less to find that this is no frame.
    if at < end - 2 and crc_x25(octets[start:at]) != int.from_bytes(octets[at : at + 2], "little"):
        raise MalformedError("the header check sequence of an HDLC frame does not fit", at)
    if crc_x25(octets[start : end - 2]) != int.from_bytes(octets[end - 2 : end], "little"):
        raise MalformedError("the frame check sequence of an HDLC frame does not fit", end - 2)
    return HdlcFrame(destination, source, bool(form & 0x0800), octets[at + 2 : end - 2]), end


def _hdlc_address(octets: bytes, start: int, end: int) -> tuple[bytes, int]:
    """An address of 1, 2 or 4 octets, which ends at the octet whose lowest bit is 1; and where it ends."""
    for length in (1, 2, 4):
        if octets[start + length - 1] & 1 and start + length < end - 2:
            return octets[start : start + length], start + length
    raise MalformedError("an HDLC address does not end after 1, 2 or 4 octets", start)


def _joined_hdlc(frames: list[HdlcFrame]) -> bytes:
    parts = []
    is_continuation = False
    for frame in frames:
        if (frame.destination, frame.source) != (frames[0].destination, frames[0].source):
            raise MalformedError("HDLC frames between other addresses than the first")
        data = frame.information
        if not is_continuation and data.startswith(LLC):
            data = data[len(LLC) :]
        parts.append(data)
        is_continuation = frame.is_segmented
    if is_continuation:
        raise MalformedError("the last HDLC segment is missing")
    return b"".join(parts)


def mbus_frames(octets: bytes) -> list[MBusFrame]:
    """The long frames of some octets; short ones between them are passed over."""
    frames = []
    at, end = 0, len(octets)
    while at < end:
        if octets[at] == _MBUS_SHORT:
            at = _after_short(octets, at)
        else:
            frame, at = _mbus_frame(octets, at)
            frames.append(frame)
    return frames


def _after_short(octets: bytes, start: int) -> int:
    """Where a short frame 10 C A checksum 16 ends."""
    frame = octets[start : start + _MBUS_SHORT_OCTETS]
    if len(frame) < _MBUS_SHORT_OCTETS or frame[4] != MBUS_STOP or (frame[1] + frame[2]) & 0xFF != frame[3]:
        raise MalformedError("a short M-Bus frame has 5 octets, a checksum that fits, and the stop octet 16", start)
    return start + _MBUS_SHORT_OCTETS


def _mbus_frame(octets: bytes, start: int) -> tuple[MBusFrame, int]:
    head = octets[start : start + 4]
    if len(head) < 4 or head[0] != _MBUS_LONG or head[3] != _MBUS_LONG or head[1] != head[2]:
        raise MalformedError("a long M-Bus frame begins 68 L L 68", start)
    said = head[1]
    for length in (said, said + _MBUS_MODULO):
        end = start + length + _MBUS_AROUND
        counted = octets[start + 4 : end - 2]
        if (
            length >= _MBUS_BEFORE_DATA
            and end <= len(octets)
            and octets[end - 1] == MBUS_STOP
            and sum(counted) & 0xFF == octets[end - 2]
        ):
            _, _, information, source, destination = counted[:_MBUS_BEFORE_DATA]
            return MBusFrame(information, source, destination, length, said, counted[_MBUS_BEFORE_DATA:]), end
    raise MalformedError(f"a long M-Bus frame of L = {said}, whose checksum or stop octet does not fit", start)


def _joined_mbus(frames: list[MBusFrame]) -> bytes:
    """The data of segments in their order: CI counts in its low four bits, from 0, and adds 10 to the last."""
    for number, frame in enumerate(frames):
        is_last = number == len(frames) - 1
        if frame.control_information != number % 16 + 0x10 * is_last:
            raise MalformedError(f"M-Bus segment {number} has CI {frame.control_information:02x}: one is missing")
        if (frame.source, frame.destination) != (frames[0].source, frames[0].destination):
            raise MalformedError("M-Bus segments between other service access points than the first")
    if not frames:
        raise MalformedError("no long M-Bus frame")
    return b"".join(frame.data for frame in frames)


def wrapper_frames(octets: bytes) -> list[WrapperFrame]:
    """The wrapper frames of some octets, which end with the last of them."""
    frames = []
    at = 0
    while at < len(octets):
        end = wrapper_end(octets, at)
        if end is None or end > len(octets):
            raise MalformedError("the octets end before a wrapper frame does", len(octets))
        source, destination = (int.from_bytes(octets[place : place + 2], "big") for place in (at + 2, at + 4))
        frames.append(WrapperFrame(source, destination, octets[at + _WRAPPER_HEAD : end]))
        at = end
    return frames


def wrapper_end(octets: bytes, start: int = 0) -> int | None:
    """Where the wrapper frame at ``start`` ends, by its length; None where that has not come yet."""
    if not b"\x00\x01".startswith(octets[start : start + 2]):
        raise MalformedError("a wrapper frame begins with version 0001", start)
    if len(octets) < start + _WRAPPER_HEAD:
        return None
    return start + _WRAPPER_HEAD + int.from_bytes(octets[start + 6 : start + 8], "big")


def blocks(octets: bytes) -> list[Block]:
    """The blocks E0 ctl bn(2) bn-ack(2) F(data) that some octets consist of."""
    found = []
    at, end = 0, len(octets)
    while at < end:
        if octets[at] != BLOCK or at + 7 > end:
            raise MalformedError("a block begins with e0 and has 7 octets before its data", at)
        start, length = read_length(octets, at + 6)
        if start + length > end:
            raise MalformedError(f"a block of {length} octets, where {end - start} follow", at)
        number = int.from_bytes(octets[at + 2 : at + 4], "big")
        found.append(Block(number, bool(octets[at + 1] & 0x80), octets[start : start + length]))
        at = start + length
    return found


def _joined_blocks(found: list[Block]) -> bytes:
    """The data of the series that begins with the last block 1: what came before was left off (a power-up)."""
    begun = max((place for place, block in enumerate(found) if block.number == 1), default=None)
    if begun is None:
        raise MalformedError("block 1 is missing")
    series = found[begun:]
    for number, block in enumerate(series, 1):
        if block.number != number:
            raise MalformedError(f"block {block.number} stands where block {number} should")
        if block.is_last != (number == len(series)):
            raise MalformedError("the last block is missing" if number == len(series) else "a block after the last")
    return b"".join(block.data for block in series)


def read_length(octets: bytes, at: int) -> tuple[int, int]:
    """Where the octets begin that a length at ``at`` counts, and how many they are; not minimal ones are taken.

    00 to 7f, or 81 to 84 and as many octets (IEC 61334-6). The caller checks that so many follow.
    """
    if at >= len(octets):
        raise MalformedError("the octets end where a length should be", at)
    first = octets[at]
    if first < 0x80:
        return at + 1, first
    start = at + first - 0x7F
    if not 0x81 <= first <= 0x84 or start > len(octets):
        raise MalformedError(f"a length cannot begin with {first:02x} here", at)
    return start, _from_bytes(octets[at + 1 : start], "big")
