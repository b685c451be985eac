"""The one encoding of a frame: what is refused and how it is said, and an independent slow oracle beside it."""

from collections.abc import Mapping
from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyvault.cose.structures import (
    MAX_COUNTER,
    Frame,
    MalformedError,
    encode_protected,
    encode_sequence,
    make_kid,
    parse_frame,
    split_sequence,
)
from tests.builders import KNOWN_TITLE, bstr, head, raw_frame, raw_protected

KID = KNOWN_TITLE + b"\x00\x01"
TAIL = b"\x49123456789"  # a ciphertext of 9 octets
WHOLE = raw_frame()


def labels(*pairs: bytes, count: int | None = None) -> bytes:
    return head(5, len(pairs) if count is None else count) + b"".join(pairs)


ALG, KID_PAIR, PIV = b"\x01\x0a", b"\x04" + bstr(KID), b"\x06\x42\x61\xa7"

MALFORMED = {
    "empty": (b"", "empty"),
    "no tag": (WHOLE[1:], "not with CBOR tag 16"),
    "tag 17": (b"\xd1" + WHOLE[1:], "not with CBOR tag 16"),
    "tag 16 in two octets": (b"\xd8\x10" + WHOLE[1:], "not with CBOR tag 16"),
    "tag alone": (b"\xd0", "array of three"),
    "array of two": (raw_frame(start=b"\xd0\x82"), "array of three"),
    "array of four": (raw_frame(start=b"\xd0\x84") + b"\xf6", "array of three"),
    "array of indefinite length": (raw_frame(start=b"\xd0\x9f") + b"\xff", "array of three, of definite length"),
    "array head not shortest": (raw_frame(start=b"\xd0\x98\x03"), "array of three, of definite length and shortest"),
    "protected header as map": (b"\xd0\x83" + raw_protected() + b"\xa0" + TAIL, "not a byte string"),
    "protected header empty": (raw_frame(b""), "not a map of exactly three"),
    "protected header of indefinite length": (
        b"\xd0\x83\x5f" + bstr(raw_protected()) + b"\xff\xa0" + TAIL,
        "protected header is not a byte string of definite length",
    ),
    "protected header's length not shortest": (
        b"\xd0\x83" + bstr(raw_protected(), 1) + b"\xa0" + TAIL,
        "protected header is not a byte string of definite length and shortest form",
    ),
    "ends in the protected header": (WHOLE[:10], "ends inside the protected header"),
    "protected map of indefinite length": (raw_frame(b"\xbf" + ALG + KID_PAIR + PIV + b"\xff"), "map of exactly three"),
    "protected map head not shortest": (raw_frame(b"\xb8\x03" + ALG + KID_PAIR + PIV), "map of exactly three"),
    "Partial IV missing": (raw_frame(labels(ALG, KID_PAIR)), "map of exactly three"),
    "extra label": (raw_frame(labels(ALG, KID_PAIR, b"\x03\x00", b"\x06\x41\x01")), "map of exactly three"),
    "crit": (raw_frame(labels(ALG, b"\x02\x81\x01", KID_PAIR, b"\x06\x41\x01")[:23]), "map of exactly three"),
    "IV beside Partial IV": (
        raw_frame(labels(ALG, KID_PAIR, b"\x05\x41\x01", b"\x06\x41\x01")[:23]),
        "map of exactly three",
    ),
    "IV instead of Partial IV": (raw_frame(labels(ALG, KID_PAIR, b"\x05\x42\x61\xa7")), r"label 6 \(Partial IV\)"),
    "duplicate alg": (raw_frame(labels(ALG, ALG, KID_PAIR)), r"label 4 \(kid\) is missing at octet 3"),
    "duplicate kid": (raw_frame(labels(ALG, b"\x04\x41\x01", b"\x04\x41\x01")), "the kid is not"),
    "labels in another order": (raw_frame(labels(KID_PAIR, ALG, PIV)), r"label 1 \(alg\) is missing at octet 1"),
    "Partial IV before kid": (raw_frame(labels(ALG, PIV, KID_PAIR)), r"label 4 \(kid\) is missing"),
    "label not shortest": (raw_frame(labels(b"\x18\x01\x0a", KID_PAIR, PIV)), r"label 1 \(alg\)"),
    "label as text": (raw_frame(labels(b"\x61\x31\x0a", KID_PAIR, PIV)), r"label 1 \(alg\)"),
    "octets after the labels": (raw_frame(raw_protected() + b"\x00"), "octets follow the three labels"),
    "alg not shortest": (raw_frame(raw_protected(alg=b"\x18\x0a")), "the alg is not an integer"),
    "alg of three octets": (raw_frame(raw_protected(alg=b"\x19\x01\x00")), "the alg is not an integer"),
    "alg as text": (raw_frame(raw_protected(alg=b"\x61\x41")), "the alg is not an integer"),
    "kid of 9 octets": (raw_frame(raw_protected(kid=bstr(KID[:9]))), "the kid is not a byte string of 10 octets"),
    "kid of 11 octets": (
        raw_frame(raw_protected(kid=bstr(KID + b"\x00"))),
        "the kid is not a byte string of 10 octets",
    ),
    "kid as text": (raw_frame(raw_protected(kid=b"\x6aABCDEFGHIJ")), "the kid is not a byte string of 10 octets"),
    "kid's length not shortest": (raw_frame(raw_protected(kid=bstr(KID, 1))), "the kid is not"),
    "counter of 6 octets": (
        raw_frame(raw_protected(partial_iv=b"\x46\x01\x02\x03\x04\x05\x06")[:23]),
        "the Partial IV is not",
    ),
    "counter of no octet": (raw_frame(raw_protected(partial_iv=b"\x40")), "the Partial IV is not"),
    "counter with a leading zero": (
        raw_frame(raw_protected(partial_iv=b"\x42\x00\xa7")),
        "without a leading zero octet",
    ),
    "counter 0 in two octets": (raw_frame(raw_protected(partial_iv=b"\x42\x00\x00")), "without a leading zero octet"),
    "counter as integer": (raw_frame(raw_protected(partial_iv=b"\x19\x61\xa7")), "the Partial IV is not"),
    "counter's length not shortest": (raw_frame(raw_protected(partial_iv=b"\x58\x01\x07")), "the Partial IV is not"),
    "kid in both buckets": (raw_frame(unprotected=labels(KID_PAIR)), "the unprotected header is not the empty map"),
    "Partial IV in both buckets": (raw_frame(unprotected=labels(PIV)), "the unprotected header is not the empty map"),
    "IV unprotected": (raw_frame(unprotected=b"\xa1\x05\x41\x01"), "the unprotected header is not the empty map"),
    "unprotected of indefinite length": (
        raw_frame(unprotected=b"\xbf\xff"),
        "the unprotected header is not the empty map",
    ),
    "unprotected not shortest": (raw_frame(unprotected=b"\xb8\x00"), "the unprotected header is not the empty map"),
    "ends before the ciphertext": (raw_frame(ciphertext=b""), "the ciphertext is not a byte string"),
    "ciphertext nil": (raw_frame(ciphertext=b"\xf6"), "the ciphertext is not a byte string"),
    "ciphertext of indefinite length": (raw_frame(ciphertext=b"\x5f" + TAIL + b"\xff"), "definite length"),
    "ciphertext's length not shortest": (raw_frame(ciphertext=bstr(b"123456789", 1)), "shortest form"),
    "ciphertext's length not shortest in two": (raw_frame(ciphertext=bstr(bytes(200), 2)), "shortest form"),
    "ciphertext's length in four": (raw_frame(ciphertext=bstr(bytes(9), 4)), "shortest form"),
    "ciphertext truncated": (WHOLE[:-1], "announces 9 octets, but 8 follow"),
    "trailing octets": (WHOLE + b"\x00\x00", "octets follow the ciphertext: 2"),
    "two frames": (WHOLE + WHOLE, "octets follow the ciphertext"),
}


