"""Frames explained octet by octet: nothing is left out, nothing fails, and the break is where parsing found it."""

import cbor2
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from keyvault.schemes.cbor_walk import Part
from keyvault.schemes.dissector import dissect
from keyvault.schemes.dlms.envelope import DLMS_ENVELOPE
from keyvault.schemes.hop_tag import HopTagKey
from keyvault.schemes.table import ENVELOPES
from tests.builders import KNOWN_COUNTER, KNOWN_KEY, KNOWN_TIME_S, KNOWN_TITLE, raw_frame, raw_protected, seal_frame
from tests.factories import MeterFactory
from tests.keyvault.cose.test_structures import MALFORMED
from tests.keyvault.enrolment.test_certificates import (
    AUDIENCE,
    AUTHORITY_KID,
    CERTIFICATE,
    CTI,
    ENROLMENT,
    EXPIRES_S,
    ISSUER,
)
from tests.keyvault.schemes.forms import PAYLOAD, SAMPLES
from tests.keyvault.schemes.test_agreed import METER_PUBLIC
from tests.toy_schemes import BY_TITLE, ToyDevice, toys

FRAME = seal_frame(KNOWN_TITLE, 1, KNOWN_KEY, KNOWN_COUNTER, b"\x80")


def part(parts: list[Part], beginning: str) -> Part:
    return next(part for part in parts if part.meaning.startswith(beginning))


def test_every_field_of_a_frame_is_named() -> None:
    explained = dissect(FRAME)
    assert explained.notation == (
        f"16([<< {{1: 10, 4: h'0024befffe804ff10001', 6: h'61a7'}} >>, {{}}, h'{FRAME[25 - 1 :].hex()}'])"
    )
    assert (explained.wrong, explained.wrong_at) == (None, None)
    assert not any(part.is_wrong for part in explained.parts)
    assert part(explained.parts, "algorithm").meaning == "algorithm AES-CCM-16-64-128"
    assert part(explained.parts, "system title")[:2] == (8, KNOWN_TITLE)
    assert part(explained.parts, "key epoch").meaning == "key epoch 1"
    assert part(explained.parts, "Partial IV").meaning == "Partial IV: invocation counter 24,999"
    assert part(explained.parts, "ciphertext: ").octets == FRAME[-9:-8]
    assert part(explained.parts, "authentication tag")[:2] == (len(FRAME) - 8, FRAME[-8:])


def test_an_enrolment_frame_is_named_with_its_certificate() -> None:
    explained = dissect(ENROLMENT)
    assert (explained.wrong, explained.wrong_at) == (None, None)
    assert f"{{13: {notation_of_certificate()}}}" in (explained.notation or "")
    for beginning, octets in (
        ("label: certificate (kcwt", b"\x0d"),
        ("iss", b"\x78\x1aami-headend test authority"),
        ("sub", b"\x700024befffe804ff1"),
        ("aud", b"\x65hes-1"),
        ("exp: when it ends: 2027-01-01 00:00:00 UTC", bytes.fromhex("1a6b36ec80")),
        ("iat: when it was issued: 2026-01-01 00:00:00 UTC", bytes.fromhex("1a6955b900")),
        ("cti", b"\x48" + CTI),
        ("x: the meter's X25519 public key", b"\x58\x20" + METER_PUBLIC),
        ("signature of the authority", b"\x58\x40" + CERTIFICATE[-64:]),
        ("authentication tag", ENROLMENT[-8:]),
    ):
        assert part(explained.parts, beginning).octets == octets
    assert b"".join(part.octets for part in explained.parts) == ENROLMENT


def notation_of_certificate() -> str:
    kid, signature = AUTHORITY_KID.hex(), CERTIFICATE[-64:].hex()
    claims = (
        f'1: "{ISSUER}", 2: "{KNOWN_TITLE.hex()}", 3: "{AUDIENCE}", 4: {EXPIRES_S}, 6: {KNOWN_TIME_S}, '
        f"7: h'{CTI.hex()}', 8: {{1: {{1: 1, -1: 4, -2: h'{METER_PUBLIC.hex()}'}}}}"
    )
    return f"18([<< {{1: -19}} >>, {{4: h'{kid}'}}, << {{{claims}}} >>, h'{signature}'])"


@given(st.integers(0, len(ENROLMENT) - 1), st.integers(1, 255))
def test_a_changed_enrolment_frame_is_shown_whole(place: int, change: int) -> None:
    octets = bytearray(ENROLMENT)
    octets[place] ^= change
    explained = dissect(bytes(octets))
    assert b"".join(part.octets for part in explained.parts) == octets


@pytest.mark.parametrize("end", range(1, len(ENROLMENT), 7))
def test_an_enrolment_frame_that_ends_too_early_breaks(end: int) -> None:
    assert dissect(ENROLMENT[:end]).wrong


@pytest.mark.parametrize("octets", [octets for octets, _ in MALFORMED.values()], ids=list(MALFORMED))
def test_a_malformed_frame_is_shown_whole_with_the_place_where_it_breaks(octets: bytes) -> None:
    explained = dissect(octets)
    assert b"".join(part.octets for part in explained.parts) == octets
    assert explained.wrong
    [wrong] = [part for part in explained.parts if part.is_wrong]
    assert explained.wrong_at is not None
    assert wrong.offset <= explained.wrong_at <= wrong.offset + len(wrong.octets)


