"""What is compared: every scheme of meters, and two that no meter can be given. No Django.

``Ed25519`` signs as any library does, with R prepared while idle: where a one-time signature is not asked for, it does
the same with less. ``shared`` has one master key in all meters: it is simulated here alone, and no key of it can be
provisioned.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from concentrators.comparison import products
from concentrators.comparison.meters import DLMS_READING, READING, CountedMeter
from concentrators.comparison.primitives import Work
from concentrators.comparison.products import Content, Sides
from concentrators.simulator.meter import RESERVE_AHEAD
from keyvault.coupons.forms import LIST_MAX_COUPONS
from keyvault.schemes.table import SCHEMES

SHARED, ED25519, HOP_TAG = "shared", "ccm + Ed25519", "ccm + hop tag"


class Counted(NamedTuple):
    """What a frame costs its meter: its octets, and the work for a key or boot, ahead, and when it is sent.

    The work ``ahead`` is for ``ahead_frames`` frames.
    """

    octets: bytes
    once: Work
    ahead: Work
    frame: Work
    ahead_frames: int


class Subject(NamedTuple):
    """A scheme that is compared, of an envelope and a content by their names; ``reading`` is what its meter has to say.

    ``writes`` says in how many frames there is a write to non-volatile memory, for each record that needs one; beside
    one a boot. A write is of both copies of a record.
    """

    name: str
    envelope: str
    content: str
    reading: bytes
    counted: Callable[[], Counted]
    sides: Callable[[], Sides]
    reader: Callable[[], Content]
    writes: tuple[int, ...]


_ENVELOPES: dict[str, tuple[Callable[[CountedMeter, bytes], bytes], Callable[[], Sides]]] = {
    "ccm": (CountedMeter.ccm, products.ccm),
    "session": (CountedMeter.session, products.session),
    "mac": (CountedMeter.mac, products.mac),
    "hop": (CountedMeter.hop, products.hop),
    "hop tag": (CountedMeter.tagged, products.tagged),
    "sealed": (CountedMeter.sealed, products.sealed),
}
_CONTENTS: dict[str, tuple[Callable[[CountedMeter], bytes], Callable[[], Content]]] = {
    "plain": (lambda _: READING, products.plain),
    "signed": (CountedMeter.signed_reading, products.signed),
    "Ed25519": (CountedMeter.ed25519_reading, products.ed25519),
    "masked": (CountedMeter.masked_reading, products.hidden),
}
_CONTROLS = {"dlms": 0x30, "dlms in clear": 0x10, "dlms without tag": 0x20}


def _count(envelope: str, content: str) -> Counted:
    meter = CountedMeter()
    seal = _ENVELOPES[envelope][0]
    octets = seal(meter, _CONTENTS[content][0](meter))
    p = meter.p
    if meter.announced:
        listing = CountedMeter()
        seal(listing, meter.announced)
        p.ahead += listing.p.frame
    return Counted(octets, p.once, p.ahead, p.frame, LIST_MAX_COUPONS if content == "signed" else 1)


def _count_dlms(control: int) -> Counted:
    meter = CountedMeter()
    octets = meter.dlms(control)
    return Counted(octets, meter.p.once, meter.p.ahead, meter.p.frame, 1)


def _writes(envelope: str, content: str) -> tuple[int, ...]:
    """Counters are reserved ahead, those of sessions begin anew; numbers of coupons are reserved a list at a time."""
    counters = () if envelope == "session" else (RESERVE_AHEAD,)
    return counters + ((LIST_MAX_COUPONS,) if content == "signed" else ())


def _subject(name: str, envelope: str, content: str) -> Subject:
    counted = partial(_count, envelope, content)
    writes = _writes(envelope, content)
    return Subject(name, envelope, content, READING, counted, _ENVELOPES[envelope][1], _CONTENTS[content][1], writes)


def _dlms(name: str) -> Subject:
    control = _CONTROLS[name]
    counted, sides = partial(_count_dlms, control), partial(products.dlms, control)
    return Subject(name, name, "push", DLMS_READING, counted, sides, lambda: products.DLMS, _writes(name, "push"))


def subjects() -> list[Subject]:
    """All that is compared: the schemes in the order of their table, and what stands beside them."""
    found = []
    for scheme in SCHEMES:
        if scheme.number is None:
            continue  # of concentrators
        if scheme.name in _CONTROLS:
            found.append(_dlms(scheme.name))
        elif scheme.name == "hop":  # what its meter says of itself is events; its readings its concentrator opens
            found.append(_subject(scheme.name, "hop", "plain"))
        else:
            found.append(_subject(scheme.name, scheme.envelope, scheme.content))
    return [
        *found,
        _subject(HOP_TAG, "hop tag", "plain"),
        _subject(ED25519, "ccm", "Ed25519"),
        _subject(SHARED, "ccm", "plain"),
    ]
