"""Forms of frames: COSE messages in deterministic encoding, compared octet by octet with what a form says. Pure.

A form has one valid encoding (RFC 8949 section 4.2.1). Its table of heads has all octets that a frame may have before
the kid: parsing is one look-up and a few comparisons. Only for malformed octets the fault is searched step by step.
"""

import re
from typing import NamedTuple

KID_OCTETS = 10


class Head(NamedTuple):
    """The offsets of the parts of a frame, for the octets before its kid.

    ``end`` is the end of the protected header, ``counter_head`` the octets between kid and counter.
    """

    alg: int
    protected_at: int
    kid_at: int
    kid_end: int
    counter_at: int
    counter_end: int
    end: int
    counter_head: bytes


# The octets between protected header and ciphertext: {}, and the head of the ciphertext; by the number of octets from
# there to the end of the frame, for a ciphertext of up to 255 octets.
_TAILS = {2 + octets: bytes((0xA0, 0x40 + octets)) for octets in range(24)} | {
    3 + octets: bytes((0xA0, 0x58, octets)) for octets in range(24, 256)
}
short_tail = _TAILS.get  # bound once: the method of an imported name costs each frame 60 ns


def long_tail(rest: int) -> bytes:
    """Like short_tail for a ciphertext of 256 to 65,535 octets; empty if no such frame has ``rest`` octets there."""
    return b"\xa0\x59" + (rest - 4).to_bytes(2, "big") if 256 <= rest - 4 <= 0xFFFF else b""


def bstr_head(length: int) -> bytes:
    """Return the shortest head of a CBOR byte string (RFC 8949 section 3.1, major type 2), up to 65,535 octets."""
    if length < 24:
        return bytes((0x40 + length,))
    if length < 256:
        return bytes((0x58, length))
    if length < 65_536:
        return b"\x59" + length.to_bytes(2, "big")
    raise ValueError(f"a frame has at most 65,535 octets, not {length}")


# Algorithms of one octet or two: 0..255 and -1..-256.
SHORT_ALGS: dict[bytes, int] = {
    **{bytes((major + n,)): -1 - n if major else n for major in (0x00, 0x20) for n in range(24)},
    **{bytes((major + 24, n)): -1 - n if major else n for major in (0x00, 0x20) for n in range(24, 256)},
}


def heads(start: bytes, algs: dict[bytes, int], more: int = 0) -> dict[bytes, Head]:
    """Return the heads for a protected header {1: alg, 4: kid, 6: counter} and ``more`` octets of a fourth label.

    ``start`` are the octets before the protected header. The counter has 1 to 5 octets.
    """
    found = {}
    for alg, number in algs.items():
        for octets in range(1, 6):
            length = 16 + len(alg) + octets + more
            before = start + bstr_head(length)
            kid_at = len(before) + 4 + len(alg)
            counter_at = kid_at + KID_OCTETS + 2
            octets_before = before + (b"\xa4" if more else b"\xa3") + b"\x01" + alg + b"\x04\x4a"
            found[octets_before] = Head(
                number,
                len(before),
                kid_at,
                kid_at + KID_OCTETS,
                counter_at,
                counter_at + octets,
                len(before) + length,
                bytes((0x06, 0x40 + octets)),
            )
    return found


class Label(NamedTuple):
    """A label of the protected header: its octet, its name, the form of its value, and that form in words."""

    octet: bytes
    name: str
    value: re.Pattern[bytes]
    words: str


def label(octet: int, name: str, value: bytes, words: str) -> Label:
    return Label(bytes((octet,)), name, re.compile(value, re.DOTALL), words)


ALG = label(
    1, "alg", rb"[\x00-\x17\x20-\x37]|[\x18\x38][\x18-\xff]", "an integer of one or two octets in shortest form"
)
KID = label(4, "kid", rb"\x4a.{10}", "a byte string of 10 octets (0x4a)")
_COUNTER = rb"\x41.|\x42[^\x00].|\x43[^\x00].{2}|\x44[^\x00].{3}|\x45[^\x00].{4}"
COUNTER_WORDS = "a byte string of 1 to 5 octets without a leading zero octet"
PARTIAL_IV = label(6, "Partial IV", _COUNTER, COUNTER_WORDS)
COUNTER = label(6, "counter", _COUNTER, COUNTER_WORDS)


