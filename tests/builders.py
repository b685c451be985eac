"""Frames and payloads for tests, in octets: right ones, and the pieces to build wrong ones."""

from typing import Any

import cbor2

from keyvault.cose.kdf import uplink_key
from keyvault.cose.sealing import DirectionCipher
from keyvault.cose.structures import make_kid

KNOWN_TITLE = bytes.fromhex("0024befffe804ff1")
KNOWN_KEY = bytes(range(32))
KNOWN_COUNTER = 0x61A7
KNOWN_TIME_S = 1_767_225_600


def seal_frame(system_title: bytes, epoch: int, key: bytes, counter: int, payload: bytes, alg: int = 10) -> bytes:
    """A valid uplink frame of a meter with that device key (32 octets)."""
    return DirectionCipher(uplink_key(key, system_title, epoch, alg), alg).seal(
        make_kid(system_title, epoch), counter, payload
    )


def head(major: int, value: int, octets: int = 0) -> bytes:
    """The head of a CBOR item; ``octets`` (1, 2, 4, 8) forces a longer form than the shortest."""
    if not octets:
        octets = next(
            size for size, end in ((0, 24), (1, 1 << 8), (2, 1 << 16), (4, 1 << 32), (8, 1 << 64)) if value < end
        )
    if not octets:
        return bytes(((major << 5) + value,))
    return bytes(((major << 5) + {1: 24, 2: 25, 4: 26, 8: 27}[octets],)) + value.to_bytes(octets, "big")


def bstr(octets: bytes, length_octets: int = 0) -> bytes:
    return head(2, len(octets), length_octets) + octets


def raw_protected(
    alg: bytes = b"\x0a", kid: bytes = bstr(KNOWN_TITLE + b"\x00\x01"), partial_iv: bytes = b"\x42\x61\xa7"
) -> bytes:
    """A protected header from encoded values."""
    return b"\xa3\x01" + alg + b"\x04" + kid + b"\x06" + partial_iv


def raw_frame(
    protected: bytes | None = None,
    unprotected: bytes = b"\xa0",
    ciphertext: bytes = b"\x49123456789",
    start: bytes = b"\xd0\x83",
) -> bytes:
    """A frame from raw pieces: ``protected`` without its head, the others with."""
    return start + bstr(raw_protected() if protected is None else protected) + unprotected + ciphertext


def pack(*records: dict[Any, Any]) -> bytes:
    """A SenML pack of those records, labels as integers."""
    return cbor2.dumps(list(records))


def senml_payload(values: dict[str, int], time_s: int = KNOWN_TIME_S, unit: str = "Wh") -> bytes:
    """What a meter sends: values by OBIS code at one time, version and base time in the first record."""
    records: list[dict[int, Any]] = [{0: obis_code, 1: unit, 2: value} for obis_code, value in values.items()]
    records[0] = {-1: 26, -3: time_s, **records[0]}
    return pack(*records)
