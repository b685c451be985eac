"""What any octets may cost, layer by layer: links, blocks, ciphering, A-XDR, profiles, clocks, telegrams, streams.

Each layer gets the octets that are worst for it, as many as a frame may have, and random ones. Memory is counted
exactly; time is bounded by a count of what is done, not by a clock.
"""

import tracemalloc
from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from concentrators.listener.cutters import CUTTERS
from keyvault.cose.sealing import TagInvalidError
from keyvault.cose.structures import MalformedError
from keyvault.schemes.dlms import anatomy
from keyvault.schemes.dlms.apdu import parse_dlms
from keyvault.schemes.dlms.axdr import DEEPEST, MOST_ITEMS, decode
from keyvault.schemes.dlms.envelope import MAX_OCTETS
from keyvault.schemes.dlms.framing import unwrap
from keyvault.schemes.dlms.gcm import GcmCipher
from meters.readings.push import p1
from meters.readings.push.blanking import blanked
from meters.readings.push.clocks import ClockError, ClockRules, unix_second
from meters.readings.push.definition import ProfileError, parse_definition
from meters.readings.push.profiles import ContentError, elements_in, kinds_of, parse_notification, read
from tests.meters.push.profiles import BY_NAME
from tests.meters.push.test_shapes import TITLE

PEAK_OCTETS = 4 * 2**20  # a thousand times what a frame may have
HEAD = b"\x0f" + bytes(4) + b"\x00"
DEFINITIONS = [parse_definition(one) for one in BY_NAME.values()]
CIPHERS = [GcmCipher(bytes(64 if control == 0x32 else 32), control) for control in (0x10, 0x20, 0x30, 0x32)]
ZONES = [ClockRules(zone=zone, is_reversed=is_reversed, refuses_invalid=False)
         for zone in ("", "Europe/Vienna", "fixed+60") for is_reversed in (False, True)]  # fmt: skip


def links(some: bytes) -> None:
    unwrap(some)


def ciphering(some: bytes) -> None:
    frame = parse_dlms(some)
    assert len(frame.ciphertext) <= len(some)
    anatomy.pieces(some)
    for cipher in CIPHERS:
        with suppress(TagInvalidError):
            cipher.open_(frame)


def data(some: bytes) -> None:
    decode(some)


def notifications(some: bytes) -> None:
    notification = parse_notification(HEAD + some if some[:1] != b"/" else some)
    assert len(notification.skeleton) <= 40 * MOST_ITEMS
    elements_in(notification)
    kinds_of(notification)
    with suppress(ContentError):
        blanked(HEAD + some if some[:1] != b"/" else some, notification, TITLE)
    for definition in DEFINITIONS:
        with suppress(ContentError):
            assert len(read(notification, definition, TITLE)) <= MOST_ITEMS


def clocks(some: bytes) -> None:
    for rules in ZONES:
        with suppress(ClockError):
            assert abs(unix_second(some[:12], rules)) < 2**38


def telegrams(some: bytes) -> None:
    assert len(p1.skeleton_of(some)) <= len(some) + 16
    for line in p1.lines_of(some):
        p1.number_of(line.said)
        p1.date_time_of(line.said)


def streams(some: bytes) -> None:
    for cutter in (kind() for kind in CUTTERS.values()):
        with suppress(MalformedError):
            for at in range(0, len(some), 512):
                cutter.feed(some[at : at + 512])
        assert len(cutter._rest) <= 2 * MAX_OCTETS
        assert sum(map(len, cutter._begun.values())) <= MAX_OCTETS * 64


LAYERS: dict[str, Callable[[bytes], None]] = {
    "links": links, "ciphering": ciphering, "data": data, "notifications": notifications, "clocks": clocks,
    "telegrams": telegrams, "streams": streams,
}  # fmt: skip


