"""Decodes CBOR of other encoders (RFC 8949), only for certificates: any encoding, but no map with duplicate keys. Pure.

A general decoder takes the last of two values for one key, and makes objects of unexpected tags: neither may happen
with octets that are not authenticated yet.
"""

import struct
from typing import Any, NamedTuple

_DEPTH = 6
_FLOATS = {25: ">e", 26: ">f", 27: ">d"}
_SIMPLE = {20: False, 21: True, 22: None}
_INDEFINITE, _BREAK = 31, 0xFF


class ForeignCborError(ValueError):
    """The octets are not well-formed, nested too deep, or have a duplicate key. Anyone can send them."""


class Tagged(NamedTuple):
    """A tag and its content."""

    number: int
    value: Any


def decode(octets: bytes) -> Any:
    """Decode one item; ForeignCborError if it is none, or octets follow it."""
    value, end = decode_item(octets, 0)
    if end != len(octets):
        raise ForeignCborError("octets follow the item")
    return value


def decode_item(octets: bytes, start: int) -> tuple[Any, int]:
    """Decode the item at ``start``; return it and its end."""
    reader = _Reader(octets, start)
    return reader.item(_DEPTH), reader.at


class _Reader:
    """Reads octets item by item."""

    def __init__(self, octets: bytes, start: int) -> None:
        self._octets = octets
        self.at = start

    def item(self, depth: int) -> Any:
        if not depth:
            raise ForeignCborError(f"items are nested more than {_DEPTH} deep")
        major, additional = divmod(self._take(1)[0], 32)
        if major == 7:
            return self._simple(additional)
        indefinite = additional == _INDEFINITE and 2 <= major <= 5
        argument = -1 if indefinite else self._argument(additional)
        match major:
            case 0:
                return argument
            case 1:
                return -1 - argument
            case 2:
                return self._chunks(2) if indefinite else self._take(argument)
            case 3:
                return self._text(self._chunks(3) if indefinite else self._take(argument))
            case 4:
                return self._array(argument, depth - 1)
            case 5:
                return self._map(argument, depth - 1)
        return Tagged(argument, self.item(depth - 1))

    def _take(self, octets: int) -> bytes:
        taken = self._octets[self.at : self.at + octets]
        if len(taken) != octets:
            raise ForeignCborError("it ends too early")
        self.at += octets
        return taken

    def _argument(self, additional: int) -> int:
        if additional < 24:
            return additional
        if additional > 27:
            raise ForeignCborError("a head has a form that CBOR does not know")
        return int.from_bytes(self._take(1 << (additional - 24)), "big")

    def _is_over(self, left: int) -> bool:
        """Return whether an array or map has ended, from the number of items left; below 0: until the break."""
        if left >= 0:
            return left == 0
        if self._octets[self.at : self.at + 1] != bytes((_BREAK,)):
            return False
        self.at += 1
        return True

    def _chunks(self, major: int) -> bytes:
        parts = []
        while not self._is_over(-1):
            of, additional = divmod(self._take(1)[0], 32)
            if of != major or additional == _INDEFINITE:
                raise ForeignCborError("a string of indefinite length has a chunk that is none")
            parts.append(self._take(self._argument(additional)))
        return b"".join(parts)

    def _text(self, octets: bytes) -> str:
        try:
            return octets.decode()
        except UnicodeDecodeError:
            raise ForeignCborError("a text is not UTF-8") from None

    def _array(self, left: int, depth: int) -> list[Any]:
        items: list[Any] = []
        while not self._is_over(left):
            items.append(self.item(depth))
            left -= left > 0
        return items

    def _map(self, left: int, depth: int) -> dict[Any, Any]:
        pairs: dict[Any, Any] = {}
        while not self._is_over(left):
            key = self.item(depth)
            if not isinstance(key, int | str) or isinstance(key, bool):
                raise ForeignCborError("a key of a map is neither a number nor a text")
            if key in pairs:
                raise ForeignCborError(f"the key {key!r} stands twice in a map")
            pairs[key] = self.item(depth)
            left -= left > 0
        return pairs

    def _simple(self, additional: int) -> Any:
        if additional in _FLOATS:
            return struct.unpack(_FLOATS[additional], self._take(1 << (additional - 24)))[0]
        if additional in _SIMPLE:
            return _SIMPLE[additional]
        raise ForeignCborError("a simple value that no certificate has")
