"""What meters of the schemes beside ccm need to seal. Pure: processes that seal get it pickled, and have no Django."""

from collections.abc import Callable
from dataclasses import dataclass, field

from bench.fleet import ALG, EPOCH
from keyvault.cose.algorithms import HMAC_256_256
from keyvault.cose.kdf import uplink_key
from keyvault.cose.sealing import DirectionCipher
from keyvault.cose.structures import make_kid
from keyvault.schemes.mac import MacCipher
from keyvault.schemes.sealed import SealedSealer
from keyvault.schemes.session import SessionSealer, kid_context

_NAME_PREFIX = "urn:dev:mac:"


@dataclass(frozen=True)
class SessionMeter:
    """A meter whose first session goes on all the time."""

    title: bytes
    key: bytes = field(repr=False)

    base_name = ""

    def sealer(self) -> Callable[[int, bytes], bytes]:
        return SessionSealer(self.key, self.title, EPOCH, ALG, kid_context(1, self.title)).seal_as


@dataclass(frozen=True)
class MacMeter:
    """A meter that sends in clear."""

    title: bytes
    key: bytes = field(repr=False)

    base_name = ""

    def sealer(self) -> Callable[[int, bytes], bytes]:
        cipher, kid = MacCipher(self.key, self.title, EPOCH, HMAC_256_256), make_kid(self.title, EPOCH)
        return lambda n, payload: cipher.seal(kid, n, payload)


@dataclass(frozen=True)
class SealedMeter:
    """A meter that seals to the head-end's public key (32 octets)."""

    title: bytes
    key: bytes = field(repr=False)
    head_end: bytes

    base_name = ""

    def sealer(self) -> Callable[[int, bytes], bytes]:
        return SealedSealer(self.key, self.title, EPOCH, self.head_end).seal


@dataclass(frozen=True)
class ReportedMeter:
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
