"""What every form has in common: one encoding, no acceptance of a changed octet, and a sentence for what is wrong."""

from collections.abc import Iterator

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyvault.cose.forms import fault
from keyvault.cose.sealing import TagInvalidError
from keyvault.cose.structures import MAX_COUNTER, MalformedError
from keyvault.schemes.hop_tag import HopTagKey, parse_tagged
from keyvault.schemes.mac import _FORM, parse_mac
from keyvault.schemes.table import ENVELOPES, parse_frame
from tests.builders import KNOWN_KEY, KNOWN_TITLE, seal_frame
from tests.keyvault.schemes.forms import HEAD_END_PUBLIC, KID, PAYLOAD, SAMPLES, Sample

every = pytest.mark.parametrize("sample", SAMPLES.values(), ids=SAMPLES)
TAGGER = HopTagKey.of_device(KNOWN_KEY, KNOWN_TITLE, 1, bytes.fromhex("0024befffe00c001"))


def flips(octets: bytes) -> Iterator[bytes]:
    for bit in range(8 * len(octets)):
        changed = bytearray(octets)
        changed[bit // 8] ^= 0x80 >> bit % 8
        yield bytes(changed)


def verdict(sample: Sample, octets: bytes) -> str:
    """What the pure part of opening makes of octets that should be a frame of the sample's key."""
    envelope = ENVELOPES.of(octets)
    try:
        frame = envelope.parse(octets)
    except MalformedError as error:
        is_said = error.octet is not None and 0 <= error.octet <= len(octets) and str(error)
        return "malformed" if is_said else f"not said where: {error}"
    if frame.kid != sample.kid:
        return "unknown"
    if envelope.name != sample.envelope or frame.alg != sample.alg:
        return "algorithm_mismatch"
    try:
        sample.cipher.open_(frame)
    except TagInvalidError:
        return "tag_invalid"
    return "accepted"


@every
@given(counter=st.sampled_from([0, 1, 255, 256, 2**16, 2**32 - 1, MAX_COUNTER]), size=st.integers(0, 700))
def test_round_trip_in_deterministic_encoding(sample: Sample, counter: int, size: int) -> None:
    payload = bytes(size)
    octets = sample.seal(counter, payload)
    assert ENVELOPES.of(octets).name == sample.envelope
    frame = parse_frame(octets)
    assert (frame.kid[:10], frame.alg, frame.counter) == (KID, sample.alg, counter)
    assert sample.cipher.open_(frame) == payload
    item = cbor2.loads(octets)
    assert cbor2.dumps(item, canonical=True) == octets
    headers = cbor2.loads(frame.protected)
    assert item.value[0] == frame.protected
    assert cbor2.dumps(headers, canonical=True) == frame.protected
    assert (headers[1], headers[4]) == (sample.alg, KID)
    assert int.from_bytes(headers[6], "big") == counter


@every
def test_no_changed_bit_is_accepted(sample: Sample) -> None:
    octets = sample.seal(0x61A7, PAYLOAD)
    assert verdict(sample, octets) == "accepted"
    found = {verdict(sample, changed) for changed in flips(octets)}
    assert found <= {"malformed", "algorithm_mismatch", "tag_invalid", "unknown"}
    assert {"malformed", "tag_invalid", "unknown"} <= found


@every
def test_no_part_and_no_more_than_the_whole_is_a_frame(sample: Sample) -> None:
    octets = sample.seal(0x61A7, PAYLOAD)
    assert {verdict(sample, octets[:end]) for end in range(len(octets))} == {"malformed"}
    assert {verdict(sample, octets + more) for more in (b"\x00", b"\xa0", octets)} == {"malformed"}


@every
@given(data=st.data())
def test_noise_in_place_of_any_octets_has_a_sentence(sample: Sample, data: st.DataObject) -> None:
    octets = sample.seal(data.draw(st.sampled_from([0, 0x61A7, 2**24, MAX_COUNTER])), PAYLOAD)
    start = data.draw(st.integers(0, len(octets)))
    end = data.draw(st.integers(start, len(octets)))
    noise = data.draw(st.binary(max_size=24).filter(lambda noise: noise != octets[start:end]))
    assert verdict(sample, octets[:start] + noise + octets[end:]) != "accepted"


def test_a_frame_of_one_key_is_none_of_another_session_epoch_or_direction() -> None:
    for sample in SAMPLES.values():
        frame = sample.parse(sample.seal(1, PAYLOAD))
        for other in SAMPLES.values():
            if other is not sample:
                with pytest.raises(TagInvalidError):
                    other.cipher.open_(frame)


SESSION = SAMPLES["session 10"].seal(0, PAYLOAD)
MAC = SAMPLES["mac 4"].seal(0x61A7, PAYLOAD)
SEALED = SAMPLES["sealed"].seal(0x61A7, PAYLOAD)
INSIDE = seal_frame(KNOWN_TITLE, 1, KNOWN_KEY, 5, PAYLOAD)
TAGGED = TAGGER.seal_tag(INSIDE)
MALFORMED = {
    "session: a map of three": (b"\xd0\x83\x58\x20\xa3" + SESSION[5:], "not a map of exactly four", 4),
    "session: counter with a leading zero": (
        b"\xd0\x83\x58\x21" + SESSION[4:20] + b"\x42\x00\x00" + SESSION[22:],
        "without a leading zero octet",
        20,
    ),
    "session: label 9": (SESSION[:22] + b"\x09" + SESSION[23:], r"label 10 \(kid context\) is missing", 22),
    "session: a context of 11 octets": (SESSION[:23] + b"\x4b" + SESSION[24:], "12 octets", 23),
    "session: its length in two octets": (b"\xd0\x83\x59\x00" + SESSION[3:], "shortest form", 2),
    "session: another unprotected header": (SESSION[:36] + b"\xa1" + SESSION[37:], "not the empty map", 36),
    "mac: array of three": (b"\xd1\x83" + MAC[2:], "array of four", 1),
    "mac: a tag of another length": (MAC[:-9] + b"\x47" + MAC[-7:], "the tag of HMAC 256/64 has 8 octets, not 7", 77),
    "mac: the tag of the other algorithm": (MAC[:-9] + b"\x58\x20" + bytes(32), "has 8 octets, not 32", 77),
    "mac: payload cut off": (MAC[:60], "the payload announces 52 octets", 60),
    "mac: without a tag": (MAC[:-9], "the tag is not a byte string", 77),
    "mac: a hop tag around it": (TAGGER.seal_tag(MAC), "still wears a hop tag: the concentrator strips it", 3),
    "ccm: a hop tag around it": (TAGGED, "still wears a hop tag", 3),
    "sealed: no ephemeral key": (SEALED[:26] + b"\xa0" + SEALED[62:], "the ephemeral public key of 32 octets", 26),
    "sealed: another private algorithm": (SEALED[:9] + b"\x01" + SEALED[10:], "the alg is not -65537", 5),
    "sealed: a second header beside it": (SEALED[:26] + b"\xa2" + SEALED[27:], "not a map of one", 26),
    "sealed: octets behind": (SEALED + b"\x00", "octets follow the ciphertext: 1", len(SEALED)),
}


@pytest.mark.parametrize(("octets", "sentence", "at"), MALFORMED.values(), ids=MALFORMED)
def test_malformed(octets: bytes, sentence: str, at: int) -> None:
    with pytest.raises(MalformedError, match=sentence) as error:
        parse_frame(octets)
    assert error.value.octet == at


def test_another_algorithm_of_cose_mac0_is_a_frame_that_no_key_opens() -> None:
    """So that it ends as algorithm_mismatch; what surrounds its tag is held as strictly."""
    for alg in (b"\x06", b"\x18\x18", b"\x38\x18"):
        longer = len(alg) - 1
        octets = b"\xd1\x84" + bytes((0x53 + longer,)) + b"\xa3\x01" + alg + MAC[6:]
        assert parse_mac(octets).kid == KID
        assert fault(octets, _FORM) is None
        with pytest.raises(MalformedError, match="octets follow the tag"):
            parse_mac(octets + b"\x00")


class TestHopTag:
    def test_any_frame_may_wear_one(self) -> None:
        for sample in SAMPLES.values():
            frame = sample.seal(3, PAYLOAD)
            assert TAGGER.check_tag(parse_tagged(TAGGER.seal_tag(frame))) == frame

    def test_no_changed_bit_and_no_part_is_accepted(self) -> None:
        for changed in (*flips(TAGGED), *(TAGGED[:end] for end in range(len(TAGGED))), TAGGED + b"\x00"):
            with pytest.raises((MalformedError, TagInvalidError)):
                TAGGER.check_tag(parse_tagged(changed))

    def test_the_frame_inside_is_of_the_same_meter_and_may_be_of_an_older_epoch(self) -> None:
        newer = HopTagKey.of_device(KNOWN_KEY, KNOWN_TITLE, 2, bytes(8))
        assert newer.check_tag(parse_tagged(newer.seal_tag(INSIDE))) == INSIDE
        other = HopTagKey.of_device(KNOWN_KEY, bytes(8), 1, bytes(8))
        with pytest.raises(MalformedError, match="the tag is of meter 0000000000000000, the frame inside of 0024be"):
            parse_tagged(other.seal_tag(INSIDE))

    def test_it_is_of_one_concentrator(self) -> None:
        moved = HopTagKey.of_device(KNOWN_KEY, KNOWN_TITLE, 1, bytes(8))
        with pytest.raises(TagInvalidError):
            moved.check_tag(parse_tagged(TAGGED))

    @pytest.mark.parametrize(
        ("octets", "sentence"),
        [
            (TAGGED[:5] + b"\x05" + TAGGED[6:], "the alg of a hop tag is HMAC 256/64"),
            (TAGGED[:-9] + b"\x47" + TAGGED[-7:], "a hop tag has 8 octets, not 7"),
            (MAC, "not a map of exactly two"),
            (TAGGER.seal_tag(b"no frame"), "begins with 0x6e"),
            (TAGGER.seal_tag(TAGGED), "still wears a hop tag"),
        ],
    )
    def test_malformed(self, octets: bytes, sentence: str) -> None:
        with pytest.raises(MalformedError, match=sentence):
            parse_tagged(octets)


def test_an_ephemeral_key_of_small_order_is_an_invalid_tag() -> None:
    """RFC 7748 section 6.1; the points are those of https://cr.yp.to/ecdh.html#validate."""
    points = [
        "00" * 32,
        "01" + "00" * 31,
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    ]
    sample = SAMPLES["sealed"]
    for point in map(bytes.fromhex, points):
        for enc in (point, point[:-1] + bytes((point[-1] | 0x80,))):
            frame = sample.parse(SEALED[:30] + enc + SEALED[62:])
            with pytest.raises(TagInvalidError):
                sample.cipher.open_(frame)


def test_what_holds_a_key_is_never_pickled() -> None:
    for sample in SAMPLES.values():
        with pytest.raises(TypeError, match="never pickled"):
            sample.cipher.__reduce__()
    assert HEAD_END_PUBLIC.hex().startswith("493e82fc")