@pytest.mark.parametrize(
    ("octets", "wrong_at"),
    [
        (b"", 0),
        (FRAME[:10], 10),  # inside the protected header
        (FRAME[:-1], len(FRAME) - 1),
        (FRAME + b"\x00\x00", len(FRAME)),
        (raw_frame(raw_protected(alg=b"\x1a\x00\x00\x00\x0a")[:23]), 5),
        (raw_frame(unprotected=b"\xa1\x01\x0a"), 22),
    ],
)
def test_the_octet_at_fault(octets: bytes, wrong_at: int) -> None:
    assert dissect(octets).wrong_at == wrong_at


@given(st.binary(max_size=200) | st.binary(max_size=60).map(lambda more: FRAME[:20] + more))
def test_no_octets_are_too_odd(octets: bytes) -> None:
    parts = dissect(octets).parts
    assert b"".join(part.octets for part in parts) == octets
    assert [part.offset for part in parts] == sorted(part.offset for part in parts)


@given(
    st.recursive(
        st.integers(-(2**63), 2**64 - 1) | st.binary(max_size=9) | st.booleans() | st.none() | st.floats() | st.text(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.integers(), inner, max_size=3),
        max_leaves=12,
    )
)
def test_other_cbor_is_read_as_cbor(value: object) -> None:
    octets = cbor2.dumps(value)
    assume(ENVELOPES.of(octets) is not DLMS_ENVELOPE)  # a text of some lengths begins as a frame of a DLMS meter does
    explained = dissect(octets)
    assert b"".join(part.octets for part in explained.parts) == octets
    assert explained.notation is not None
    assert explained.wrong


@pytest.mark.parametrize("octets", [b"\x81" * 900, b"\x9f" + b"\x00" * 900, b"\xd0" * 900, b"\x5f" + b"\x40" * 900])
def test_deep_and_long_structures_are_bounded(octets: bytes) -> None:
    explained = dissect(octets)
    assert len(explained.parts) < 210
    assert b"".join(part.octets for part in explained.parts) == octets


def test_of_very_long_octets_the_beginning_is_shown() -> None:
    explained = dissect(FRAME + bytes(100_000))
    assert sum(len(part.octets) for part in explained.parts) == 2_048
    assert explained.wrong_at == len(FRAME)


def test_forms_that_are_not_the_shortest_are_told() -> None:
    explained = dissect(raw_frame(b"\xb8\x03" + raw_protected()[1:]))
    assert explained.notation is not None
    assert "{_0 1: 10" in explained.notation


def test_a_frame_of_another_envelope_is_told_by_its_own_parser() -> None:
    with toys():
        frame = ToyDevice(MeterFactory.build(), bytes(32), envelope=BY_TITLE).seal(b"payload", 7)
        whole = dissect(frame)
        assert [part.octets for part in whole.parts] == [frame]
        assert "envelope toy title" in whole.parts[0].meaning
        assert "invocation counter 7" in whole.parts[0].meaning
        assert whole.wrong is None
        cut = dissect(frame[:20])
        assert (cut.wrong, cut.wrong_at) == ("too short for a toy", 20)
    assert "not with CBOR tag 16" in str(dissect(frame).wrong)


SHOWN = {
    "session 10": [
        ("label: kid context", "0a"),
        ("kid context: a byte string of 12 octets", "4c"),
        ("the session began at 1767225600", "6955b900"),
        ("octets that never come again", "a0a1a2a3a4a5a6a7"),
        ("ciphertext: 52 octets", ""),
        ("authentication tag: 8 octets", ""),
    ],
    "mac 5": [
        ("tag 17: COSE_Mac0", "d1"),
        ("[protected, unprotected, payload, tag]: array of 4", "84"),
        ("algorithm HMAC 256/256", "05"),
        ("payload, which anybody can read: a byte string of 52 octets", "5834"),
        ("payload: 52 octets", PAYLOAD.hex()),
        ("authentication tag: 32 octets", ""),
    ],
    "sealed": [
        ("algorithm HPKE PSK", "3a00010000"),
        ("label: ephemeral key", "23"),
        ("ephemeral public key of HPKE (X25519): 32 octets", ""),
        ("ciphertext: 52 octets", ""),
        ("authentication tag: 16 octets", ""),
    ],
}


@pytest.mark.parametrize("name", SHOWN)
def test_every_octet_of_every_form_is_named(name: str) -> None:
    octets = SAMPLES[name].seal(0x61A7, PAYLOAD)
    explained = dissect(octets)
    assert explained.wrong is None
    assert b"".join(one.octets for one in sorted(explained.parts, key=lambda one: one.offset)) == octets
    for beginning, shown in SHOWN[name]:
        assert part(explained.parts, beginning).octets.hex().startswith(shown)
    assert not [one.meaning for one in explained.parts if "not one that" in one.meaning or "does not" in one.meaning]


def test_a_hop_tag_is_shown_around_its_frame() -> None:
    inside = SAMPLES["ccm 10"].seal(1, PAYLOAD)
    octets = HopTagKey.of_device(KNOWN_KEY, KNOWN_TITLE, 1, bytes(8)).seal_tag(inside)
    explained = dissect(octets)
    assert "still wears a hop tag" in (explained.wrong or "")
    assert explained.wrong_at == 3
    assert part(explained.parts, "payload: ").octets == inside
