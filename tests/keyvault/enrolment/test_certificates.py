"""Certificates, revocations and enrolment frames: known answers first, then what is refused, octet by octet."""

from typing import Any

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from keyvault.cose.kdf import uplink_key
from keyvault.cose.sealing import DirectionCipher, TagInvalidError
from keyvault.cose.structures import MalformedError, make_kid
from keyvault.enrolment.certificates import (
    CertificateError,
    Signed,
    check_authority_key,
    issue,
    parse_certificate,
    parse_revocation,
    revoke,
    verify,
)
from keyvault.enrolment.foreign_cbor import ForeignCborError, Tagged, decode, decode_item
from keyvault.enrolment.frames import parse_enrolment, seal_enrolment
from tests.builders import KNOWN_TIME_S, KNOWN_TITLE
from tests.keyvault.schemes.test_agreed import DEVICE_KEYS, METER_PUBLIC
from tests.keyvault.test_known_answers import PAYLOAD

AUTHORITY = Ed25519PrivateKey.from_private_bytes(bytes(range(0xA0, 0xC0)))
AUTHORITY_PUBLIC = bytes.fromhex("4fd099ccd47d7893dfe9ec24414ecb0d9b5420232aad30d91c465be33cbe65c4")
AUTHORITY_KID, ISSUER, AUDIENCE = b"authority-1", "ami-headend test authority", "hes-1"
CTI = bytes(range(0xC0, 0xC8))
EXPIRES_S = 1_798_761_600
FIELD_PRIME = 2**255 - 19
ORDER_8 = int.from_bytes(bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), "little")
CERTIFICATE = bytes.fromhex(
    "d28443a10132a1044b617574686f726974792d315878a701781a616d692d68656164656e64207465737420617574686f7269747902703030"
    "323462656666666538303466663103656865732d31041a6b36ec80061a6955b9000748c0c1c2c3c4c5c6c708a101a3010120042158206"
    "75dd574ed7789310b3d2e7681f3790b466c773b1521fecf36577958371ea52f5840433c5a170e0d9ba7f7c0b54f82cf08e35613fe29301c"
    "cf4159e1a254757c62994257adaae10cef6b3b20765e3356658373698caa46fd57e4585bfad1c8e9f401"
)
ENROLMENT = (
    bytes.fromhex("d08352a3010a044a0024befffe804ff10001064100a10d")
    + CERTIFICATE
    + bytes.fromhex(
        "583c75d9743aa9f9f07b652bd60250916c888275f2b4623fd83bcd1946956ad92b058d44ed0648bd0112edd0f26c73d12d43e05419d996ee66a6d4c630e2"
    )
)
KID = make_kid(KNOWN_TITLE, 1)


def cipher() -> DirectionCipher:
    return DirectionCipher(uplink_key(bytes.fromhex(DEVICE_KEYS[1]), KNOWN_TITLE, 1, 10), 10)


class TestKnownAnswers:
    def test_the_certificate(self) -> None:
        assert AUTHORITY.public_key().public_bytes_raw() == AUTHORITY_PUBLIC
        made = issue(
            AUTHORITY, AUTHORITY_KID, ISSUER, KNOWN_TITLE, AUDIENCE, METER_PUBLIC, CTI, KNOWN_TIME_S, EXPIRES_S
        )
        assert made == CERTIFICATE
        parsed = parse_certificate(CERTIFICATE)
        verify(parsed.signed, AUTHORITY_PUBLIC)
        assert parsed[1:] == (
            ISSUER,
            KNOWN_TITLE,
            AUDIENCE,
            KNOWN_TIME_S,
            KNOWN_TIME_S,
            EXPIRES_S,
            CTI,
            METER_PUBLIC,
        )
        assert parsed.signed.kid == AUTHORITY_KID

    def test_the_traffic_key(self) -> None:
        key = uplink_key(bytes.fromhex(DEVICE_KEYS[1]), KNOWN_TITLE, 1, 10)
        assert key.key.hex() == "21cbbbcb0dd994e3d12df4ad619cfd44"
        assert key.base_iv.hex() == "a25ed5cd97bda73886ebd0aee7"

    def test_the_enrolment_frame(self) -> None:
        assert seal_enrolment(cipher(), KID, 0, bytes.fromhex(PAYLOAD), CERTIFICATE) == ENROLMENT
        parsed = parse_enrolment(ENROLMENT)
        assert parsed is not None
        assert (parsed.certificate, parsed.frame.kid, parsed.frame.alg, parsed.frame.counter) == (
            CERTIFICATE,
            KID,
            10,
            0,
        )
        assert cipher().open_with(parsed.frame, parsed.certificate).hex() == PAYLOAD


