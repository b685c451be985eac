"""Key source ``agreed``: its known answers, and public keys with which nothing is agreed on."""

import hashlib
import hmac

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from keyvault.schemes.agreed import AGREED, AgreementError, agree, agreed_device_key, check_public
from keyvault.schemes.lines import KeyInputs
from tests.builders import KNOWN_TITLE

METER_PRIVATE = bytes(range(0x60, 0x80))
METER_PUBLIC = bytes.fromhex("675dd574ed7789310b3d2e7681f3790b466c773b1521fecf36577958371ea52f")
HEAD_END = X25519PrivateKey.from_private_bytes(bytes(range(0x80, 0xA0)))
HEAD_END_PUBLIC = bytes.fromhex("493e82fc74464a59268817623d2053c5eb8e2cc4a988b4fee179ec6b010d531d")
Z = bytes.fromhex("fbfb11adeb1d6f71c0571bc1b5dd87519f9a6620b10a5ebc314cbd420c43ba43")
DEVICE_KEYS = {
    0: "b9a73eed2e5653042f8b885c6c216d733a3ba8d112f56c7cac06340b9bf04e48",
    1: "341a0b13d40a1f8f80698befb19c251f880304a6e6fca43f245df2c285af6e56",
}
PRIME = 2**255 - 19
# Of small order: 0, 1, p - 1, and the two of order 8 (RFC 7748 and Bernstein, "Curve25519", section 3).
SMALL = [
    bytes(32),
    (1).to_bytes(32, "little"),
    (PRIME - 1).to_bytes(32, "little"),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
]


def test_both_sides_agree_on_z() -> None:
    meter = X25519PrivateKey.from_private_bytes(METER_PRIVATE)
    assert meter.public_key().public_bytes_raw() == METER_PUBLIC
    assert HEAD_END.public_key().public_bytes_raw() == HEAD_END_PUBLIC
    assert agree(meter, HEAD_END_PUBLIC) == agree(HEAD_END, METER_PUBLIC) == Z


@pytest.mark.parametrize("epoch", DEVICE_KEYS)
def test_device_keys(epoch: int) -> None:
    expected = bytes.fromhex(DEVICE_KEYS[epoch])
    assert agreed_device_key(Z, KNOWN_TITLE, epoch, METER_PUBLIC, HEAD_END_PUBLIC) == expected
    assert AGREED.device_key(KeyInputs(METER_PUBLIC, KNOWN_TITLE, epoch, HEAD_END)) == expected


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=8, max_size=8), st.integers(0, 0xFFFF))
def test_the_formula_by_hmac_alone(z: bytes, title: bytes, epoch: int) -> None:
    text = b"\x76ami-headend agreed key"
    info = b"\x85" + text + b"\x48" + title + b"\x42" + epoch.to_bytes(2, "big")
    info += b"\x58\x20" + METER_PUBLIC + b"\x58\x20" + HEAD_END_PUBLIC
    prk = hmac.digest(bytes(32), z, hashlib.sha256)
    expected = hmac.digest(prk, info + b"\x01", hashlib.sha256)
    assert agreed_device_key(z, title, epoch, METER_PUBLIC, HEAD_END_PUBLIC) == expected


@pytest.mark.parametrize("public", SMALL)
def test_points_of_small_order_are_refused(public: bytes) -> None:
    with pytest.raises(AgreementError, match="small order"):
        check_public(public)
    with pytest.raises(AgreementError, match="small order"):
        agree(HEAD_END, public)


@given(st.integers(PRIME, 2**256 - 1))
def test_a_public_key_has_one_encoding(number: int) -> None:
    with pytest.raises(AgreementError, match="one encoding"):
        check_public(number.to_bytes(32, "little"))


@given(st.binary(max_size=40).filter(lambda octets: len(octets) != 32))
def test_a_public_key_has_32_octets(octets: bytes) -> None:
    with pytest.raises(AgreementError, match="32 octets"):
        check_public(octets)


def test_a_usual_public_key_is_taken() -> None:
    check_public(METER_PUBLIC)
    check_public(HEAD_END_PUBLIC)


def test_nothing_is_agreed_on_without_the_head_ends_key() -> None:
    with pytest.raises(AgreementError, match="agreement key"):
        AGREED.device_key(KeyInputs(METER_PUBLIC, KNOWN_TITLE, 1))