@pytest.mark.parametrize(("octets", "sentence"), MALFORMED.values(), ids=MALFORMED)
def test_malformed(octets: bytes, sentence: str) -> None:
    with pytest.raises(MalformedError, match=sentence):
        parse_frame(octets)
    assert oracle(octets) is None


# --- an oracle that shares nothing with the code: generic CBOR, then the rules of docs/frame.md -------------


def oracle(octets: bytes) -> Frame | None:  # noqa: PLR0911 - a rule a line
    """The frame, or None: decoded by cbor2, checked by rule; one encoding means encoding it again gives the same."""
    try:
        item = cbor2.loads(octets)
    except Exception:  # noqa: BLE001 - whatever cbor2 makes of noise
        return None
    if not isinstance(item, cbor2.CBORTag) or item.tag != 16 or cbor2.dumps(item, canonical=True) != octets:
        return None
    array: Any = item.value
    if not isinstance(array, list | tuple) or len(array) != 3:
        return None
    protected, unprotected, ciphertext = array
    if (
        type(protected) is not bytes
        or not isinstance(unprotected, Mapping)
        or len(unprotected)
        or type(ciphertext) is not bytes
    ):
        return None
    try:
        headers = cbor2.loads(protected)
        again = cbor2.dumps(headers, canonical=True)
    except Exception:  # noqa: BLE001 - as above
        return None
    if type(headers) is not dict or again != protected or list(headers) != [1, 4, 6]:
        return None
    if any(type(label) is not int for label in headers):
        return None
    alg, kid, partial_iv = headers.values()
    if type(alg) is not int or not -256 <= alg <= 255 or type(kid) is not bytes or len(kid) != 10:
        return None
    if type(partial_iv) is not bytes or not 1 <= len(partial_iv) <= 5 or (len(partial_iv) > 1 and not partial_iv[0]):
        return None
    if len(ciphertext) > 65_535:
        return None
    return Frame(kid, alg, int.from_bytes(partial_iv, "big"), protected, ciphertext)