def changed(label: int, value: Any) -> bytes:
    """The certificate with another value for a claim, signed by the authority; without it where that is None."""
    payload = cbor2.loads(parse_certificate(CERTIFICATE).signed.payload)
    payload.pop(label, None)
    if value is not None:
        payload[label] = value
    return signed(cbor2.dumps(payload))


def signed(payload: bytes, protected: bytes = b"\xa1\x01\x32", unprotected: Any = None) -> bytes:
    signature = AUTHORITY.sign(cbor2.dumps(["Signature1", protected, b"", payload]))
    headers = {4: AUTHORITY_KID} if unprotected is None else unprotected
    return cbor2.dumps(cbor2.CBORTag(18, [protected, headers, payload, signature]))


class TestForeignEncodings:
    def test_indefinite_lengths_long_heads_floats_and_other_orders_are_taken(self) -> None:
        claims = cbor2.loads(parse_certificate(CERTIFICATE).signed.payload)
        claims[4] = float(EXPIRES_S)
        pairs = b"".join(cbor2.dumps(key) + cbor2.dumps(claims[key]) for key in reversed(claims))
        payload = b"\xbf" + pairs + cbor2.dumps(99) + cbor2.dumps(["more"]) + b"\xff"
        octets = signed(payload, b"\xb8\x01\x18\x01\x38\x12")
        parsed = parse_certificate(b"\xd8\x3d" + octets)  # CWT tag around it
        verify(parsed.signed, AUTHORITY_PUBLIC)
        assert parsed[1:] == parse_certificate(CERTIFICATE)[1:]

    def test_the_authority_may_be_named_in_the_protected_header(self) -> None:
        protected = cbor2.dumps({1: -19, 4: AUTHORITY_KID})
        payload = parse_certificate(CERTIFICATE).signed.payload
        parsed = parse_certificate(signed(payload, protected, {}))
        verify(parsed.signed, AUTHORITY_PUBLIC)
        assert parsed.signed.kid == AUTHORITY_KID


def _each(label: int, *values: Any) -> list[tuple[int, Any]]:
    return [(label, value) for value in values]


