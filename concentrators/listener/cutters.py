"""Cuts a stream of octets into notifications: links by their lengths and checksums, segments and blocks joined. Pure.

A notification is given with all links that carried it, as envelope ``dlms`` takes them. A cutter keeps at most
MAX_OCTETS of what has begun, for each pair of addresses. ``server`` limits connections and times.
"""

from typing import NamedTuple, Protocol

from keyvault.cose.structures import SYSTEM_TITLE_OCTETS, MalformedError
from keyvault.schemes.dlms.envelope import MAX_OCTETS
from keyvault.schemes.dlms.framing import (
    BLOCK,
    LLC,
    MBUS_STOP,
    blocks,
    hdlc_frames,
    mbus_frames,
    read_length,
    wrapper_end,
)

_PAIRS_MAX = 64  # of addresses whose notifications have begun, on one connection
_FLAG = 0x7E
_MBUS_SHORT, _MBUS_LONG = 0x10, 0x68


class Cutter(Protocol):
    """Cuts the stream of one connection."""

    def feed(self, octets: bytes) -> list[bytes]:
        """Return the notifications that are whole now. MalformedError: the stream cannot be followed any further."""
        ...

    def is_amid(self) -> bool:
        """Whether a notification has begun, and is not whole yet."""
        ...

    def drop(self) -> None:
        """Forget what has begun: the rest does not come."""
        ...


class _Link(NamedTuple):
    """A link with what it carries: who sends to whom, and whether a notification begins or ends with it."""

    pair: bytes
    octets: bytes
    is_first: bool
    is_last: bool


