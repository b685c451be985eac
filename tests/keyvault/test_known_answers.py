"""The known answers of docs/frame.md, to the octet."""

import pytest

from keyvault.cose.kdf import derived_device_key, downlink_key, kdf_context, uplink_key
from keyvault.cose.sealing import DirectionCipher
from keyvault.cose.structures import enc_structure, encode_protected, make_kid, parse_frame
from meters.readings.senml import SenmlRecord, parse_pack
from tests.builders import KNOWN_COUNTER, KNOWN_KEY, KNOWN_TIME_S, KNOWN_TITLE, seal_frame, senml_payload

EPOCH_1 = b"\x00\x01"
PROTECTED = "a3010a044a0024befffe804ff10001064261a7"
PAYLOAD = "82a520181a221a6955b9000069312d303a312e382e3001625768021a0012d687a3006a312d303a312e32392e3001625768021870"
FRAME = (
    "d08353a3010a044a0024befffe804ff10001064261a7a0583c33b01f37ac067296dec5f05bb05220f5f30da19fc79562e6"
    "cc7a66c4c52b8f16a9982f44fc474b5587e8e51680fcde8d66f3479c0dab0eb15fdb9ad4"
)


@pytest.mark.parametrize(
    ("alg", "bits", "expected"),
    [
        (10, 128, "840a83480024befffe804ff1420001f68343484553f6f682188043a10129"),
        (
            "IV-GENERATION",
            104,
            "846d49562d47454e45524154494f4e83480024befffe804ff1420001f68343484553f6f682186843a10129",
        ),
    ],
)
def test_kdf_context(alg: int | str, bits: int, expected: str) -> None:
    assert kdf_context(alg, bits, (KNOWN_TITLE, EPOCH_1), (b"HES", None)).hex() == expected


def test_uplink_key() -> None:
    traffic_key = uplink_key(KNOWN_KEY, KNOWN_TITLE, 1, 10)
    assert traffic_key.key.hex() == "7b55711fdbc25b02b9e61aa3d60a8129"
    assert traffic_key.base_iv.hex() == "3d7d52f86c3977c6a2b89e6625"


def test_nonce_is_base_iv_xor_counter() -> None:
    cipher = DirectionCipher(uplink_key(KNOWN_KEY, KNOWN_TITLE, 1, 10), 10)
    assert cipher._nonce(KNOWN_COUNTER).hex() == "3d7d52f86c3977c6a2b89e0782"


def test_protected_header_and_aad() -> None:
    protected = encode_protected(10, make_kid(KNOWN_TITLE, 1), KNOWN_COUNTER)
    assert protected.hex() == PROTECTED
    assert enc_structure(protected).hex() == "8368456e63727970743053" + PROTECTED + "40"


def test_payload() -> None:
    assert senml_payload({"1-0:1.8.0": 1_234_567, "1-0:1.29.0": 112}).hex() == PAYLOAD
    assert parse_pack(bytes.fromhex(PAYLOAD)) == [
        SenmlRecord("1-0:1.8.0", "Wh", 1_234_567, KNOWN_TIME_S),
        SenmlRecord("1-0:1.29.0", "Wh", 112, KNOWN_TIME_S),
    ]


def test_frame() -> None:
    assert len(bytes.fromhex(FRAME)) == 85
    assert seal_frame(KNOWN_TITLE, 1, KNOWN_KEY, KNOWN_COUNTER, bytes.fromhex(PAYLOAD)).hex() == FRAME
    frame = parse_frame(bytes.fromhex(FRAME))
    assert frame[:4] == (make_kid(KNOWN_TITLE, 1), 10, KNOWN_COUNTER, bytes.fromhex(PROTECTED))
    cipher = DirectionCipher(uplink_key(KNOWN_KEY, KNOWN_TITLE, 1, 10), 10)
    assert cipher.open_(frame).hex() == PAYLOAD


@pytest.mark.parametrize(
    ("device_key", "epoch", "key", "base_iv"),
    [
        (KNOWN_KEY, 1, "17e9b6993665d5f42c8bf7323c8dc43f", "5da47a9a822ae76aeb71c5443d"),
        (bytes(range(32, 64)), 0, "de6017df95e4ff8dee23ac9c71626a84", "8de77ec51cf0e2d0935f666cbd"),
    ],
    ids=["downlink", "transfer"],
)
def test_downlink_keys(device_key: bytes, epoch: int, key: str, base_iv: str) -> None:
    traffic_key = downlink_key(device_key, KNOWN_TITLE, epoch, 30)
    assert (traffic_key.key.hex(), traffic_key.base_iv.hex()) == (key, base_iv)


def test_derived_device_key() -> None:
    expected = "4daf40da346e817a09712ea1ea990b6f530bb6c3fbcc421b524da424b6915806"
    assert derived_device_key(KNOWN_KEY, KNOWN_TITLE, 1).hex() == expected
