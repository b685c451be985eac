"""Mask keys, masks and messages: known answers first, then what must not pass."""

from hashlib import sha256

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from keyvault.masking import messages
from keyvault.masking.masks import VALUE_MAX, Cell, is_plausible, mask, mask_key, masked, unmasked
from keyvault.masking.messages import MessageError, MetersRequest, SumRequest
from keyvault.schemes.agreed import AgreementError
from tests.builders import KNOWN_TITLE

CELL = Cell("1-0:1.29.0", 1767225600, 30)
METER = X25519PrivateKey.from_private_bytes(bytes(range(0x60, 0x80)))
PUBLIC = METER.public_key().public_bytes_raw()
AUTHORITIES = [X25519PrivateKey.from_private_bytes(bytes((octet,)) * 32) for octet in (0x11, 0x12)]
SIGNING = Ed25519PrivateKey.from_private_bytes(bytes((0x21,)) * 32)
SIGN_PUBLIC = SIGNING.public_key().public_bytes_raw()
TEN = [(int.from_bytes(KNOWN_TITLE, "big") + n).to_bytes(8, "big") for n in range(10)]
ANSWER = bytes.fromhex(
    "d28443a10132a058548774616d692d68656164656e64206d61736b2073756d6a312d303a312e32392e301a6955b900181e5820"
    "f368b03e29e1ddb6d7d807198dad426702aa30bc729bf1608f83d2e9c0202ac90a480102030405060708"
    "5840d31026c73c674ea00df02def4573a74049f7f30e160ece0f61fac56d8a4c4f0f328821d875d71966152b173c002580da198d14af"
    "ca9ca4c544d1e1566f2f9201"
)
REQUEST = SumRequest(SIGN_PUBLIC, bytes(32), 1767230000, CELL, tuple(TEN))


def keys() -> list[bytes]:
    publics = [one.public_key().public_bytes_raw() for one in AUTHORITIES]
    return [mask_key(METER, public, KNOWN_TITLE, PUBLIC, public) for public in publics]


def test_known_answers() -> None:
    assert [key.hex() for key in keys()] == [
        "8e79b92660ca34efee17e90e9e2bd11d0ff8940db3f877865e8c5a147b034739",
        "a33270acf793fca50d9669d2c1d7078f31aac4063c571fc4340adbea181a3c48",
    ]
    masks = [mask(key, KNOWN_TITLE, CELL) for key in keys()]
    assert masks == [0x08C027A30D1C9A98, 0x9DA759A029C42763]
    assert masked(112, keys(), KNOWN_TITLE, CELL) == 0xA667814336E0C26B
    assert unmasked(0xA667814336E0C26B, masks) == 112
    assert messages.seal_sum(SIGNING, CELL, TEN, 0x0102030405060708) == ANSWER
    assert messages.open_sum(ANSWER, SIGN_PUBLIC, CELL, TEN) == 0x0102030405060708


def test_both_sides_have_the_same_key() -> None:
    own = [one.public_key().public_bytes_raw() for one in AUTHORITIES]
    assert keys() == [
        mask_key(one, PUBLIC, KNOWN_TITLE, PUBLIC, public) for one, public in zip(AUTHORITIES, own, strict=True)
    ]


def test_with_a_point_of_small_order_there_is_no_key() -> None:
    with pytest.raises(AgreementError, match="small order"):
        mask_key(METER, bytes(32), KNOWN_TITLE, PUBLIC, bytes(32))


@given(st.lists(st.integers(0, VALUE_MAX), min_size=10, max_size=20), st.lists(st.binary(min_size=32, max_size=32)))
def test_what_is_left_without_masks_is_the_total(values: list[int], some_keys: list[bytes]) -> None:
    titles = [n.to_bytes(8, "big") for n in range(len(values))]
    summed = sum(masked(value, some_keys, title, CELL) for value, title in zip(values, titles, strict=True))
    of_each = [sum(mask(key, title, CELL) for title in titles) for key in some_keys]
    assert unmasked(summed, of_each) == sum(values)


@pytest.mark.parametrize("value", [-1, VALUE_MAX + 1])
def test_other_values_are_not_masked(value: int) -> None:
    with pytest.raises(ValueError, match="a masked value is 0 to 4294967295"):
        masked(value, keys(), KNOWN_TITLE, CELL)


def test_masks_of_different_cells_and_meters_differ() -> None:
    (key, _) = keys()
    others = [
        mask(key, TEN[1], CELL),
        *(mask(key, KNOWN_TITLE, CELL._replace(**change)) for change in (
            {"obis_code": "1-0:2.29.0"}, {"start_s": CELL.start_s + 1800}, {"minutes": 15},
        )),
    ]  # fmt: skip
    assert len({mask(key, KNOWN_TITLE, CELL), *others}) == 5


