"""A-XDR data as DLMS writes it (IEC 61334-6, IEC 62056-6-2), decoded within bounds. Pure.

Anybody may have written the octets that are decoded to see whether an unauthenticated frame is a notification: so
depth and number of items are bounded, and no length is believed before that many octets follow.
"""

import struct
from typing import NamedTuple, TypeAlias

from keyvault.cose.structures import MalformedError
from keyvault.schemes.dlms.framing import read_length

DEEPEST = 8  # arrays and structures inside of each other
MOST_ITEMS = 4096

NULL, ARRAY, STRUCTURE, BOOLEAN, BITS, OCTETS, TEXT, UTF8 = 0x00, 0x01, 0x02, 0x03, 0x04, 0x09, 0x0A, 0x0C
COMPACT, ENUM, DONT_CARE, INT8, UINT8, UINT16, UINT32 = 0x13, 0x16, 0xFF, 0x0F, 0x11, 0x12, 0x06
DATE_TIME, DATE, TIME = 0x19, 0x1A, 0x1B
# Numbers by their tags: how the struct module reads them. Deltas are numbers, too: their reader adds them up.
_NUMBERS = {
    tag: struct.Struct(">" + form)
    for tag, form in {
        0x05: "i", 0x06: "I", 0x0D: "B", 0x0F: "b", 0x10: "h", 0x11: "B", 0x12: "H", 0x14: "q", 0x15: "Q", 0x16: "B",
        0x17: "f", 0x18: "d", 0x1C: "b", 0x1D: "h", 0x1E: "i", 0x1F: "B", 0x20: "H", 0x21: "I",
    }.items()
}  # fmt: skip
_PAIR = bytes((STRUCTURE, 2))
_OBIS_OCTETS = 6
DELTAS = frozenset(range(0x1C, 0x22))
_FIXED = {DATE_TIME: 12, DATE: 5, TIME: 4}
STRINGS = frozenset((OCTETS, TEXT, UTF8))


class Item(NamedTuple):
    """An item: its tag and what it says. Of an array, a structure or a compact array that is a list of items."""

    tag: int
    value: "int | float | bytes | list[Item] | None"


# The type of a compact array's element: a tag, or a container tag with the types of its parts.
_Type: TypeAlias = "int | tuple[int, list[_Type]]"


def decode(octets: bytes, start: int = 0) -> Item:
    """The one item that the octets from ``start`` on are; MalformedError: they are none, or more, or too many."""
    decoder = _Decoder(octets, start)
    item = decoder.item(0)
    if decoder.at != len(octets):
        raise MalformedError(f"{len(octets) - decoder.at} octets follow the data", decoder.at)
    return item


class Leaf(NamedTuple):
    """Where the value of an item lies that holds no others: octets ``start`` to ``end``, without tag and length.

    ``is_constant``: it says what the values around it are (an OBIS code, scaler, unit), and is of the form.
    """

    tag: int
    start: int
    end: int
    is_constant: bool

    @property
    def octets(self) -> int:
        return self.end - self.start

    @property
    def is_string(self) -> bool:
        return self.tag in STRINGS


def leaves_of(octets: bytes, start: int = 0) -> list[Leaf]:
    """The leaves of the one item that the octets from ``start`` on are, in order; MalformedError as ``decode``."""
    decoder = _Tracing(octets, start)
    decoder.item(0)
    found = []
    for place, (tag, first, end) in enumerate(decoder.spans):
        following = decoder.spans[place + 1][0] if place + 1 < len(decoder.spans) else NULL
        preceding = decoder.spans[place - 1] if place else (NULL, 0, 0)
        is_scaler = tag == INT8 and following == ENUM and octets[first - 3 : first - 1] == _PAIR
        is_unit = tag == ENUM and preceding[0] == INT8 and octets[preceding[1] - 3 : preceding[1] - 1] == _PAIR
        is_obis = tag == OCTETS and end - first == _OBIS_OCTETS and octets[end - 1] == 0xFF
        found.append(Leaf(tag, first, end, is_scaler or is_unit or is_obis))
    return found


