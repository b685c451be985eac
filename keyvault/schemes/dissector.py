"""A refused frame explained octet by octet, in CBOR diagnostic notation (RFC 8949 section 8). Pure.

For people who look at evidence, never for deciding: it reads whatever it is given as far as it goes,
malformed frames too, and says where it breaks. It looks at octets that no key vouches for, so that depth and
number of items are bounded, and nothing is built from what a length announces.
"""

from typing import NamedTuple

from keyvault.cose.algorithms import CCM
from keyvault.cose.structures import Frame, MalformedError, MismatchError
from keyvault.coupons.anatomy import COUPON_LIST, anatomy_of
from keyvault.coupons.forms import FormError, parse_list, parse_reading
from keyvault.enrolment.frames import parse_enrolment
from keyvault.schemes.cbor_walk import PARTS_MAX, Part, Walk
from keyvault.schemes.diagnostic_notation import as_hex
from keyvault.schemes.dlms import anatomy as dlms_anatomy
from keyvault.schemes.dlms.apdu import parse_dlms
from keyvault.schemes.dlms.envelope import DLMS_ENVELOPE
from keyvault.schemes.table import ENVELOPES

_SHOWN_OCTETS_MAX = 2_048


class Dissection(NamedTuple):
    """A frame's parts in the order of its octets. ``wrong`` says why it is no frame, ``wrong_at`` at which octet.

    Both are None for a well-formed frame. ``notation`` is the whole on one line, None where it is no CBOR item.
    """

    parts: list[Part]
    notation: str | None
    wrong: str | None
    wrong_at: int | None


def dissect(octets: bytes) -> Dissection:
    """Explain the octets of a frame, well-formed or not; never fails. Of very long ones the beginning is shown.

    Whether it is well-formed is said by the envelope that it begins like, as when it was verified; a frame that is
    no CBOR is shown in one part.
    """
    envelope = ENVELOPES.of(octets)
    if envelope is DLMS_ENVELOPE:
        return _dissect_dlms(octets)
    wrong: MalformedError | None = None
    try:
        frame = _parsed(octets)
    except MalformedError as error:
        wrong = error
    walk = Walk(octets[:_SHOWN_OCTETS_MAX], {**CCM, **envelope.algorithms})
    notation = walk.frame()
    if wrong is None and notation is None and len(octets) <= _SHOWN_OCTETS_MAX:
        named = f"key {frame.kid.hex()}, algorithm {frame.alg}, invocation counter {frame.counter:,}"
        return Dissection([Part(0, octets, 0, as_hex(octets), f"envelope {envelope.name}: {named}")], None, None, None)
    if len(octets) > _SHOWN_OCTETS_MAX:
        notation = None
    parts = walk.parts if wrong is None else _marked(walk.parts, wrong.octet, len(octets))
    return Dissection(parts, notation, None if wrong is None else str(wrong), None if wrong is None else wrong.octet)


def _dissect_dlms(octets: bytes) -> Dissection:
    """A DLMS frame layer by layer; where a layer is broken, the whole, and the octet."""
    try:
        found = dlms_anatomy.pieces(octets)
        parts = [Part(one.offset, one.octets, one.depth, as_hex(one.octets), one.meaning) for one in found]
        parse_dlms(octets)
    except MismatchError as error:
        return Dissection(parts, None, str(error), None)
    except MalformedError as error:
        whole = [Part(0, octets[:_SHOWN_OCTETS_MAX], 0, as_hex(octets[:_SHOWN_OCTETS_MAX]), "no DLMS frame")]
        return Dissection(_marked(whole, error.octet, len(octets)), None, str(error), error.octet)
    return Dissection(parts[:PARTS_MAX], None, None, None)


def notation_of(octets: bytes) -> str | None:
    """CBOR diagnostic notation of any item on one line, a payload say; None where the octets are no single item."""
    return Walk(octets, {}).frame() if len(octets) <= _SHOWN_OCTETS_MAX else None


def dissect_signed(payload: bytes) -> Dissection | None:
    """Explain what a signed meter sends, a signed reading or a coupon list, layer by layer; None for other payloads."""
    anatomy = anatomy_of(payload)
    if anatomy is None:
        return None
    wrong = None
    try:
        if anatomy is COUPON_LIST:
            parse_list(payload)
        else:
            parse_reading(payload)
    except FormError as error:
        wrong = str(error)
    walk = Walk(payload[:_SHOWN_OCTETS_MAX], {}, anatomy)
    notation = walk.frame()
    return Dissection(walk.parts, notation if len(payload) <= _SHOWN_OCTETS_MAX else None, wrong, None)


def _parsed(octets: bytes) -> Frame:
    """A frame of any envelope, with a certificate or without; MalformedError where it is none."""
    try:
        return ENVELOPES.of(octets).parse(octets)
    except MalformedError:
        enrolment = parse_enrolment(octets)
        if enrolment is None:
            raise
        return enrolment.frame


def _marked(parts: list[Part], octet: int | None, end: int) -> list[Part]:
    """The parts with the one marked in which the frame breaks: at its very end, a part of no octets."""
    if octet is None:
        return parts
    if octet >= end:
        return [*parts, Part(end, b"", 0, "", "the frame ends here, too early", is_wrong=True)]
    at_fault = max((n for n, part in enumerate(parts) if part.offset <= octet), default=None)
    return [part._replace(is_wrong=True) if n == at_fault else part for n, part in enumerate(parts)]