def test_a_random_total_is_not_plausible() -> None:
    assert is_plausible(10 * 999, 10, 999)
    assert not is_plausible(10 * 999 + 1, 10, 999)
    assert not is_plausible(10 * VALUE_MAX + 1, 10, 10**15)
    drawn = [int.from_bytes(sha256(bytes((n,))).digest()[:8], "big") for n in range(200)]
    assert not any(is_plausible(total, 8_000, 999_999_999) for total in drawn)


class TestAnswers:
    def test_every_flipped_bit_and_every_cut_is_refused(self) -> None:
        for place in range(len(ANSWER)):
            for bit in range(8):
                damaged = ANSWER[:place] + bytes((ANSWER[place] ^ 1 << bit,)) + ANSWER[place + 1 :]
                with pytest.raises(MessageError):
                    messages.open_sum(damaged, SIGN_PUBLIC, CELL, TEN)
        for length in range(len(ANSWER)):
            with pytest.raises(MessageError):
                messages.open_sum(ANSWER[:length], SIGN_PUBLIC, CELL, TEN)
        with pytest.raises(MessageError):
            messages.open_sum(ANSWER + b"\0", SIGN_PUBLIC, CELL, TEN)

    def test_an_answer_to_another_question_is_refused(self) -> None:
        for cell, titles in [
            (CELL._replace(start_s=1), TEN),
            (CELL._replace(minutes=15), TEN),
            (CELL._replace(obis_code="1-0:2.29.0"), TEN),
            (CELL, TEN[:9]),
            (CELL, [*TEN[:9], bytes(8)]),
        ]:
            with pytest.raises(MessageError, match="answers another question"):
                messages.open_sum(ANSWER, SIGN_PUBLIC, cell, titles)
        with pytest.raises(MessageError, match="is no sum of masks"):
            messages.open_sum(messages.seal_meters(SIGNING, TEN), SIGN_PUBLIC, CELL, TEN)

    def test_meters(self) -> None:
        octets = messages.seal_meters(SIGNING, TEN[:3])
        assert messages.open_meters(octets, SIGN_PUBLIC) == tuple(TEN[:3])
        with pytest.raises(MessageError, match="is no list of meters"):
            messages.open_meters(ANSWER, SIGN_PUBLIC)
        with pytest.raises(MessageError, match="signature does not fit"):
            messages.open_meters(octets, PUBLIC)


class TestRequests:
    @pytest.mark.parametrize("request_", [REQUEST, MetersRequest(SIGN_PUBLIC, bytes(32), 5, tuple(TEN))])
    def test_there_and_back(self, request_: messages.Request) -> None:
        octets = messages.seal_request(SIGNING, request_)
        assert messages.open_request(octets) == request_
        messages.verify(octets, SIGN_PUBLIC)
        for length in range(len(octets)):
            with pytest.raises(MessageError):
                messages.open_request(octets[:length])

    @pytest.mark.parametrize(
        "said",
        [
            {},
            5,
            [],
            ["ami-headend mask sum request"],
            ["other", SIGN_PUBLIC, bytes(32), 5, "1-0:1.29.0", 0, 30, b""],
            ["ami-headend mask sum request", bytes(31), bytes(32), 5, "1-0:1.29.0", 0, 30, b""],
            ["ami-headend mask sum request", SIGN_PUBLIC, bytes(32), True, "1-0:1.29.0", 0, 30, b""],
            ["ami-headend mask sum request", SIGN_PUBLIC, bytes(32), 5, "1-0:1.29.0", 0, 30, bytes(7)],
            ["ami-headend mask sum request", SIGN_PUBLIC, bytes(32), 5, "1-0:1.29.0", 0, 30, bytes(16)],
            ["ami-headend mask meters request", SIGN_PUBLIC, bytes(32), 5, TEN[1] + TEN[0]],
            ["ami-headend mask meters request", SIGN_PUBLIC, bytes(32), 1.5, b""],
        ],
        ids=lambda said: str(said)[:40],
    )
    def test_others_are_none(self, said: object) -> None:
        with pytest.raises(MessageError):
            messages.open_request(messages._sign(SIGNING, cbor2.dumps(said)))

    def test_another_encoding_is_none(self) -> None:
        payload = cbor2.dumps(["ami-headend mask meters request", SIGN_PUBLIC, bytes(32), 5, b""])
        longer = payload.replace(b"\x05\x40", b"\x18\x05\x40")
        assert longer != payload
        with pytest.raises(MessageError, match="deterministic"):
            messages.open_request(messages._sign(SIGNING, longer))
