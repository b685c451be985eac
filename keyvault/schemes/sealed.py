"""Envelope ``sealed``: HPKE to the head-end's agreement key; opening a meter reveals no earlier frame.

See docs/schemes.md. Pure.
"""

import re

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from keyvault.cose.algorithms import HPKE, HPKE_PSK
from keyvault.cose.forms import KID, PARTIAL_IV, Form, bstr_head, heads, label, long_tail, short_tail, why_malformed
from keyvault.cose.hpke import ENC_OCTETS, PskParty, nonce_of, open_psk, seal_psk
from keyvault.cose.kdf import uplink_secret, uplink_secret_info
from keyvault.cose.structures import Frame, MalformedError, enc_structure, encode_bstr, encode_protected, make_kid
from keyvault.schemes.lines import Derived, Envelope, KeyLacksError, OpenedKey

_ALG = b"\x3a\x00\x01\x00\x00"  # -65537
_HEADS = heads(b"\xd0\x83", {_ALG: HPKE_PSK})
_ENC_HEAD = b"\xa1\x23\x58\x20"  # {-4: a byte string of 32
_FORM = Form(
    "COSE_Encrypt0",
    16,
    (22, 26),
    (label(1, "alg", re.escape(_ALG), "-65537 in shortest form (3a00010000)"), KID, PARTIAL_IV),
    ("ciphertext",),
    re.compile(rb"\xa1\x23\x58\x20.{32}", re.DOTALL),
    "a map of one, -4: the ephemeral public key of 32 octets (a1235820)",
)
_INFO_HEAD = b"\x82\x72ami-headend sealed"

_new_frame = tuple.__new__  # half the time of Frame(...)


def parse_sealed(octets: bytes) -> Frame:
    """Take a frame apart; its ``ciphertext`` has the ephemeral public key (32 octets) before it.

    Raises MalformedError for whatever is not the one valid encoding of a frame.
    """
    head = _HEADS.get(octets[:12]) or _HEADS.get(octets[:13])
    if head is not None:
        alg, protected_at, kid_at, kid_end, counter_at, end, _, counter_head = head
        enc_at = end + len(_ENC_HEAD)
        enc_end = enc_at + ENC_OCTETS
        rest = len(octets) - enc_end + 1
        tail = (short_tail(rest) or long_tail(rest))[1:]
        start = enc_end + len(tail)
        if (
            tail
            and octets[end:enc_at] == _ENC_HEAD
            and octets[enc_end:start] == tail
            and octets[kid_end:counter_at] == counter_head
            and (octets[counter_at] or end == counter_at + 1)
        ):
            counter = int.from_bytes(octets[counter_at:end], "big")
            said = octets[enc_at:enc_end] + octets[start:]
            return _new_frame(Frame, (octets[kid_at:kid_end], alg, counter, octets[protected_at:end], said))
    raise MalformedError(*why_malformed(octets, _FORM))


def _info(protected: bytes) -> bytes:
    """What a message is for: ["ami-headend sealed", protected]."""
    return _INFO_HEAD + encode_bstr(protected)


def _party(device_key: bytes, system_title: bytes, epoch: int, recipient: bytes) -> PskParty:
    psk = uplink_secret(device_key, system_title, epoch, HPKE_PSK)
    return PskParty(psk, make_kid(system_title, epoch), recipient)


class SealedCipher:
    """Opens the frames of one device key and epoch with the head-end's private key. Holds no printable key."""

    __slots__ = ("_party", "_private")

    def __init__(self, device_key: bytes, system_title: bytes, epoch: int, private: X25519PrivateKey) -> None:
        self._private = private
        self._party = _party(device_key, system_title, epoch, private.public_key().public_bytes_raw())

    def __reduce__(self) -> str:
        raise TypeError("a cipher holds key octets and is never pickled")

    def nonce(self, frame: Frame) -> bytes | None:
        """The nonce of a frame (12 octets); None where its ephemeral key is of small order."""
        return nonce_of(self._party, self._private, frame.ciphertext[:ENC_OCTETS], _info(frame.protected))

    def open_(self, frame: Frame) -> bytes:
        """Return the plaintext of a frame; TagInvalidError, which does not say why."""
        _, _, _, protected, said = frame
        enc, ciphertext = said[:ENC_OCTETS], said[ENC_OCTETS:]
        return open_psk(self._party, self._private, enc, ciphertext, _info(protected), enc_structure(protected))


class SealedSealer:
    """Seals as the meter does, to the head-end's public key (32 octets)."""

    def __init__(self, device_key: bytes, system_title: bytes, epoch: int, head_end: bytes) -> None:
        self._kid = make_kid(system_title, epoch)
        self._head_end = X25519PublicKey.from_public_bytes(head_end)
        self._party = _party(device_key, system_title, epoch, head_end)

    def seal(self, counter: int, payload: bytes, ephemeral: X25519PrivateKey | None = None) -> bytes:
        """A frame under a ``counter`` (0..2^40-1) that the caller never repeats; the ephemeral key is a new one."""
        protected = encode_protected(HPKE_PSK, self._kid, counter)
        enc, ciphertext = seal_psk(
            self._party,
            self._head_end,
            ephemeral or X25519PrivateKey.generate(),
            payload,
            _info(protected),
            enc_structure(protected),
        )
        return b"\xd0\x83" + encode_bstr(protected) + _ENC_HEAD + enc + encode_bstr(ciphertext)


def _cipher(key: OpenedKey) -> SealedCipher:
    if key.agreement_private is None:
        raise KeyLacksError("no agreement key stands beside it, which its envelope needs")
    return SealedCipher(key.octets, key.system_title, key.epoch, key.agreement_private)


def _derived(key: OpenedKey, frame: Frame) -> list[Derived]:
    nonce = _cipher(key).nonce(frame)
    return [
        Derived("info of the psk", uplink_secret_info(key.system_title, key.epoch, HPKE_PSK)),
        Derived("psk_id", make_kid(key.system_title, key.epoch)),
        Derived("info of HPKE", _info(frame.protected)),
        *([] if nonce is None else [Derived("nonce", nonce)]),
        Derived("AAD", enc_structure(frame.protected)),
    ]


SEALED_ENVELOPE = Envelope(
    "sealed",
    algorithms=HPKE,
    # By the length of the protected header (22 to 26 octets), up to the head of alg where ``ccm`` begins alike.
    first_octets=(
        b"\xd0\x83\x56\xa3\x01\x3a",
        b"\xd0\x83\x57\xa3\x01\x3a",
        *(b"\xd0\x83" + bstr_head(length) for length in (24, 25, 26)),
    ),
    parse=parse_sealed,
    cipher=_cipher,
    reference="RFC 9180 section 5.1.2",
    is_to_agreement_key=True,
    derived=_derived,
)