def filled(beginning: bytes, unit: bytes) -> bytes:
    return (beginning + unit * (MAX_OCTETS // len(unit)))[:MAX_OCTETS]


WORST = {
    "flags": filled(b"", b"\x7e"),
    "hdlc frames that all seem long": filled(b"", b"\x7e\xa7\xff"),
    "m-bus frames that all seem long": filled(b"", b"\x68"),
    "short m-bus frames": filled(b"", b"\x10\x40\x01\x41\x16"),
    "blocks of nothing": filled(b"", b"\xe0\x00\x00\x01\x00\x00\x00"),
    "wrappers of nothing": filled(b"", b"\x00\x01\x00\x01\x00\x01\x00\x00"),
    "a length of four octets": b"\xdb\x08" + bytes(8) + b"\x84\xff\xff\xff\xff" + bytes(40),
    "a title of many octets": filled(b"\xdb\x82\x0f\xf0", b"\x00"),
    "no lengths in five fields": filled(b"\xdd", b"\x81"),
    "as deep as it goes": filled(b"", b"\x02\x01"),
    "nulls": b"\x01\x82\x0f\xf0" + bytes(MAX_OCTETS - 16),
    "arrays of arrays": filled(b"\x01\x82\x03\xe8", b"\x01\x01\x00"),
    "an array of four milliards": b"\x01\x84\xff\xff\xff\xff" + bytes(4000),
    "a compact type that multiplies": b"\x13" + b"\x01\xff\xff" * DEEPEST + b"\x00\x7f" + bytes(127),
    "a compact type of many parts": b"\x13" + b"\x02\x82\x0f\xff" * DEEPEST + b"\x00" * 4000,
    "a compact array of nothing": b"\x13\x02\x01\x00\x82\x0f\x00" + bytes(3840),
    "octets": filled(b"\x01\x82\x07\xd0", b"\x09\x00"),
    "rows of many shapes": filled(b"\x01\x82\x02\x00", b"\x02\x03\x00\x11\x07\x0f\x01"),
    "deltas": filled(b"\x01\x82\x07\xd0", b"\x1f\x01"),
    "a list that names itself": filled(b"\x02\x02\x01\x02\x02\x04\x12\x00\x28\x09\x06", b"\x00"),
    "a telegram of parentheses": filled(b"/ABCDEF\r\n1-0:1.8.0", b"()"),
    "a telegram of lines": filled(b"/ABCDEF\r\n", b"1-0:1.8.0(000000000.0*kWh)\r\n"),
    "a telegram that does not end": filled(b"/ABCDEF\r\n1-0:1.8.0(", b"1"),
    "a telegram of digits": filled(b"/", b"1-"),
}


def bounded(layer: str, some: bytes) -> int:
    """Run a layer over octets: an error that is its own, or none. Return the octets of memory that it took at most."""
    tracemalloc.start()
    try:
        with suppress(MalformedError, ContentError, ProfileError):
            LAYERS[layer](some)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", WORST)
def test_the_worst_octets_cost_no_layer_more_than_its_share(name: str) -> None:
    for layer in LAYERS:
        assert bounded(layer, WORST[name]) < PEAK_OCTETS, layer


ANY = st.one_of(
    st.binary(max_size=400),
    st.builds(
        lambda worst, start, length, more: worst[start : start + length] + more,
        st.sampled_from([*WORST.values()]), st.integers(0, 40), st.integers(1, 300), st.binary(max_size=40),
    ),
)  # fmt: skip


@pytest.mark.parametrize("layer", LAYERS)
@given(some=ANY)
@settings(max_examples=25, deadline=None)
def test_any_octets_end_in_an_error_of_the_layer_or_none(layer: str, some: bytes) -> None:
    with suppress(MalformedError, ContentError, ProfileError):
        LAYERS[layer](some)


@pytest.mark.soak
@pytest.mark.timeout(1_800)
@pytest.mark.parametrize("layer", LAYERS)
@given(some=ANY)
@settings(max_examples=8_000, deadline=None)
def test_any_octets_at_length(layer: str, some: bytes) -> None:
    with suppress(MalformedError, ContentError, ProfileError):
        LAYERS[layer](some)
    assert bounded(layer, some) < PEAK_OCTETS
