"""What the vectors are made of: the keys and titles of docs/frame.md, and how a vector is written down."""

from collections.abc import Iterator
from typing import Any

import cbor2

from keyvault.cose.kdf import downlink_key, uplink_key
from keyvault.cose.sealing import DirectionCipher
from keyvault.cose.structures import make_kid
from meters.readings.obis import LOAD_PROFILE

TITLE = bytes.fromhex("0024befffe804ff1")
CONCENTRATOR = bytes.fromhex("0024befffe00c001")
DEVICE_KEY, TRANSFER_KEY, NEW_KEY = bytes(range(0x20)), bytes(range(0x20, 0x40)), bytes(range(0x40, 0x60))
METER_PRIVATE, HEAD_END_PRIVATE = bytes(range(0x60, 0x80)), bytes(range(0x80, 0xA0))
CONCENTRATOR_KEY = bytes(range(0x90, 0xB0))
TIME_S = 1_767_225_600  # 2026-01-01 00:00 UTC
RECEIVED_S = TIME_S + 3600
COUNTER = 0x61A7
PAYLOAD = bytes.fromhex(
    "82a520181a221a6955b9000069312d303a312e382e3001625768021a0012d687a3006a312d303a312e32392e3001625768021870"
)

Vector = dict[str, Any]
Vectors = Iterator[Vector]


def written(vector: Vector) -> Vector:
    """A vector with its octets in hexadecimal, and without what is not said."""
    return {name: _written(value) for name, value in vector.items() if value is not None}


def _written(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return written(value)
    if isinstance(value, list | tuple):
        return [_written(one) for one in value]
    return value


def ccm(counter: int, payload: bytes, *, epoch: int = 1, alg: int = 10, key: bytes = DEVICE_KEY) -> bytes:
    """A frame of docs/frame.md."""
    cipher = DirectionCipher(uplink_key(key, TITLE, epoch, alg), alg)
    return cipher.seal(make_kid(TITLE, epoch), counter, payload)


def command(
    counter: int,
    plaintext: bytes,
    *,
    epoch: int = 1,
    alg: int = 30,
    key: bytes | None = None,
    kid: bytes | None = None,
) -> bytes:
    """A command; under the transfer key where the epoch is 0 and no key is given."""
    key = key or (DEVICE_KEY if epoch else TRANSFER_KEY)
    cipher = DirectionCipher(downlink_key(key, TITLE, epoch, alg), alg)
    return cipher.seal(kid or make_kid(TITLE, epoch), counter, plaintext)


def event(register: str, code: int, at_s: int) -> bytes:
    """The pack of one event."""
    return cbor2.dumps([{0: register, 1: "count", 2: code, 6: at_s}])


def energy(wh: int, start_s: int = TIME_S, register: str = LOAD_PROFILE) -> bytes:
    """The pack of one interval."""
    return cbor2.dumps([{-1: 26, -3: start_s, 0: register, 1: "Wh", 2: wh}])
