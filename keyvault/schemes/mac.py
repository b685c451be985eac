"""Envelope ``mac``: COSE_Mac0 with HMAC-SHA-256, readable by whoever carries it (docs/schemes.md). Pure."""

from keyvault.cose.algorithms import HMAC, HMAC_256_64, HMAC_256_256
from keyvault.cose.forms import (
    ALG,
    COUNTER,
    KID,
    SHORT_ALGS,
    Form,
    bstr_head,
    fault,
    heads,
    long_tail,
    read_bstr,
    short_tail,
)
from keyvault.cose.kdf import uplink_secret, uplink_secret_info
from keyvault.cose.mac import MacKey, encode_mac0, mac_structure
from keyvault.cose.structures import Frame, MalformedError, encode_protected
from keyvault.schemes.lines import Derived, Envelope, OpenedKey

_HEADS = heads(b"\xd1\x84", SHORT_ALGS)
_FORM = Form("COSE_Mac0", 17, (18, 23), (ALG, KID, COUNTER), ("payload", "tag"))
_TAG_HEADS = {alg: bstr_head(one.tag_octets) for alg, one in HMAC.items()}
_AFTER_PAYLOAD = {alg: len(_TAG_HEADS[alg]) + one.tag_octets for alg, one in HMAC.items()}
# Of the heads of HMAC's algorithms what taking a frame apart needs, as plain tuples: each frame unpacks one.
_OF_HMAC = {
    start: (
        *(head.alg, head.kid_at, head.kid_end, head.counter_at, head.end, head.counter_head),
        *(_AFTER_PAYLOAD[head.alg], _TAG_HEADS[head.alg], HMAC[head.alg].tag_octets),
    )
    for start, head in _HEADS.items()
    if head.alg in HMAC
}
_HOP_TAG = b"\xd1\x84\x4f\xa2"  # COSE_Mac0 whose protected header has no counter: keyvault.schemes.hop_tag

_new_frame = tuple.__new__  # half the time of Frame(...)
_from_bytes = int.from_bytes


def parse_mac(octets: bytes) -> Frame:
    """Take a frame apart (RFC 9052 section 6.2); its ``ciphertext`` is the payload with the tag's byte string after it.

    Raises MalformedError for whatever is not the one valid encoding of a frame.
    """
    head = _OF_HMAC.get(octets[:8]) or _OF_HMAC.get(octets[:9])
    if head is not None:
        alg, kid_at, kid_end, counter_at, end, counter_head, after_payload, tag_head, tag_octets = head
        rest = len(octets) - after_payload - end
        tail = short_tail(rest) or long_tail(rest)
        start = end + len(tail)
        if (
            tail
            and octets[end:start] == tail
            and octets[-after_payload:-tag_octets] == tag_head
            and octets[kid_end:counter_at] == counter_head
            and (octets[counter_at] or end == counter_at + 1)
        ):
            counter = _from_bytes(octets[counter_at:end], "big")
            return _new_frame(Frame, (octets[kid_at:kid_end], alg, counter, octets[3:end], octets[start:]))
    return _parse_slowly(octets)


def payload_of(frame: Frame) -> bytes:
    """The payload of a frame of an algorithm of HMAC; nothing of it is authentic before its tag was verified."""
    return frame.ciphertext[: -_AFTER_PAYLOAD[frame.alg]]


def _parse_slowly(octets: bytes) -> Frame:
    """A frame of another algorithm than those of HMAC, which no key has; MalformedError for all others."""
    if octets.startswith(_HOP_TAG):
        raise MalformedError("it still wears a hop tag: the concentrator strips it before it posts the frame", 3)
    wrong = fault(octets, _FORM)
    if wrong is not None:
        raise MalformedError(*wrong)
    alg, _, kid_at, kid_end, counter_at, end, _, _ = _HEADS.get(octets[:8]) or _HEADS[octets[:9]]
    payload = read_bstr(octets, end + 1)
    tag = None if payload is None else read_bstr(octets, payload[1])
    if alg in HMAC and tag is not None and payload is not None:
        name, _, right, _ = HMAC[alg]
        raise MalformedError(f"the tag of {name} has {right} octets, not {tag[1] - tag[0]}", payload[1])
    counter = int.from_bytes(octets[counter_at:end], "big")
    return Frame(octets[kid_at:kid_end], alg, counter, octets[3:end], octets[end + 1 :])


class MacCipher:
    """Checks, and for a meter makes, the tags of one device key and epoch. Holds no printable key."""

    __slots__ = ("_after_payload", "_check", "_key", "_tag_octets")

    def __init__(self, device_key: bytes, system_title: bytes, epoch: int, alg: int) -> None:
        self._key = MacKey(uplink_secret(device_key, system_title, epoch, alg), alg)
        self._check = self._key.check
        self._tag_octets, self._after_payload = HMAC[alg].tag_octets, _AFTER_PAYLOAD[alg]

    def __reduce__(self) -> str:
        raise TypeError("a cipher holds key octets and is never pickled")

    def open_(self, frame: Frame) -> bytes:
        """The payload of a frame whose alg the caller has compared; TagInvalidError where the tag does not fit."""
        _, _, _, protected, said = frame
        payload = said[: -self._after_payload]
        self._check(protected, payload, said[-self._tag_octets :])
        return payload

    def seal(self, kid: bytes, counter: int, payload: bytes) -> bytes:
        """A frame under this key. The caller never repeats a ``counter`` (0..2^40-1) under one key."""
        protected = encode_protected(self._key.alg, kid, counter)
        return encode_mac0(protected, payload, self._key.tag(protected, payload))


def _cipher(key: OpenedKey) -> MacCipher:
    return MacCipher(key.octets, key.system_title, key.epoch, key.algorithm)


def _derived(key: OpenedKey, frame: Frame) -> list[Derived]:
    return [
        Derived("info of the key", uplink_secret_info(key.system_title, key.epoch, key.algorithm)),
        Derived("MAC_structure", mac_structure(frame.protected, payload_of(frame))),
    ]


MAC_ENVELOPE = Envelope(
    "mac",
    # The whole tag where none is named: it is all that protects such a reading. The short one saves 24 octets a frame.
    algorithms={alg: HMAC[alg] for alg in (HMAC_256_256, HMAC_256_64)},
    first_octets=(b"\xd1",),  # CBOR tag 17
    parse=parse_mac,
    cipher=_cipher,
    reference="RFC 9052 section 6.2, RFC 9053 section 3.1",
    derived=_derived,
)