def parsed(octets: bytes) -> Frame | None:
    try:
        return parse_frame(octets)
    except MalformedError as error:
        sentence = str(error)
    assert sentence.strip()
    return None


FRAMES = st.builds(
    lambda alg, kid, counter, ciphertext: raw_frame(encode_protected(alg, kid, counter), ciphertext=bstr(ciphertext)),
    st.integers(-256, 255),
    st.binary(min_size=10, max_size=10),
    st.integers(0, MAX_COUNTER),
    st.one_of(st.binary(max_size=300), st.integers(0, 66_000).map(bytes)),
)


@given(FRAMES)
def test_oracle_agrees_on_valid_frames(octets: bytes) -> None:
    ciphertext_may_be_too_long = len(octets) > 65_560
    assert (parsed(octets) is not None) or ciphertext_may_be_too_long
    assert parsed(octets) == oracle(octets)


@given(FRAMES.filter(lambda octets: len(octets) < 400), st.data())
def test_oracle_agrees_on_mutated_frames(octets: bytes, data: st.DataObject) -> None:
    changed = bytearray(octets)
    for _ in range(data.draw(st.integers(1, 3))):
        position = data.draw(st.integers(0, min(len(changed) - 1, 32)))
        end = position + data.draw(st.integers(0, 2))
        changed[position:end] = data.draw(st.binary(max_size=2))
    assert parsed(bytes(changed)) == oracle(bytes(changed))


ENCODED = st.one_of(
    st.integers(-300, 300).map(cbor2.dumps),
    st.binary(max_size=12).map(cbor2.dumps),
    st.sampled_from([b"\x18\x0a", b"\xf6", b"\xf4", b"\xf9\x00\x00", b"\x61a", b"\x5f\xff", b"\xa0", b"\x80"]),
)


