"""A walk through the CBOR of a frame, or of what a frame brought, that collects its parts and what they mean. Pure.

It reads whatever it is given as far as it goes: depth and number of parts are bounded, and nothing is built from what a
length announces.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from keyvault.cose.algorithms import Algorithm
from keyvault.cose.forms import KID_OCTETS
from keyvault.cose.sign1_anatomy import Place, Sign1Anatomy
from keyvault.cose.structures import SYSTEM_TITLE_OCTETS
from keyvault.enrolment import anatomy
from keyvault.schemes.diagnostic_notation import BrokenError, Head, as_hex, as_text, head_at, simple
from keyvault.schemes.session import CONTEXT_OCTETS, OPENED_AT_OCTETS, opened_at

_DEPTH_MAX = 12  # a certificate's public key lies ten deep
PARTS_MAX = 200
_ENCRYPT0, _MAC0 = 16, 17
_MESSAGES = {
    _ENCRYPT0: ("COSE_Encrypt0 (RFC 9052 section 5.2)", "[protected, unprotected, ciphertext]"),
    _MAC0: ("COSE_Mac0 (RFC 9052 section 6.2)", "[protected, unprotected, payload, tag]"),
}
_ALG, _KID, _PARTIAL_IV, _KID_CONTEXT, _ENC = 1, 4, 6, 10, -4
# Header parameters that COSE and OSCORE name (RFC 9052 section 3.1, RFC 8613 section 9.1), and that of HPKE.
_LABELS = {
    1: "alg",
    2: "crit",
    3: "content type",
    4: "kid",
    5: "IV",
    6: "Partial IV",
    10: "kid context",
    anatomy.KCWT: "certificate (kcwt, RFC 9528)",
    -4: "ephemeral key",
}


class Part(NamedTuple):
    """Octets of a frame that belong together: where they begin, what they say and what that means.

    ``notation`` is CBOR diagnostic notation of this part, ``depth`` how deep it is nested; ``is_wrong``
    marks the part in which the frame breaks.
    """

    offset: int
    octets: bytes
    depth: int
    notation: str
    meaning: str
    is_wrong: bool = False


class Walk:
    """One walk through some octets, collecting their parts; ``sign1`` names what a COSE_Sign1 among them says."""

    def __init__(
        self, octets: bytes, algorithms: Mapping[int, Algorithm], sign1: Sign1Anatomy = anatomy.CERTIFICATE
    ) -> None:
        self.octets = octets
        self._algorithms = algorithms
        self._sign1 = sign1
        self.parts: list[Part] = []
        self.alg: int | None = None
        self._message = _ENCRYPT0

    def frame(self) -> str | None:
        """The whole; gives its notation, or None where it is no single CBOR item."""
        if not self.octets:
            return None
        try:
            after, notation = self._item(0, len(self.octets), 0, ())
        except BrokenError as error:
            self._rest(str(error))
            return None
        if after < len(self.octets):
            self._add(after, len(self.octets), 0, as_hex(self.octets[after:]), "octets after the end of the frame")
            return None
        return notation

    def _rest(self, why: str, end: int | None = None) -> None:
        """What could not be read, as one part."""
        end = len(self.octets) if end is None else end
        start = self.parts[-1].offset + len(self.parts[-1].octets) if self.parts else 0
        if start < end:
            self._add(start, end, 0, as_hex(self.octets[start:end]), f"no CBOR: {why}")

    def _add(self, start: int, end: int, depth: int, notation: str, meaning: str) -> None:
        self.parts.append(Part(start, self.octets[start:end], depth, notation, meaning))

    def _item(self, at: int, end: int, depth: int, path: Place) -> tuple[int, str]:
        """One item from ``at``; gives the position after it and its notation."""
        if depth > _DEPTH_MAX or len(self.parts) > PARTS_MAX:
            raise BrokenError("nested too deep, or too many items, to be shown")
        head = head_at(self.octets, at, end)
        if head.argument is None and head.major in (0, 1, 6):
            raise BrokenError(f"0x{self.octets[at]:02x} begins no CBOR item")
        read: Callable[[Head, int, int, int, Place], tuple[int, str]]
        read = (
            self._integer,
            self._integer,
            self._string,
            self._string,
            self._array,
            self._map,
            self._tag,
            self._simple,
        )[head.major]
        return read(head, at, end, depth, path)

    def _integer(self, head: Head, at: int, end: int, depth: int, path: Place) -> tuple[int, str]:
        assert head.argument is not None  # noqa: S101 - _item refuses it
        value = head.argument if head.major == 0 else -1 - head.argument
        notation = f"{value}{head.width}"
        if path[-1:] == ("label",):
            meaning = f"label: {self._label(path[:-1], value)}"
        elif path == (0, _ALG) and self._sign1.within(path) is None:
            self.alg = value
            meaning = (
                f"algorithm {self._algorithms[value].name}"
                if value in self._algorithms
                else "an algorithm that this head-end does not know"
            )
        else:
            meaning = self._meaning(path, "a number", value)
        self._add(at, head.after, depth, notation, meaning)
        return head.after, notation

    def _string(self, head: Head, at: int, end: int, depth: int, path: Place) -> tuple[int, str]:
        what = "text" if head.major == 3 else "byte string"
        if head.argument is None:
            return self._chunks(head, at, end, depth, path)
        after = head.after + head.argument
        if after > end:
            follow = end - head.after
            self._add(at, head.after, depth, what, f"a {what} of {head.argument:,} octets; {follow} follow")
            raise BrokenError(f"the {what} announces {head.argument:,} octets, but {follow} follow")
        octets = self.octets[head.after : after]
        notation = as_text(octets) + head.width if head.major == 3 else as_hex(octets) + head.width
        if head.major == 2 and self._sign1.is_embedded(path):
            return after, self._embedded(head, at, after, depth, path, self._meaning(path, ""))
        if path == (0,) and head.major == 2:
            name = "protected header, under the tag: "
            return after, self._embedded(head, at, after, depth, path, name)
        if head.major == 2 and self._message == _MAC0 and path in ((2,), (3,)):
            self._of_mac(head, at, after, depth, path)
        elif path == (2,) and head.major == 2 and self._sign1.within(path) is None:
            self._add(at, head.after, depth, what, f"ciphertext and tag: a byte string of {head.argument:,} octets")
            self._ciphertext(head.after, after, depth + 1)
        elif path == (0, _KID) and head.argument == KID_OCTETS:
            self._add(at, head.after, depth, what, "kid: a byte string of 10 octets")
            split = head.after + SYSTEM_TITLE_OCTETS
            self._add(head.after, split, depth + 1, as_hex(self.octets[head.after : split]), "system title (EUI-64)")
            epoch = int.from_bytes(self.octets[split:after], "big")
            self._add(split, after, depth + 1, as_hex(self.octets[split:after]), f"key epoch {epoch}")
        elif path == (0, _KID_CONTEXT) and head.argument == CONTEXT_OCTETS:
            self._add(at, head.after, depth, what, "kid context: a byte string of 12 octets, which names the session")
            split = head.after + OPENED_AT_OCTETS
            began = f"the session began at {opened_at(octets)} (Unix seconds)"
            self._add(head.after, split, depth + 1, as_hex(self.octets[head.after : split]), began)
            unique = self.octets[split:after]
            self._add(split, after, depth + 1, as_hex(unique), "octets that never come again under the device key")
        elif path == (1, _ENC):
            meaning = f"ephemeral public key of HPKE (X25519): {head.argument:,} octets"
            self._add(at, after, depth, notation, meaning)
        elif path == (0, _PARTIAL_IV) and 0 < head.argument <= 5 and self._sign1.within(path) is None:
            counter = f"invocation counter {int.from_bytes(octets, 'big'):,}"
            self._add(at, after, depth, notation, f"Partial IV: {counter}")
        else:
            self._add(at, after, depth, notation, self._meaning(path, f"a {what} of {head.argument:,} octets"))
        return after, notation

    def _of_mac(self, head: Head, at: int, after: int, depth: int, path: Place) -> None:
        """The payload of a COSE_Mac0, or its tag."""
        octets = self.octets[head.after : after]
        name = "payload, which anybody can read" if path == (2,) else "authentication tag"
        self._add(at, head.after, depth, "byte string", f"{name}: a byte string of {len(octets):,} octets")
        if octets:
            self._add(
                head.after,
                after,
                depth + 1,
                as_hex(octets),
                f"{name.split(',', maxsplit=1)[0]}: {len(octets):,} octets",
            )

    def _embedded(self, head: Head, at: int, after: int, depth: int, path: Place, name: str) -> str:
        """A byte string with CBOR inside, as a protected header is (RFC 9052 section 3)."""
        length = after - head.after
        self._add(at, head.after, depth, f"<< >>{head.width}", f"{name}a byte string of {length} octets")
        try:
            position, notation = self._item(head.after, after, depth + 1, path) if length else (after, "")
        except BrokenError as error:
            self._rest(str(error), after)
            return as_hex(self.octets[head.after : after]) + head.width
        if position < after:
            self._add(position, after, depth + 1, as_hex(self.octets[position:after]), "octets after the item's end")
            return as_hex(self.octets[head.after : after]) + head.width
        return f"<< {notation} >>{head.width}" if notation else f"h''{head.width}"

    def _ciphertext(self, start: int, end: int, depth: int) -> None:
        """Ciphertext and tag, told apart where the algorithm says how long the tag is."""
        known = None if self.alg is None else self._algorithms.get(self.alg)
        tag_octets = 0 if known is None else known.tag_octets
        if end - start < tag_octets:
            self._add(start, end, depth, as_hex(self.octets[start:end]), f"shorter than its tag of {tag_octets} octets")
            return
        if end - tag_octets > start:
            octets = self.octets[start : end - tag_octets]
            meaning = f"ciphertext: {len(octets):,} octets, as many as the plaintext"
            if not tag_octets:
                meaning = f"ciphertext and tag: {len(octets):,} octets"
            self._add(start, end - tag_octets, depth, as_hex(octets), meaning)
        if tag_octets:
            octets = self.octets[end - tag_octets : end]
            self._add(end - tag_octets, end, depth, as_hex(octets), f"authentication tag: {tag_octets} octets")

    def _chunks(self, head: Head, at: int, end: int, depth: int, path: Place) -> tuple[int, str]:
        """A string of indefinite length: chunks of definite length up to a break."""
        self._add(at, head.after, depth, "(_ )", self._meaning(path, "a string of indefinite length"))
        position, chunks = head.after, []
        while self.octets[position : position + 1] != b"\xff":
            if head_at(self.octets, position, end).major != head.major:
                raise BrokenError("a chunk of another type in a string of indefinite length")
            position, notation = self._item(position, end, depth + 1, (*path, "chunk"))
            chunks.append(notation)
        return self._break(position, end, depth), f"(_ {', '.join(chunks)})"

    def _array(self, head: Head, at: int, end: int, depth: int, path: Place) -> tuple[int, str]:
        count = "indefinite length" if head.argument is None else f"{head.argument:,} items"
        meaning = f"{_MESSAGES[self._message][1]}: " if path == () else ""
        if self._sign1.within(path) is not None:
            meaning = self._meaning(path, "")
        self._add(at, head.after, depth, "[ ]" if head.argument is not None else "[_ ]", f"{meaning}array of {count}")
        position, items = head.after, list[str]()
        while not self._ended(head, position, len(items)):
            position, notation = self._item(position, end, depth + 1, (*path, len(items)))
            items.append(notation)
        if head.argument is None:
            position = self._break(position, end, depth)
            return position, f"[_ {', '.join(items)}]"
        return position, f"[{head.width and head.width + ' '}{', '.join(items)}]"

    def _map(self, head: Head, at: int, end: int, depth: int, path: Place) -> tuple[int, str]:
        count = "indefinite length" if head.argument is None else f"{head.argument:,} pairs"
        names: dict[Place, str] = {(0,): "header: ", (1,): "unprotected header, under no tag: "}
        name = (names.get(path, "") if self._sign1.within(path) is None else self._meaning(path, "")) + "map of "
        self._add(at, head.after, depth, "{ }" if head.argument is not None else "{_ }", name + count)
        position, pairs = head.after, list[str]()
        while not self._ended(head, position, len(pairs)):
            position, key = self._item(position, end, depth + 1, (*path, "label"))
            label: int | str = int(key) if key.lstrip("-").isdigit() else key
            position, value = self._item(position, end, depth + 1, (*path, label))
            pairs.append(f"{key}: {value}")
        if head.argument is None:
            position = self._break(position, end, depth)
            return position, "{_ " + ", ".join(pairs) + "}"
        return position, "{" + (head.width and head.width + " ") + ", ".join(pairs) + "}"

    def _ended(self, head: Head, position: int, read: int) -> bool:
        if head.argument is None:
            return self.octets[position : position + 1] == b"\xff"
        return read >= head.argument

    def _break(self, position: int, end: int, depth: int) -> int:
        if position >= end:
            raise BrokenError("the break of an indefinite length is missing")
        self._add(position, position + 1, depth, "", "break: the indefinite length ends")
        return position + 1

    def _tag(self, head: Head, at: int, end: int, depth: int, path: Place) -> tuple[int, str]:
        meaning = "a tag that a frame does not have here"
        if head.argument in _MESSAGES and path == ():
            self._message = head.argument
            meaning = _MESSAGES[head.argument][0]
        elif self._sign1.within(path) is not None:
            meaning = self._meaning(path, self._sign1.tags.get(head.argument or 0, meaning))
        self._add(at, head.after, depth, f"{head.argument}{head.width}( )", f"tag {head.argument}: {meaning}")
        position, notation = self._item(head.after, end, depth + 1, path)
        return position, f"{head.argument}{head.width}({notation})"

    def _simple(self, head: Head, at: int, end: int, depth: int, path: Place) -> tuple[int, str]:
        if head.argument is None:
            raise BrokenError("a break (0xff) where no indefinite length is open")
        notation = simple(head, self.octets[at + 1 : head.after])
        self._add(at, head.after, depth, notation, self._meaning(path, "a value that a frame does not have"))
        return head.after, notation

    def _label(self, path: Place, value: int) -> str:
        """What a label of the map at a place says."""
        place = self._sign1.within(path)
        return _LABELS.get(value, "not one that a frame has") if place is None else self._sign1.label(place, value)

    def _meaning(self, path: Place, otherwise: str, value: int | None = None) -> str:
        """What stands at a place, for items that are not as they should be, and within a COSE_Sign1."""
        place = self._sign1.within(path)
        if place is not None:
            return self._sign1.meaning(place, otherwise, value)
        places: dict[Place, str] = {
            (0,): "protected header",
            (1,): "unprotected header",
            (2,): "ciphertext",
        }
        name = places.get(path)
        if name is None and len(path) == 2 and path[0] in (0, 1) and isinstance(path[1], int):
            name = _LABELS.get(path[1])
        return otherwise if name is None else f"{name}: {otherwise}"