class _Decoder:
    """Goes through octets from ``at`` on, and counts its items."""

    def __init__(self, octets: bytes, at: int) -> None:
        self._octets, self.at, self._left = octets, at, MOST_ITEMS

    def item(self, depth: int) -> Item:
        tag = self._take(1)[0]
        self._count(1)
        if tag in (ARRAY, STRUCTURE):
            count = self._length()
            if count > len(self._octets) - self.at:  # an item has an octet at least
                raise MalformedError(
                    f"{count} items announced, where {len(self._octets) - self.at} octets follow", self.at
                )
            self._enter(depth)
            return Item(tag, [self.item(depth + 1) for _ in range(count)])
        if tag == COMPACT:
            self._enter(depth)
            return Item(tag, self._compact(depth + 1))
        return self._simple(tag)

    def _simple(self, tag: int) -> Item:
        """An item that holds no others, after its tag; of compact arrays in their contents, too."""
        number = _NUMBERS.get(tag)
        value: int | float | bytes | None
        if number is not None:
            (value,) = number.unpack(self._take(number.size))
        elif tag in STRINGS:
            value = self._take(self._length())
        elif tag in (NULL, DONT_CARE):
            value = None
        elif tag == BOOLEAN:
            value = int(self._take(1) != b"\x00")
        elif tag == BITS:
            value = self._take((self._length() + 7) // 8)
        elif tag in _FIXED:
            value = self._take(_FIXED[tag])
        else:
            raise MalformedError(f"no type of data has tag {tag:02x}", self.at - 1)
        return Item(tag, value)

    def _compact(self, depth: int) -> list[Item]:
        """The elements of a compact array: a type description, the length of the contents, contents without tags."""
        kind = self._type(depth)
        length = self._length()
        end = self.at + length
        if end > len(self._octets):
            raise MalformedError(f"contents of {length} octets, where {len(self._octets) - self.at} follow", self.at)
        elements = []
        while self.at < end:
            before = self.at
            elements.append(self._element(kind))
            if self.at == before:
                raise MalformedError("an element of a compact array takes no octet", before)
        if self.at != end:
            raise MalformedError("the last element of a compact array goes beyond its contents", self.at)
        return elements

    def _type(self, depth: int) -> _Type:
        tag = self._take(1)[0]
        if tag == STRUCTURE:
            self._enter(depth)
            count = self._length()
            self._count(count)
            return tag, [self._type(depth + 1) for _ in range(count)]
        if tag == ARRAY:
            self._enter(depth)
            count = int.from_bytes(self._take(2), "big")
            self._count(count)
            return tag, [self._type(depth + 1)] * count
        if tag == COMPACT:
            raise MalformedError("a compact array inside of a compact array", self.at - 1)
        return tag

    def _element(self, kind: _Type) -> Item:
        self._count(1)
        if isinstance(kind, int):
            return self._simple(kind)
        tag, parts = kind
        return Item(tag, [self._element(part) for part in parts])

    def _length(self) -> int:
        self.at, length = read_length(self._octets, self.at)
        return length

    def _take(self, count: int) -> bytes:
        taken = self._octets[self.at : self.at + count]
        if len(taken) < count:
            raise MalformedError(f"{count} octets announced, where {len(taken)} follow", self.at)
        self.at += count
        return taken

    def _enter(self, depth: int) -> None:
        if depth >= DEEPEST:
            raise MalformedError(f"more than {DEEPEST} arrays and structures inside of each other", self.at)

    def _count(self, count: int) -> None:
        self._left -= count
        if self._left < 0:
            raise MalformedError(f"more than {MOST_ITEMS} items", self.at)


class _Tracing(_Decoder):
    """Notes the tag of each item that holds no others, and where its value lies."""

    def __init__(self, octets: bytes, at: int) -> None:
        super().__init__(octets, at)
        self.spans: list[tuple[int, int, int]] = []

    def _simple(self, tag: int) -> Item:
        start = self.at
        item = super()._simple(tag)
        if isinstance(item.value, bytes):
            start = self.at - len(item.value)
        self.spans.append((tag, start, self.at))
        return item
