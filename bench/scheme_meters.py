"""What meters of the schemes beside ccm need to seal. Pure: processes that seal get it pickled, and have no Django."""

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from bench.fleet import ALG, EPOCH, PackMeter
from keyvault.cose.algorithms import HMAC_256_256
from keyvault.cose.kdf import uplink_key
from keyvault.cose.sealing import DirectionCipher
from keyvault.cose.structures import make_kid
from keyvault.schemes.dlms.gcm import GcmCipher
from keyvault.schemes.mac import MacCipher
from keyvault.schemes.sealed import SealedSealer
from keyvault.schemes.session import SessionSealer, kid_context

# What a notification of DLMS says: OBIS code, scaler and unit (IEC 62056-6-2) of ten registers.
_SAID = (
    ("0100010800ff", 0, 30), ("0100020800ff", 0, 30), ("0100030800ff", 0, 32), ("0100040800ff", 0, 32),
    ("0100010700ff", 0, 27), ("0100020700ff", 0, 27), ("0100200700ff", -1, 35), ("0100340700ff", -1, 35),
    ("0100480700ff", -1, 35), ("01001f0700ff", -2, 33),
)  # fmt: skip
SECURITY_CONTROL = 0x30
_NAME_PREFIX = "urn:dev:mac:"


@dataclass(frozen=True)
class SessionMeter(PackMeter):
    """A meter whose first session goes on all the time."""

    title: bytes
    key: bytes = field(repr=False)

    def sealer(self) -> Callable[[int, bytes], bytes]:
        return SessionSealer(self.key, self.title, EPOCH, ALG, kid_context(1, self.title)).seal_as


@dataclass(frozen=True)
class MacMeter(PackMeter):
    """A meter that sends in clear."""

    title: bytes
    key: bytes = field(repr=False)

    def sealer(self) -> Callable[[int, bytes], bytes]:
        cipher, kid = MacCipher(self.key, self.title, EPOCH, HMAC_256_256), make_kid(self.title, EPOCH)
        return lambda n, payload: cipher.seal(kid, n, payload)


@dataclass(frozen=True)
class SealedMeter(PackMeter):
    """A meter that seals to the head-end's public key (32 octets)."""

    title: bytes
    key: bytes = field(repr=False)
    head_end: bytes

    def sealer(self) -> Callable[[int, bytes], bytes]:
        return SealedSealer(self.key, self.title, EPOCH, self.head_end).seal


@dataclass(frozen=True)
class ReportedMeter(PackMeter):
    """A meter whose concentrator reports for it, under the concentrator's key; the ``place`` of ``meters`` that do."""

    title: bytes
    reporter: bytes
    key: bytes = field(repr=False)
    place: int
    meters: int

    @property
    def base_name(self) -> str:
        return f"{_NAME_PREFIX}{self.title.hex()}:"

    def sealer(self) -> Callable[[int, bytes], bytes]:
        cipher = DirectionCipher(uplink_key(self.key, self.reporter, EPOCH, ALG), ALG)
        kid = make_kid(self.reporter, EPOCH)
        return lambda n, payload: cipher.seal(kid, n * self.meters + self.place, payload)


@dataclass(frozen=True)
class DlmsMeter:
    """A meter that pushes notifications of ten values, each with its code, scaler and unit, under GUEK || GAK."""

    title: bytes
    keys: bytes = field(repr=False)

    readings = len(_SAID)

    def payload(self, at_s: int, total: int, energy_wh: int) -> bytes:
        numbers = (total, total // 3, total // 5, total // 7, 2 * energy_wh, 0, 2301, 2310, 2299, energy_wh)
        body = b"".join(
            b"\x09\x06" + bytes.fromhex(obis) + b"\x06" + struct.pack(">I", number) + b"\x02\x02\x0f"
            + struct.pack(">b", scaler) + bytes((0x16, unit))
            for (obis, scaler, unit), number in zip(_SAID, numbers, strict=True)
        )  # fmt: skip
        at = datetime.fromtimestamp(at_s, UTC)
        clock = struct.pack(">HBBBBBBBhB", at.year, at.month, at.day, 0xFF, at.hour, at.minute, at.second, 0, 0, 0)
        return b"\x0f\x00" + struct.pack(">I", at_s)[1:] + b"\x0c" + clock + bytes((2, 3 * len(_SAID))) + body

    def sealer(self) -> Callable[[int, bytes], bytes]:
        cipher = GcmCipher(self.keys, SECURITY_CONTROL)

        def seal(n: int, payload: bytes) -> bytes:
            said = cipher.seal(self.title, n, payload)
            return b"\xdb\x08" + self.title + b"\x82" + len(said).to_bytes(2, "big") + said

        return seal