@given(
    st.lists(st.tuples(st.sampled_from([b"\x01", b"\x02", b"\x04", b"\x05", b"\x06"]), ENCODED), max_size=4),
    ENCODED,
    ENCODED,
)
def test_oracle_agrees_on_other_headers(
    pairs: list[tuple[bytes, bytes]], unprotected: bytes, ciphertext: bytes
) -> None:
    octets = raw_frame(labels(*(label + value for label, value in pairs)), unprotected, ciphertext)
    assert parsed(octets) == oracle(octets)


@pytest.mark.parametrize("alg", [-256, -25, -24, -1, 0, 10, 23, 24, 30, 255])
def test_every_form_of_alg(alg: int) -> None:
    frame = parse_frame(raw_frame(encode_protected(alg, KID, 0)))
    assert (frame.alg, frame.counter) == (alg, 0)


@pytest.mark.parametrize(
    ("alg", "kid", "counter"),
    [(10, KID[:9], 0), (10, KID, -1), (10, KID, MAX_COUNTER + 1), (2**32, KID, 0), (-1 - 2**32, KID, 0)],
)
def test_wrong_headers_are_the_callers_mistake(alg: int, kid: bytes, counter: int) -> None:
    with pytest.raises(ValueError, match=r"a kid has|an invocation counter is|no COSE algorithm"):
        encode_protected(alg, kid, counter)


def test_kid() -> None:
    assert make_kid(KNOWN_TITLE, 1) == KID
    with pytest.raises(ValueError, match="8 octets, not 7"):
        make_kid(KNOWN_TITLE[:7], 1)


# --- the sequence -------------------------------------------------------------------------------------------


def sequence_oracle(body: bytes) -> list[bytes] | None:
    """Item by item with cbor2: byte strings of definite length, or None."""
    frames, position = [], 0
    while position < len(body):
        if body[position] == 0x5F:
            return None
        try:
            item = cbor2.loads(body[position:])
        except Exception:  # noqa: BLE001 - whatever cbor2 makes of noise
            return None
        if type(item) is not bytes:
            return None
        first = body[position]
        position += 1 + (1 << (first - 0x58) if first >= 0x58 else 0) + len(item)
        frames.append(item)
    return frames


def split(body: bytes) -> list[bytes] | None:
    try:
        return split_sequence(body)
    except MalformedError as error:
        sentence = str(error)
    assert "octet" in sentence
    return None


@given(st.lists(st.one_of(st.binary(max_size=300), st.integers(0, 65_535).map(bytes)), max_size=6))
def test_sequence_round_trip(frames: list[bytes]) -> None:
    body = encode_sequence(frames)
    assert split_sequence(body) == frames == sequence_oracle(body)


@given(
    st.lists(
        st.one_of(
            st.tuples(st.binary(max_size=30), st.sampled_from([0, 1, 2, 4, 8])).map(lambda frame: bstr(*frame)),
            st.binary(max_size=6),
        ),
        max_size=4,
    )
)
def test_sequence_agrees_with_cbor2(pieces: list[bytes]) -> None:
    body = b"".join(pieces)
    assert split(body) == sequence_oracle(body)


def test_sequence_cut_anywhere() -> None:
    body = encode_sequence([WHOLE, bytes(300), b"", b"x"])
    for end in range(len(body)):
        assert split(body[:end]) == sequence_oracle(body[:end])


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"\x80", r"octet 0 \(0x80\) does not begin a byte string"),
        (b"\x41a\x5f\x41b\xff", r"octet 2 \(0x5f\) does not begin a byte string of definite length"),
        (b"\x42a", "at octet 0 announces 2 octets, but 1 follow"),
        (b"\x58", "ends inside the length of the byte string at octet 0"),
        (b"\x5b" + b"\xff" * 8, "announces 18446744073709551615 octets, but 0 follow"),
    ],
)
def test_no_sequence(body: bytes, sentence: str) -> None:
    with pytest.raises(MalformedError, match=sentence):
        split_sequence(body)
