"""Sealing and opening: round trips, and nothing but MalformedError or TagInvalidError for damaged octets."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyvault.cose.algorithms import CCM
from keyvault.cose.kdf import uplink_key
from keyvault.cose.sealing import DirectionCipher, TagInvalidError
from keyvault.cose.structures import MAX_COUNTER, MalformedError, make_kid, parse_frame
from tests.builders import KNOWN_KEY, KNOWN_TITLE, raw_frame, seal_frame, senml_payload

TITLES = st.binary(min_size=8, max_size=8)
CIPHER = DirectionCipher(uplink_key(KNOWN_KEY, KNOWN_TITLE, 1, 10), 10)
PAYLOAD = senml_payload({"1-0:1.8.0": 1})


def refused(octets: bytes) -> str:
    """Which of the two errors refuses these octets; anything else fails the test."""
    try:
        frame = parse_frame(octets)
    except MalformedError:
        return "malformed"
    with pytest.raises(TagInvalidError):
        CIPHER.open_(frame)
    return "tag_invalid"


@given(
    TITLES,
    st.integers(0, 0xFFFF),
    st.binary(min_size=32, max_size=32),
    st.integers(0, MAX_COUNTER),
    st.binary(max_size=700),
    st.sampled_from(sorted(CCM)),
)
def test_round_trip(title: bytes, epoch: int, key: bytes, counter: int, payload: bytes, alg: int) -> None:
    frame = parse_frame(seal_frame(title, epoch, key, counter, payload, alg))
    assert (frame.kid, frame.alg, frame.counter) == (make_kid(title, epoch), alg, counter)
    assert len(frame.ciphertext) == len(payload) + CCM[alg].tag_octets
    assert DirectionCipher(uplink_key(key, title, epoch, alg), alg).open_(frame) == payload


@pytest.mark.parametrize("counter", [0, 1, 255, 256, 0x61A7, 2**32, MAX_COUNTER])
def test_every_truncation_is_malformed(counter: int) -> None:
    octets = seal_frame(KNOWN_TITLE, 1, KNOWN_KEY, counter, PAYLOAD)
    assert {refused(octets[:end]) for end in range(len(octets))} == {"malformed"}


@pytest.mark.parametrize("counter", [0, 1, 255, 256, 0x61A7, 2**32, MAX_COUNTER])
def test_every_flipped_bit_is_refused(counter: int) -> None:
    octets = seal_frame(KNOWN_TITLE, 1, KNOWN_KEY, counter, PAYLOAD)
    for bit in range(len(octets) * 8):
        flipped = bytearray(octets)
        flipped[bit // 8] ^= 1 << bit % 8
        refused(bytes(flipped))


@given(st.binary(max_size=200))
def test_arbitrary_octets(octets: bytes) -> None:
    assert refused(octets) == "malformed"


@given(st.binary(max_size=23))
def test_arbitrary_ciphertext(ciphertext: bytes) -> None:
    """Shorter than a tag or longer: no key vouches for it."""
    assert refused(raw_frame(ciphertext=bytes((0x40 + len(ciphertext),)) + ciphertext)) == "tag_invalid"


@given(st.binary(min_size=1, max_size=5), st.integers(0, 85))
def test_inserted_octets(inserted: bytes, position: int) -> None:
    octets = seal_frame(KNOWN_TITLE, 1, KNOWN_KEY, 5, PAYLOAD)
    changed = octets[:position] + inserted + octets[position:]
    assert refused(changed) == "malformed"


def test_every_header_is_under_the_tag() -> None:
    """A frame whose alg, kid or counter was changed in form-preserving ways opens under no key of the device."""
    octets = seal_frame(KNOWN_TITLE, 1, KNOWN_KEY, 0x61A7, PAYLOAD)
    for old, new in (
        (b"\x01\x0a\x04", b"\x01\x0b\x04"),
        (b"\x00\x01\x06", b"\x00\x02\x06"),
        (b"\x61\xa7", b"\x61\xa8"),
    ):
        assert old in octets
        assert refused(octets.replace(old, new, 1)) == "tag_invalid"


@pytest.mark.parametrize("counter", [-1, MAX_COUNTER + 1])
def test_counter_out_of_range_is_the_callers_mistake(counter: int) -> None:
    with pytest.raises((ValueError, OverflowError), match="invocation counter"):
        CIPHER.seal(make_kid(KNOWN_TITLE, 1), counter, b"")