class Form(NamedTuple):
    """The form of the frames of an envelope, to explain what is wrong with malformed ones.

    ``strings`` are the names of the byte strings after the unprotected header; ``unprotected`` is the
    form of that header, ``unprotected_words`` the same in words.
    """

    message: str
    tag: int
    lengths: tuple[int, int]
    labels: tuple[Label, ...]
    strings: tuple[str, ...]
    unprotected: re.Pattern[bytes] = re.compile(rb"\xa0")
    unprotected_words: str = "the empty map (0xa0): every header stands in the protected one"

    @property
    def items(self) -> int:
        """Return the number of items in the array."""
        return 2 + len(self.strings)


_COUNTS = {2: "two", 3: "three", 4: "four"}
_BSTR_HEAD = re.compile(rb"[\x40-\x57]|\x58[\x18-\xff]|\x59[^\x00].", re.DOTALL)  # shortest form


def why_malformed(octets: bytes, form: Form) -> tuple[str, int]:
    """Return the first fault of a frame of a form, in one sentence for the operator, and its octet.

    ValueError (the caller's mistake) if there is none.
    """
    wrong = fault(octets, form)
    if wrong is None:
        raise ValueError(f"nothing is wrong with a {form.message} of {len(octets)} octets")
    return wrong


def fault(octets: bytes, form: Form) -> tuple[str, int] | None:
    """Like why_malformed; None if nothing is wrong."""
    if not octets:
        return "the frame is empty", 0
    if octets[0] != 0xC0 + form.tag:
        return f"it begins with 0x{octets[0]:02x}, not with CBOR tag {form.tag} (0x{0xC0 + form.tag:02x})", 0
    if octets[1:2] != bytes((0x80 + form.items,)):
        array = f"array of {_COUNTS[form.items]}, of definite length and shortest form (0x{0x80 + form.items:02x})"
        return f"tag {form.tag} is not followed by an {array}", 1
    least, most = form.lengths
    head = _BSTR_HEAD.match(octets, 2)
    if head is None:
        why = f"a byte string of definite length and shortest form, {least} to {most} octets"
        return f"the protected header is not {why}", 2
    at = head.end()
    unprotected = at + _announced(head.group())
    if len(octets) < unprotected:
        return "the frame ends inside the protected header", len(octets)
    wrong = _why_protected(octets[at:unprotected], form.labels)
    if wrong is not None:
        return wrong[0], at + wrong[1]
    fits = form.unprotected.match(octets, unprotected)
    if fits is None:
        return f"the unprotected header is not {form.unprotected_words}", unprotected
    return _why_strings(octets, fits.end(), form.strings)


def _why_protected(protected: bytes, labels: tuple[Label, ...]) -> tuple[str, int] | None:
    """Return what is wrong with a protected header, and at which of its octets; or None."""
    count = _COUNTS[len(labels)]
    if protected[:1] != bytes((0xA0 + len(labels),)):
        named = ", ".join(f"{one.octet[0]}: {one.name}" for one in labels)
        return f"the protected header is not a map of exactly {count}, {named} (0x{0xA0 + len(labels):02x})", 0
    order = ", ".join(str(one.octet[0]) for one in labels)
    position = 1
    for one in labels:
        if protected[position : position + 1] != one.octet:
            where = f"at octet {position} of the protected header: {order}, in order"
            return f"label {one.octet[0]} ({one.name}) is missing {where}", position
        match = one.value.match(protected, position + 1)
        if match is None:
            return f"the {one.name} is not {one.words}", position + 1
        position = match.end()
    if position != len(protected):
        return f"octets follow the {count} labels in the protected header", position
    return None


def read_bstr(octets: bytes, at: int) -> tuple[int, int] | None:
    """Return begin and end of the octets of a byte string whose shortest head is at ``at``; None if there is none.

    The end may be beyond that of ``octets``.
    """
    head = _BSTR_HEAD.match(octets, at)
    return None if head is None else (head.end(), head.end() + _announced(head.group()))


def _why_strings(octets: bytes, position: int, names: tuple[str, ...]) -> tuple[str, int] | None:
    """Return what is wrong with the byte strings at the end of a frame."""
    for name in names:
        string = read_bstr(octets, position)
        if string is None:
            why = f"the {name} is not a byte string of definite length and shortest form, up to 65,535 octets"
            return why, position
        start, position = string
        if len(octets) < position:
            return f"the {name} announces {position - start} octets, but {len(octets) - start} follow", len(octets)
    if len(octets) > position:
        return f"octets follow the {names[-1]}: {len(octets) - position} of them", position
    return None


def _announced(head: bytes) -> int:
    """Return how many octets the head of a byte string announces."""
    return int.from_bytes(head[1:], "big") if len(head) > 1 else head[0] - 0x40