class TestRefusedCertificates:
    @pytest.mark.parametrize(
        ("label", "value"),
        [
            *_each(1, None, 7, b"issuer", ""),
            *_each(2, None, "0024befffe804ff", "zz" * 8, "00 24 be ff fe 80 4f f1", KNOWN_TITLE),
            *_each(3, None, ["hes-1"], ""),
            *_each(4, None, "soon", True, -1, float("inf"), float("nan"), 2**63),
            (5, "later"),
            *_each(6, None, []),
            *_each(7, None, bytes(7), bytes(9), "c0c1c2c3"),
            *_each(8, None, {}, {1: {}}, {1: {1: 1, -1: 6, -2: METER_PUBLIC}}),
            *_each(8, {1: {1: 2, -1: 4, -2: METER_PUBLIC}}, {1: {1: 1, -1: 4, -2: bytes(31)}}),
            (8, {1: {1: 1, -1: 4, -2: METER_PUBLIC, -4: bytes(32)}}),
        ],
    )
    def test_claims(self, label: int, value: Any) -> None:
        with pytest.raises(CertificateError):
            parse_certificate(changed(label, value))

    def test_headers(self) -> None:
        payload = parse_certificate(CERTIFICATE).signed.payload
        for protected, unprotected in [
            (b"\xa1\x01\x27", None),  # EdDSA
            (b"", {1: -19, 4: AUTHORITY_KID}),
            (b"\xa2\x01\x32\x02\x81\x01", None),  # crit
            (b"\xa2\x01\x32\x04\x41\x61", {4: b"a"}),
            (b"\x80", None),
            (b"\xa1\x01\x32", {}),
            (b"\xa1\x01\x32", {4: "authority-1"}),
        ]:
            with pytest.raises(CertificateError):
                parse_certificate(signed(payload, protected, unprotected))

    def test_a_claim_that_stands_twice(self) -> None:
        payload = parse_certificate(CERTIFICATE).signed.payload
        twice = bytes((payload[0] + 1,)) + payload[1:] + b"\x03" + cbor2.dumps("hes-2")
        with pytest.raises(CertificateError, match="twice"):
            parse_certificate(signed(twice))

    def test_the_longest(self) -> None:
        room = 512 - len(changed(99, "")) - 3  # its head, and the longer head of the payload
        assert len(changed(99, "x" * room)) <= 512
        parse_certificate(changed(99, "x" * room))
        with pytest.raises(CertificateError, match="at most 512"):
            parse_certificate(changed(99, "x" * (room + 4)))

    def test_every_changed_bit_and_every_truncation(self) -> None:
        for at in range(len(CERTIFICATE)):
            for bit in range(8):
                octets = bytearray(CERTIFICATE)
                octets[at] ^= 1 << bit
                with pytest.raises(CertificateError):
                    _check(bytes(octets))
            with pytest.raises(CertificateError):
                parse_certificate(CERTIFICATE[:at])
        with pytest.raises(CertificateError):
            parse_certificate(CERTIFICATE + b"\x00")

    @given(st.binary(max_size=520))
    def test_arbitrary_octets(self, octets: bytes) -> None:
        with pytest.raises(CertificateError):
            parse_certificate(octets)


def _check(octets: bytes) -> None:
    """The kid names the authority and is not signed: with another one, another authority's key is looked for."""
    parsed = parse_certificate(octets)
    if parsed.signed.kid != AUTHORITY_KID:
        raise CertificateError("no such authority")
    verify(parsed.signed, AUTHORITY_PUBLIC)


class TestKeysOfAuthorities:
    ANYBODYS = bytes([1]) + bytes(63)  # R the identity, S = 0

    @pytest.mark.parametrize("y", [0, 1, -1, ORDER_8, -ORDER_8])
    @pytest.mark.parametrize("sign", [0, 1 << 255])
    def test_one_of_small_order_is_none(self, y: int, sign: int) -> None:
        public = (y % FIELD_PRIME + sign).to_bytes(32, "little")
        with pytest.raises(CertificateError, match="small order"):
            check_authority_key(public)
        if (y, sign) == (1, 0):  # and why
            verify(Signed(b"kid", b"", b"any certificate", self.ANYBODYS), public)

    @pytest.mark.parametrize("octets", [0, 31, 33])
    def test_of_another_length(self, octets: int) -> None:
        with pytest.raises(CertificateError, match="has 32 octets"):
            check_authority_key(bytes(octets))

    def test_a_good_one(self) -> None:
        check_authority_key(AUTHORITY_PUBLIC)


