"""The heads of CBOR items, and how their values are written for people (RFC 8949 sections 3 and 8). Pure."""

import math
import struct
from typing import NamedTuple

_SIMPLE = {20: "false", 21: "true", 22: "null", 23: "undefined"}
_FLOATS = {25: ">e", 26: ">f", 27: ">d"}


class BrokenError(Exception):
    """The octets are not CBOR from here on; the message says why."""


class Head(NamedTuple):
    """The head of a CBOR item (RFC 8949 section 3): major type, additional information, argument, and where it ends.

    ``argument`` is None for an indefinite length; ``after`` is the position of the first octet after the head.
    """

    major: int
    info: int
    argument: int | None
    after: int

    @property
    def width(self) -> str:
        """The encoding indicator (RFC 8949 section 8.1) if the argument is longer than necessary, else empty."""
        if self.argument is None or self.info < 24:
            return ""
        shortest = 23 if self.argument < 24 else max(24, 23 + _octets_for(self.argument))
        return "" if self.info == shortest else f"_{self.info - 24}"


def _octets_for(argument: int) -> int:
    """Return 1, 2, 3 or 4 for an argument that needs 1, 2, 4 or 8 octets."""
    return next(n for n, end in enumerate((1 << 8, 1 << 16, 1 << 32, 1 << 64), 1) if argument < end)


def head_at(octets: bytes, at: int, end: int) -> Head:
    """Read the head of the item at ``at``, inside octets that end at ``end``; BrokenError if there is none."""
    if at >= end:
        raise BrokenError("an item is missing")
    major, info = octets[at] >> 5, octets[at] & 0x1F
    if info < 24:
        return Head(major, info, info, at + 1)
    if info == 31:
        return Head(major, info, None, at + 1)
    if info > 27:
        raise BrokenError(f"0x{octets[at]:02x} begins no CBOR item")
    after = at + 1 + (1 << (info - 24))
    if after > end:
        raise BrokenError("it ends inside a length or number")
    return Head(major, info, int.from_bytes(octets[at + 1 : after], "big"), after)


def as_hex(octets: bytes) -> str:
    """Return octets as a byte string."""
    return f"h'{octets.hex()}'"


def as_text(octets: bytes) -> str:
    """Return UTF-8 as a text string; what does not print is escaped."""
    text = octets.decode(errors="replace")
    return '"' + "".join(c if c.isprintable() and c not in '"\\' else f"\\u{ord(c):04x}" for c in text) + '"'


def simple(head: Head, octets: bytes) -> str:
    """Return the notation of a simple value or float; ``octets`` are those after its first one."""
    if head.info in _FLOATS:
        return _float(struct.unpack(_FLOATS[head.info], octets)[0])
    argument = head.argument or 0
    return _SIMPLE.get(argument, f"simple({argument})")


def _float(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return repr(value)
