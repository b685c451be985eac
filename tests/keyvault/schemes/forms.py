"""One sealed frame of each envelope with what opens it, under the key of docs/frame.md; for tests of all of them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from keyvault.cose.structures import Frame
from keyvault.schemes.lines import Cipher, OpenedKey
from keyvault.schemes.mac import MacCipher
from keyvault.schemes.sealed import SealedSealer
from keyvault.schemes.session import SessionSealer
from keyvault.schemes.table import ENVELOPES
from tests.builders import KNOWN_KEY, KNOWN_TITLE, seal_frame

KID = KNOWN_TITLE + b"\x00\x01"
CONTEXT = bytes.fromhex("6955b900a0a1a2a3a4a5a6a7")
HEAD_END = X25519PrivateKey.from_private_bytes(bytes(range(0x80, 0xA0)))
HEAD_END_PUBLIC = HEAD_END.public_key().public_bytes_raw()
EPHEMERAL = X25519PrivateKey.from_private_bytes(bytes(range(0xC0, 0xE0)))
PAYLOAD = bytes.fromhex(
    "82a520181a221a6955b9000069312d303a312e382e3001625768021a0012d687a3006a312d303a312e32392e3001625768021870"
)


@dataclass(frozen=True)
class Sample:
    """How a meter seals a counter and a payload in an envelope, under one algorithm."""

    envelope: str
    alg: int
    seal: Callable[[int, bytes], bytes]

    def parse(self, octets: bytes) -> Frame:
        return ENVELOPES[self.envelope].parse(octets)

    @cached_property
    def kid(self) -> bytes:
        return self.parse(self.seal(1, b"")).kid

    @cached_property
    def cipher(self) -> Cipher:
        key = OpenedKey(KNOWN_KEY, KNOWN_TITLE, 1, self.alg, HEAD_END)
        key.kid_context = CONTEXT
        return ENVELOPES[self.envelope].cipher(key)


def _ccm(alg: int) -> Sample:
    return Sample("ccm", alg, lambda counter, payload: seal_frame(KNOWN_TITLE, 1, KNOWN_KEY, counter, payload, alg))


def _session(alg: int) -> Sample:
    return Sample("session", alg, SessionSealer(KNOWN_KEY, KNOWN_TITLE, 1, alg, CONTEXT).seal_as)


def _mac(alg: int) -> Sample:
    cipher = MacCipher(KNOWN_KEY, KNOWN_TITLE, 1, alg)
    return Sample("mac", alg, lambda counter, payload: cipher.seal(KID, counter, payload))


def _sealed() -> Sample:
    sealer = SealedSealer(KNOWN_KEY, KNOWN_TITLE, 1, HEAD_END_PUBLIC)
    return Sample("sealed", -65537, lambda counter, payload: sealer.seal(counter, payload, EPHEMERAL))


SAMPLES = {
    "ccm 10": _ccm(10),
    "ccm 11": _ccm(11),
    "session 10": _session(10),
    "session 11": _session(11),
    "mac 4": _mac(4),
    "mac 5": _mac(5),
    "sealed": _sealed(),
}
