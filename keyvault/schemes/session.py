"""Envelope ``session``: as ``ccm``, with keys for each time that the meter booted (docs/schemes.md). Pure."""

from keyvault.cose.algorithms import AES_CCM_16_64_128, AES_CCM_16_64_256, CCM
from keyvault.cose.forms import (
    ALG,
    KID,
    PARTIAL_IV,
    SHORT_ALGS,
    Form,
    heads,
    label,
    long_tail,
    short_tail,
    why_malformed,
)
from keyvault.cose.kdf import uplink_key
from keyvault.cose.sealing import DirectionCipher
from keyvault.cose.structures import Frame, MalformedError, encode_protected, make_kid
from keyvault.schemes import ccm
from keyvault.schemes.lines import Derived, Envelope, OpenedKey

CONTEXT_OCTETS = 12
OPENED_AT_OCTETS = 4
_CONTEXT_HEAD = b"\x0a\x4c"  # label 10, a byte string of 12
# Of a head what taking a frame apart needs, as plain tuples: each frame unpacks one.
_HEADS = {
    start: (
        *(head.alg, head.protected_at, head.kid_at, head.kid_end, head.counter_at, head.counter_end),
        *(head.counter_end + len(_CONTEXT_HEAD), head.end, head.counter_head),
    )
    for start, head in heads(b"\xd0\x83", SHORT_ALGS, more=len(_CONTEXT_HEAD) + CONTEXT_OCTETS).items()
}
_CONTEXT = label(10, "kid context", rb"\x4c.{12}", "a byte string of 12 octets (0x4c)")
_FORM = Form("COSE_Encrypt0", 16, (32, 37), (ALG, KID, PARTIAL_IV, _CONTEXT), ("ciphertext",))

_new_frame = tuple.__new__  # half the time of Frame(...)
_from_bytes = int.from_bytes


def parse_session(octets: bytes) -> Frame:
    """Take a frame apart (RFC 8613 appendix B.2 for label 10); its ``kid`` has the kid context after title and epoch.

    Raises MalformedError for whatever is not the one valid encoding of a frame.
    """
    head = _HEADS.get(octets[:9]) or _HEADS.get(octets[:10])
    if head is not None:
        alg, protected_at, kid_at, kid_end, counter_at, counter_end, context_at, end, counter_head = head
        rest = len(octets) - end
        tail = short_tail(rest) or long_tail(rest)
        start = end + len(tail)
        if (
            tail
            and octets[end:start] == tail
            and octets[kid_end:counter_at] == counter_head
            and octets[counter_end:context_at] == _CONTEXT_HEAD
            and (octets[counter_at] or counter_end == counter_at + 1)
        ):
            kid = octets[kid_at:kid_end] + octets[context_at:end]
            counter = _from_bytes(octets[counter_at:counter_end], "big")
            return _new_frame(Frame, (kid, alg, counter, octets[protected_at:end], octets[start:]))
    raise MalformedError(*why_malformed(octets, _FORM))


def kid_context(opened_at_s: int, unique: bytes) -> bytes:
    """The kid context of a session that begins at a Unix second.

    ``unique`` are 8 octets that never come again under one device key: from a hardware random source, or a boot count
    in non-volatile memory (4 octets, big endian) and 4 random ones.
    """
    if len(unique) != CONTEXT_OCTETS - OPENED_AT_OCTETS:
        raise ValueError(f"a session is named by 8 octets beside its time, not {len(unique)}")
    return opened_at_s.to_bytes(OPENED_AT_OCTETS, "big") + unique


def opened_at(context: bytes) -> int:
    """The Unix second at which a session began, by its kid context."""
    return int.from_bytes(context[:OPENED_AT_OCTETS], "big")


def session_cipher(device_key: bytes, system_title: bytes, epoch: int, alg: int, context: bytes) -> DirectionCipher:
    """What seals and opens the frames of one session; the kid context (12 octets) is the salt of its keys."""
    return DirectionCipher(uplink_key(device_key, system_title, epoch, alg, context), alg)


class SessionSealer:
    """One session as the meter has it: its counters go up from 0, in volatile memory."""

    def __init__(self, device_key: bytes, system_title: bytes, epoch: int, alg: int, context: bytes) -> None:
        self._cipher = session_cipher(device_key, system_title, epoch, alg, context)
        self._kid = make_kid(system_title, epoch)
        self.context = context
        self.counter = 0

    def seal(self, payload: bytes) -> bytes:
        """A frame under the next counter."""
        counter = self.counter
        self.counter += 1
        return self.seal_as(counter, payload)

    def seal_as(self, counter: int, payload: bytes) -> bytes:
        """A frame under a counter, which the caller never repeats."""
        protected = b"\xa4" + encode_protected(self._cipher.alg, self._kid, counter)[1:] + _CONTEXT_HEAD + self.context
        return self._cipher.seal_under(protected, counter, payload)


def _cipher(key: OpenedKey) -> DirectionCipher:
    return session_cipher(key.octets, key.system_title, key.epoch, key.algorithm, key.kid_context)


def _derived(key: OpenedKey, frame: Frame) -> list[Derived]:
    return [Derived("salt", key.kid_context), *ccm.derived(_cipher(key), key, frame)]


SESSION_ENVELOPE = Envelope(
    "session",
    algorithms={alg: CCM[alg] for alg in (AES_CCM_16_64_128, AES_CCM_16_64_256)},
    first_octets=(b"\xd0\x83\x58",),  # a protected header of more than 23 octets
    parse=parse_session,
    cipher=_cipher,
    reference="RFC 8613 appendix B.2, RFC 9052 section 5.2",
    derived=_derived,
)
