"""Two toy envelopes and a toy content, added to the tables in the way of any new member: a module and its lines.

They protect nothing that anybody needs; they show that whoever opens, counts, judges and stores knows no member.
"""

import hmac
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from hashlib import sha256

from keyvault.cose.algorithms import Algorithm
from keyvault.cose.sealing import TagInvalidError
from keyvault.cose.structures import Frame, MalformedError
from keyvault.schemes.lines import Envelope, OpenedKey, Scheme
from keyvault.schemes.table import ENVELOPES, SCHEMES
from meters.contents.lines import Catalogue, Content
from meters.contents.table import CONTENTS
from meters.registry.interval_lengths import Lengths
from meters.values import PayloadError, PayloadRefusal, PayloadTimes, Value
from tests.concentrators.fleet import HALF_HOUR_S, INTERVAL, START_S, Device

ALG, OTHER_ALG = 10, 11  # the numbers of ccm: that alone must not tell the envelopes apart
OWN_ALG = 9
TAG_OCTETS = 8
# Both begin like no other frame: the first as COSE_Encrypt0 does, but for its protected header; the second otherwise.
NAMED_BY_KID, NAMED_BY_TITLE = b"\xd0\x83\x59", b"\xf0"
_SAID = struct.Struct(">3sII")


class _Mac:
    """HMAC-SHA-256 under the device key over what stands before the tag."""

    def __init__(self, device_key: bytes) -> None:
        self._key = device_key

    def tag(self, octets: bytes) -> bytes:
        return hmac.digest(self._key, octets, sha256)[:TAG_OCTETS]

    def open_(self, frame: Frame) -> bytes:
        payload, tag = frame.ciphertext[:-TAG_OCTETS], frame.ciphertext[-TAG_OCTETS:]
        if not hmac.compare_digest(tag, self.tag(frame.protected + payload)):
            raise TagInvalidError
        return payload


def _form(start: bytes, name_octets: int) -> Envelope:
    """An envelope of frames ``start`` || name of the key || alg (1) || counter (5) || payload || tag (8)."""

    def parse(octets: bytes) -> Frame:
        alg_at = len(start) + name_octets
        if len(octets) < alg_at + 6 + TAG_OCTETS:
            raise MalformedError("too short for a toy", len(octets))
        counter = int.from_bytes(octets[alg_at + 1 : alg_at + 6], "big")
        return Frame(octets[len(start) : alg_at], octets[alg_at], counter, octets[: alg_at + 6], octets[alg_at + 6 :])

    def cipher(key: OpenedKey) -> _Mac:
        return _Mac(key.octets)

    name = "toy" if name_octets == 10 else "toy title"
    sizes = {alg: Algorithm(f"toy {alg}", 32, TAG_OCTETS, 0) for alg in (ALG, OTHER_ALG, OWN_ALG)}
    return Envelope(name, sizes, (start,), parse, cipher, reference="RFC 2104")


BY_KID, BY_TITLE = _form(NAMED_BY_KID, 10), _form(NAMED_BY_TITLE, 8)


class ToyReader:
    """Reads "toy", a time and the energy of an interval, each in four octets."""

    def __init__(self, registers: Catalogue) -> None:
        self._registers = registers

    def read(
        self,
        payload: bytes,
        system_title: bytes,
        interval_minutes: int,
        period: PayloadTimes,
        lengths: Lengths | None = None,
        serial_number: str | None = None,
    ) -> list[Value]:
        if len(payload) != _SAID.size or not payload.startswith(b"toy"):
            raise PayloadError(PayloadRefusal.ALGORITHM_MISMATCH, "no toy")
        _, time_s, steps = _SAID.unpack(payload)
        register = self._registers.get(INTERVAL)
        assert register is not None
        return [Value(time_s, register.id, steps, interval_minutes, is_event=False)]


def toy_payload(interval: int, wh: int = 100) -> bytes:
    """What ToyReader reads: the energy of the interval with that number after START."""
    return _SAID.pack(b"toy", START_S + interval * HALF_HOUR_S, wh)


SOURCES = frozenset({"stored", "derived"})


@contextmanager
def toys() -> Iterator[None]:
    """The toys stand in the tables: ``toy`` and ``toy title`` with plain content, ``ccm + toy`` with its own."""
    with ExitStack() as stack:
        for number, envelope in ((101, BY_KID), (102, BY_TITLE)):
            stack.enter_context(ENVELOPES.including(envelope))
            stack.enter_context(SCHEMES.including(Scheme(envelope.name, number, envelope.name, "plain", SOURCES)))
        stack.enter_context(CONTENTS.including(Content("toy", ToyReader, reference="none")))
        stack.enter_context(SCHEMES.including(Scheme("ccm + toy", 103, "ccm", "toy", SOURCES)))
        yield


@dataclass
class ToyDevice(Device):
    """A meter that seals in a toy envelope."""

    alg: int = ALG
    envelope: Envelope = BY_KID

    def seal(self, payload: bytes, counter: int | None = None) -> bytes:
        start = self.envelope.first_octets[0]
        name = self.kid if self.envelope is BY_KID else self.title
        number = next(self.counters) if counter is None else counter
        before = start + name + bytes((self.alg,)) + number.to_bytes(5, "big")
        return before + payload + _Mac(self.key).tag(before + payload)