class _Joiner:
    """What both have in common: octets that are no whole link yet, and links that are no whole notification yet."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._begun: dict[bytes, bytes] = {}

    def feed(self, octets: bytes) -> list[bytes]:
        self._rest += octets
        whole = []
        while (link := self._next()) is not None:
            notification = self._join(link)
            if notification is not None:
                whole.append(notification)
        return whole

    def is_amid(self) -> bool:
        return bool(self._rest or self._begun)

    def drop(self) -> None:
        self._rest.clear()
        self._begun.clear()

    def _next(self) -> _Link | None:
        """Take the next link off the octets; None where it has not come whole."""
        raise NotImplementedError

    def _take(self, end: int) -> bytes:
        octets = bytes(self._rest[:end])
        del self._rest[:end]
        return octets

    def _join(self, link: _Link) -> bytes | None:
        before = b"" if link.is_first else self._begun.pop(link.pair, b"")
        self._begun.pop(link.pair, None)
        octets = before + link.octets
        if link.is_last:
            return octets
        if len(octets) <= MAX_OCTETS and len(self._begun) < _PAIRS_MAX:
            self._begun[link.pair] = octets
        return None


class WrapperCutter(_Joiner):
    """The TCP wrapper (IEC 62056-4-7): a length tells where each link ends, so that nothing else may stand between."""

    def _next(self) -> _Link | None:
        end = wrapper_end(bytes(self._rest[:8]))
        if end is not None and end > MAX_OCTETS:
            raise MalformedError(f"a wrapper frame of {end} octets: at most {MAX_OCTETS} are taken")
        if end is None or len(self._rest) < end:
            return None
        octets = self._take(end)
        return _Link(octets[2:6], octets, *_ends(octets[8:]))


class HdlcCutter(_Joiner):
    """HDLC frames; octets between them, and frames whose checksum does not fit, are passed over."""

    def __init__(self) -> None:
        super().__init__()
        self._segmented: set[bytes] = set()  # pairs whose next frame goes on with the segment before

    def is_amid(self) -> bool:
        return bool(self._rest.strip(bytes((_FLAG,))) or self._begun)  # a flag alone has begun nothing

    def drop(self) -> None:
        super().drop()
        self._segmented.clear()

    def _next(self) -> _Link | None:
        rest = self._rest
        while len(rest) >= 3:
            if rest[0] != _FLAG or rest[1] == _FLAG or rest[1] >> 4 != 0xA:
                del rest[0]
                continue
            end = 1 + (int.from_bytes(rest[1:3], "big") & 0x07FF)
            if len(rest) < end:
                return None
            octets = b"\x7e" + rest[1:end] + b"\x7e"
            try:
                (frame,) = hdlc_frames(octets)
            except (MalformedError, ValueError):
                del rest[0]
                continue
            del rest[:end]  # its closing flag may begin the next frame
            pair = frame.destination + b"/" + frame.source
            goes_on = pair in self._segmented
            (self._segmented.add if frame.is_segmented else self._segmented.discard)(pair)
            is_first, is_last = (False, True) if goes_on else _ends(frame.information.removeprefix(LLC))
            return _Link(pair, octets, is_first, is_last and not frame.is_segmented)
        return None


class MBusCutter(_Joiner):
    """M-Bus long frames; short ones, and octets that are no frame, are passed over."""

    def _next(self) -> _Link | None:
        rest = self._rest
        while rest:
            if rest[0] == _MBUS_SHORT:
                if len(rest) < 5:
                    return None
                del rest[: 5 if _ends_mbus(rest, 5) else 1]
            elif rest[0] != _MBUS_LONG:
                del rest[0]
            elif len(rest) < 4:
                return None
            elif rest[1] != rest[2] or rest[3] != _MBUS_LONG:
                del rest[0]
            else:
                ends = [rest[1] + 6, rest[1] + 256 + 6]  # one meter counts modulo 256
                end = next((end for end in ends if len(rest) >= end and _ends_mbus(rest, end)), None)
                if end is not None:
                    octets = self._take(end)
                    (frame,) = mbus_frames(octets)
                    ci = frame.control_information
                    pair = bytes((frame.source, frame.destination))
                    return _Link(pair, octets, ci & 0x0F == 0, bool(ci & 0x10))
                if len(rest) < ends[1]:
                    return None
                del rest[0]
        return None


_LINKS: dict[bytes, type[WrapperCutter | HdlcCutter | MBusCutter]] = {
    b"\x00": WrapperCutter,
    bytes((_FLAG,)): HdlcCutter,
    bytes((_MBUS_LONG,)): MBusCutter,
}
CUTTERS: dict[str, type[WrapperCutter | HdlcCutter | MBusCutter]] = {
    "wrapper": WrapperCutter,
    "hdlc": HdlcCutter,
    "mbus": MBusCutter,
}


def split(octets: bytes) -> list[bytes]:
    """Return the notifications in some octets, one after another: in links of one kind, or bare ciphered APDUs.

    Octets that are not whole notifications throughout are returned as one.
    """
    if octets[:1] == b"\xdb":
        found = _bare(octets)
    elif octets[:1] in _LINKS:
        cutter = _LINKS[octets[:1]]()
        try:
            found = cutter.feed(octets)
        except MalformedError:
            return [octets]
    else:
        return [octets]
    # A flag between two HDLC frames may belong to both of them.
    flag = bytes((_FLAG,))
    is_whole = b"".join(found).replace(flag, b"") == octets.replace(flag, b"")
    return found if is_whole else [octets]


def _bare(octets: bytes) -> list[bytes]:
    """Return ciphered APDUs by the lengths that they say, as far as they go."""
    found = []
    at = 0
    while octets[at : at + 2] == b"\xdb\x08":
        try:
            start, length = read_length(octets, at + 2 + SYSTEM_TITLE_OCTETS)
        except MalformedError:
            break
        found.append(octets[at : start + length])
        at = start + length
    return found


def _ends(apdu: bytes) -> tuple[bool, bool]:
    """Whether a notification begins, and whether it ends, with what a link carries: blocks of it, or all of it."""
    if apdu[:1] != bytes((BLOCK,)):
        return True, True
    try:
        found = blocks(apdu)
    except MalformedError:
        return True, True  # the verdict says so
    return found[0].number == 1, found[-1].is_last


def _ends_mbus(octets: bytearray, end: int) -> bool:
    """Whether octets begin with an M-Bus frame that ends there; what does not end with the stop octet costs nothing."""
    if octets[end - 1] != MBUS_STOP:
        return False
    try:
        mbus_frames(bytes(octets[:end]))
    except MalformedError:
        return False
    return True