class TestRevocations:
    OCTETS = revoke(AUTHORITY, AUTHORITY_KID, CTI, KNOWN_TIME_S)

    def test_made_and_read(self) -> None:
        parsed = parse_revocation(self.OCTETS)
        verify(parsed.signed, AUTHORITY_PUBLIC)
        assert (parsed.cti, parsed.at_s, parsed.signed.kid) == (CTI, KNOWN_TIME_S, AUTHORITY_KID)

    @pytest.mark.parametrize(
        "payload",
        [[], ["ami-headend revocation", CTI], ["other", CTI, 1], ["ami-headend revocation", bytes(7), 1], {}, 7],
    )
    def test_other_payloads(self, payload: Any) -> None:
        with pytest.raises(CertificateError):
            parse_revocation(signed(cbor2.dumps(payload)))

    def test_a_certificate_is_no_revocation_nor_the_other_way_round(self) -> None:
        with pytest.raises(CertificateError):
            parse_revocation(CERTIFICATE)
        with pytest.raises(CertificateError):
            parse_certificate(self.OCTETS)


class TestFrames:
    def test_every_changed_bit_opens_nothing(self) -> None:
        for at in range(len(ENROLMENT)):
            octets = bytearray(ENROLMENT)
            octets[at] ^= 1 << (at % 8)
            try:
                parsed = parse_enrolment(bytes(octets))
            except MalformedError:
                continue
            if parsed is not None:
                with pytest.raises(TagInvalidError):
                    cipher().open_with(parsed.frame, parsed.certificate)

    def test_truncations(self) -> None:
        for at in range(len(ENROLMENT)):
            try:
                assert parse_enrolment(ENROLMENT[:at]) is None
            except MalformedError:
                continue

    def test_a_usual_frame_brings_no_certificate(self) -> None:
        assert parse_enrolment(cipher().seal(KID, 0, b"hello")) is None
        assert parse_enrolment(b"") is None

    def test_the_certificate_of_another_does_not_open(self) -> None:
        parsed = parse_enrolment(ENROLMENT)
        assert parsed is not None
        with pytest.raises(TagInvalidError):
            cipher().open_with(parsed.frame, changed(3, "hes-2"))
        with pytest.raises(TagInvalidError):
            cipher().open_(parsed.frame)


class TestForeignCbor:
    @given(
        st.recursive(
            st.one_of(
                st.integers(-(2**64), 2**64 - 1),
                st.binary(max_size=30),
                st.text(max_size=30),
                st.booleans(),
                st.none(),
                st.floats(allow_nan=False),
            ),
            lambda items: st.one_of(
                st.lists(items, max_size=3),
                st.dictionaries(st.one_of(st.integers(-999, 999), st.text(max_size=9)), items, max_size=3),
            ),
            max_leaves=6,
        )
    )
    def test_reads_what_another_wrote(self, value: Any) -> None:
        octets = cbor2.dumps(value)
        if _depth(value) > 6:
            with pytest.raises(ForeignCborError, match="deep"):
                decode(octets)
        else:
            assert decode(octets) == value

    @given(st.binary(max_size=40))
    def test_what_it_takes_another_takes_alike(self, octets: bytes) -> None:
        try:
            value, end = decode_item(octets, 0)
        except ForeignCborError:
            return
        assert 0 < end <= len(octets)
        if not _has(value, Tagged):
            assert repr(cbor2.loads(octets[:end])) == repr(value)

    def test_deep_ones_are_refused_at_once(self) -> None:
        for octets in (b"\x81" * 500 + b"\x00", b"\xd2" * 500 + b"\x00", b"\xa1\x01" * 250 + b"\x00", b"\x9f" * 500):
            with pytest.raises(ForeignCborError, match="deep"):
                decode(octets)

    @pytest.mark.parametrize(
        "text", ["", "1c", "ff", "5f4161", "5f6161ff", "7f4161ff", "61ff", "a140", "a2010101", "f8"]
    )
    def test_what_is_not_well_formed(self, text: str) -> None:
        with pytest.raises(ForeignCborError):
            decode(bytes.fromhex(text))


def _depth(value: Any) -> int:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max(map(_depth, inside), default=0)


def _has(value: Any, kind: type) -> bool:
    if isinstance(value, kind):
        return True
    if isinstance(value, dict):
        return any(_has(one, kind) for one in value.values())
    return isinstance(value, list) and any(_has(one, kind) for one in value)
