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
from keyvault.cose.kdf import uplink_secret
from keyvault.cose.mac import MacKey, encode_mac0
from keyvault.cose.structures import Frame, MalformedError, encode_protected
from keyvault.schemes.lines import Envelope, OpenedKey

_HEADS = heads(b"\xd1\x84", SHORT_ALGS)
_FORM = Form("COSE_Mac0", 17, (18, 23), (ALG, KID, COUNTER), ("payload", "tag"))
_TAG_HEADS = {alg: (bstr_head(one.tag_octets), one.tag_octets) for alg, one in HMAC.items()}
_UNKNOWN = b"", 0
_HOP_TAG = b"\xd1\x84\x4f\xa2"  # COSE_Mac0 whose protected header has no counter: keyvault.schemes.hop_tag


def parse_mac(octets: bytes) -> Frame:
    """Take a frame apart (RFC 9052 section 6.2); its ``ciphertext`` is the payload with the tag after it.

    Raises MalformedError for whatever is not the one valid encoding of a frame.
    """
    head = _HEADS.get(octets[:8]) or _HEADS.get(octets[:9])
    if head is not None:
        alg, _, kid_at, kid_end, counter_at, end, _, counter_head = head
        tag_head, tag_octets = _TAG_HEADS.get(alg, _UNKNOWN)
        tag_at = len(octets) - tag_octets
        payload_end = tag_at - len(tag_head)
        tail = short_tail(payload_end - end) or long_tail(payload_end - end)
        start = end + len(tail)
        if (
            tag_octets
            and tail
            and octets[end:start] == tail
            and octets[payload_end:tag_at] == tag_head
            and octets[kid_end:counter_at] == counter_head
            and (octets[counter_at] or end == counter_at + 1)
        ):
            counter = int.from_bytes(octets[counter_at:end], "big")
            said = octets[start:payload_end] + octets[tag_at:]
            return Frame(octets[kid_at:kid_end], alg, counter, octets[3:end], said)
    return _parse_slowly(octets)


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

    __slots__ = ("_key", "_tag_octets")

    def __init__(self, device_key: bytes, system_title: bytes, epoch: int, alg: int) -> None:
        self._key = MacKey(uplink_secret(device_key, system_title, epoch, alg), alg)
        self._tag_octets = HMAC[alg].tag_octets

    def __reduce__(self) -> str:
        raise TypeError("a cipher holds key octets and is never pickled")

    def open_(self, frame: Frame) -> bytes:
        """The payload of a frame whose alg the caller has compared; TagInvalidError where the tag does not fit."""
        said = frame.ciphertext
        payload = said[: -self._tag_octets]
        self._key.check(frame.protected, payload, said[-self._tag_octets :])
        return payload

    def seal(self, kid: bytes, counter: int, payload: bytes) -> bytes:
        """A frame under this key. The caller never repeats a ``counter`` (0..2^40-1) under one key."""
        protected = encode_protected(self._key.alg, kid, counter)
        return encode_mac0(protected, payload, self._key.tag(protected, payload))


def _cipher(key: OpenedKey) -> MacCipher:
    return MacCipher(key.octets, key.system_title, key.epoch, key.algorithm)


MAC_ENVELOPE = Envelope(
    "mac",
    # The whole tag where none is named: it is all that protects such a reading. The short one saves 24 octets a frame.
    algorithms={alg: HMAC[alg] for alg in (HMAC_256_256, HMAC_256_64)},
    first_octets=(b"\xd1",),  # CBOR tag 17
    parse=parse_mac,
    cipher=_cipher,
    reference="RFC 9052 section 6.2, RFC 9053 section 3.1",
)
