"""Key derivation: RFC 5869's vectors, distinct keys for distinct uses, and handles that show nothing."""

import copy
import itertools
import pickle
from pathlib import Path

import cryptography_vectors
import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand
from hypothesis import given
from hypothesis import strategies as st

from keyvault.cose.kdf import TrafficKey, derived_device_key, downlink_key, kdf_context, uplink_key
from keyvault.cose.sealing import DirectionCipher
from tests.builders import KNOWN_KEY, KNOWN_TITLE

RFC_5869 = Path(cryptography_vectors.__file__).parent / "KDF" / "rfc-5869-HKDF-SHA256.txt"
OTHER_TITLE = bytes.fromhex("0024befffe804ff2")


def read_rfc_5869() -> list[dict[str, str]]:
    cases: list[dict[str, str]] = []
    for line in RFC_5869.read_text().splitlines():
        label, _, value = (part.strip() for part in line.partition("="))
        if label == "COUNT":
            cases.append({})
        if cases and value:
            cases[-1][label] = value
    return cases


@pytest.mark.parametrize("case", read_rfc_5869(), ids=lambda case: case["COUNT"])
def test_rfc_5869(case: dict[str, str]) -> None:
    """The primitives as _derive uses them: extract once with ``salt or None``, then expand."""
    salt, info = bytes.fromhex(case.get("salt", "")), bytes.fromhex(case.get("info", ""))
    prk = HKDF.extract(SHA256(), salt or None, bytes.fromhex(case["IKM"]))
    assert prk.hex() == case["PRK"]
    assert HKDFExpand(SHA256(), int(case["L"]), info).derive(prk).hex() == case["OKM"]


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=8, max_size=8), st.binary(max_size=16))
def test_derivation_is_one_hkdf_over_the_context(device_key: bytes, title: bytes, salt: bytes) -> None:
    traffic_key = uplink_key(device_key, title, 7, 11, salt)
    parties = ((title, b"\x00\x07"), (b"HES", None))
    key = HKDF(SHA256(), 32, salt or None, kdf_context(11, 256, *parties)).derive(device_key)
    base_iv = HKDF(SHA256(), 13, salt or None, kdf_context("IV-GENERATION", 104, *parties)).derive(device_key)
    assert (traffic_key.key, traffic_key.base_iv) == (key, base_iv)


def test_pairwise_distinct() -> None:
    """Another direction, title, epoch, salt or device key: another key and Base IV; another alg: another key."""
    uses = list(
        itertools.product(
            (uplink_key, downlink_key),
            (KNOWN_KEY, bytes(32)),
            (KNOWN_TITLE, OTHER_TITLE),
            (0, 1, 256, 65_535),
            (b"", b"s"),
        )
    )
    base_ivs = {derive(key, title, epoch, 10, salt).base_iv for derive, key, title, epoch, salt in uses}
    keys = {
        derive(key, title, epoch, alg, salt).key[:16]
        for derive, key, title, epoch, salt in uses
        for alg in (10, 11, 30, 31)
    }
    assert len(base_ivs) == len(uses)
    assert len(keys) == 4 * len(uses)


def test_derived_device_keys_are_distinct() -> None:
    uses = itertools.product((KNOWN_KEY, bytes(32)), (KNOWN_TITLE, OTHER_TITLE), (0, 1, 2))
    assert len({derived_device_key(*use) for use in uses}) == 12


@pytest.mark.parametrize("derive", [uplink_key, downlink_key])
@pytest.mark.parametrize(
    ("key_octets", "title_octets", "epoch", "alg", "message"),
    [
        (31, 8, 1, 10, "32 octets, not 31"),
        (33, 8, 1, 10, "32 octets, not 33"),
        (0, 8, 1, 10, "32 octets, not 0"),
        (32, 7, 1, 10, "8 octets, not 7"),
        (32, 9, 1, 10, "8 octets, not 9"),
        (32, 8, -1, 10, "an epoch is 0 to 65,535"),
        (32, 8, 65_536, 10, "an epoch is 0 to 65,535"),
        (32, 8, 1, 3, "none of the AES-CCM algorithms"),
    ],
)
def test_wrong_lengths(derive, key_octets: int, title_octets: int, epoch: int, alg: int, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        derive(bytes(key_octets), bytes(title_octets), epoch, alg)


@pytest.mark.parametrize(("key_octets", "title_octets", "epoch"), [(16, 8, 1), (32, 7, 1), (32, 8, 65_536)])
def test_wrong_lengths_of_derived_device_keys(key_octets: int, title_octets: int, epoch: int) -> None:
    with pytest.raises(ValueError, match=r"octets, not|an epoch is"):
        derived_device_key(bytes(key_octets), bytes(title_octets), epoch)


TRAFFIC_KEY = uplink_key(KNOWN_KEY, KNOWN_TITLE, 1, 10)


@pytest.mark.parametrize("handle", [TRAFFIC_KEY, DirectionCipher(TRAFFIC_KEY, 10)], ids=["traffic key", "cipher"])
def test_handles_show_nothing(handle: TrafficKey | DirectionCipher) -> None:
    shown = f"{handle!r} {handle!s} {format(handle)} {[handle]}"
    for secret in (TRAFFIC_KEY.key, TRAFFIC_KEY.base_iv):
        assert secret.hex() not in shown
        assert str(secret) not in shown
        assert str(int.from_bytes(secret, "big")) not in shown
    assert not hasattr(handle, "__dict__")
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(TypeError, match="never pickled"):
            pickle.dumps(handle, protocol)
    for duplicate in (copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="never pickled"):
            duplicate(handle)


def test_traffic_keys_do_not_compare_by_octets() -> None:
    assert uplink_key(KNOWN_KEY, KNOWN_TITLE, 1, 10) != TRAFFIC_KEY
