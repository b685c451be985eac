"""Envelope ``ccm``: COSE_Encrypt0 with AES-CCM, the counter as Partial IV (docs/frame.md). Pure."""

from keyvault.cose.algorithms import AES_CCM_16_64_128, AES_CCM_16_64_256, CCM
from keyvault.cose.kdf import uplink_infos, uplink_key
from keyvault.cose.sealing import DirectionCipher
from keyvault.cose.structures import Frame, parse_frame
from keyvault.schemes.lines import Derived, Envelope, OpenedKey


def derived(cipher: DirectionCipher, key: OpenedKey, frame: Frame) -> list[Derived]:
    """What a frame of AES-CCM is computed from: the info strings of its keys, its nonce and its AAD."""
    return inputs(cipher, key.system_title, key.epoch, frame)


def inputs(
    cipher: DirectionCipher, system_title: bytes, epoch: int, frame: Frame, external_aad: bytes = b""
) -> list[Derived]:
    """The same of the key of an epoch of a system title (8 octets), for a frame that is bound to octets beside it."""
    return told(uplink_infos(system_title, epoch, cipher.alg), cipher.inputs(frame, external_aad))


def told(infos: tuple[bytes, bytes], inputs: tuple[bytes, bytes]) -> list[Derived]:
    """The info strings of key and Base IV, and nonce and AAD, by their names."""
    (key_info, iv_info), (nonce, aad) = infos, inputs
    return [
        Derived("info of the key", key_info),
        Derived("info of the Base IV", iv_info),
        Derived("nonce", nonce),
        Derived("AAD", aad),
    ]


def _derived(key: OpenedKey, frame: Frame) -> list[Derived]:
    return derived(_cipher(key), key, frame)


def _cipher(key: OpenedKey) -> DirectionCipher:
    return DirectionCipher(uplink_key(key.octets, key.system_title, key.epoch, key.algorithm), key.algorithm)


CCM_ENVELOPE = Envelope(
    "ccm",
    algorithms={alg: CCM[alg] for alg in (AES_CCM_16_64_128, AES_CCM_16_64_256)},
    first_octets=(b"\xd0",),  # CBOR tag 16
    parse=parse_frame,
    cipher=_cipher,
    reference="RFC 9052 section 5.2, RFC 9053 section 4.2",
    derived=_derived,
)
