"""Frames as docs/frame.md alone says how they are: templates, HMAC and AES-CCM, nothing of the project's code."""

import hashlib
import hmac
from typing import NamedTuple

from cryptography.hazmat.primitives.ciphers.aead import AESCCM

UPLINK, DOWNLINK = "uplink", "downlink"
ALG = {
    10: ("0a", "1880", 16, 8),
    11: ("0b", "190100", 32, 8),
    30: ("181e", "1880", 16, 16),
    31: ("181f", "190100", 32, 16),
}
HES = "43484553"
IV_GENERATION = "6d49562d47454e45524154494f4e"


class Sealed(NamedTuple):
    """The parts of a frame: section 2."""

    alg: int
    kid: bytes
    counter: bytes
    protected: bytes
    ciphertext: bytes


def info(what: str, bits: str, direction: str, title: bytes, epoch: int) -> bytes:
    """An info string of section 3; ``what`` is an alg or IV-GENERATION, as it stands there."""
    title_text, epoch_text = f"48{title.hex()}", f"42{epoch:04x}"
    first, second = (title_text, HES) if direction == UPLINK else (HES, title_text)
    return bytes.fromhex(f"84{what}83{first}{epoch_text}f683{second}f6f682{bits}43a10129")


def expand(device_key: bytes, text: bytes, length: int) -> bytes:
    """HKDF-SHA-256 with an empty salt."""
    prk = hmac.digest(bytes(32), device_key, hashlib.sha256)
    return hmac.digest(prk, text + b"\x01", hashlib.sha256)[:length]


def keys(device_key: bytes, alg: int, direction: str, title: bytes, epoch: int) -> tuple[bytes, bytes]:
    """KEY and BASE_IV."""
    what, bits, octets, _ = ALG[alg]
    key = expand(device_key, info(what, bits, direction, title, epoch), octets)
    return key, expand(device_key, info(IV_GENERATION, "1868", direction, title, epoch), 13)


def cipher_of(device_key: bytes, alg: int, title: bytes, epoch: int, counter: bytes) -> tuple[AESCCM, bytes]:
    """AES-CCM for a frame, and its nonce."""
    key, base_iv = keys(device_key, alg, UPLINK if alg < 30 else DOWNLINK, title, epoch)
    nonce = bytes(a ^ b for a, b in zip(base_iv, counter.rjust(13, b"\x00"), strict=True))
    return AESCCM(key, ALG[alg][3]), nonce


def seal(device_key: bytes, alg: int, title: bytes, epoch: int, counter: int, payload: bytes) -> bytes:
    """Section 9, for uplinks; a command is the same with the other templates."""
    n = 1
    while counter >> 8 * n:
        n += 1
    counter_octets = counter.to_bytes(n, "big")
    header = bytes.fromhex(f"a301{ALG[alg][0]}044a{title.hex()}{epoch:04x}06{0x40 + n:02x}") + counter_octets
    protected = bytes([0x40 + len(header)]) + header
    cipher, nonce = cipher_of(device_key, alg, title, epoch, counter_octets)
    sealed = cipher.encrypt(nonce, payload, b"\x83\x68Encrypt0" + protected + b"\x40")
    length = len(sealed)
    if length < 24:
        head = bytes([0x40 + length])
    elif length < 256:
        head = bytes([0x58, length])
    else:
        head = b"\x59" + length.to_bytes(2, "big")
    return b"\xd0\x83" + protected + b"\xa0" + head + sealed


def take_apart(frame: bytes) -> Sealed:
    """A frame by the table of section 2; AssertionError where an octet is not what stands there."""
    assert frame[:2] == b"\xd0\x83"
    length = frame[2] - 0x40
    header = frame[3 : 3 + length]
    alg = {bytes.fromhex(f"a301{text[0]}044a"): number for number, text in ALG.items()}
    start = next(one for one in alg if header.startswith(one))
    kid, rest = header[len(start) : len(start) + 10], header[len(start) + 10 :]
    assert rest[:1] == b"\x06"
    assert rest[1] - 0x40 == len(rest) - 2
    assert rest[2:] == b"\x00" or rest[2]
    tail = frame[3 + length :]
    assert tail[:1] == b"\xa0"
    skip = {0x58: 2, 0x59: 3}.get(tail[1], 1)
    declared = tail[1] - 0x40 if skip == 1 else int.from_bytes(tail[2 : 1 + skip], "big")
    assert declared == len(tail) - 1 - skip
    return Sealed(alg[start], kid, rest[2:], frame[2 : 3 + length], tail[1 + skip :])


def open_(device_key: bytes, frame: bytes) -> bytes:
    """The plaintext of a frame under a key; InvalidTag where the tag does not fit."""
    sealed = take_apart(frame)
    epoch = int.from_bytes(sealed.kid[8:], "big")
    cipher, nonce = cipher_of(device_key, sealed.alg, sealed.kid[:8], epoch, sealed.counter)
    return cipher.decrypt(nonce, sealed.ciphertext, b"\x83\x68Encrypt0" + sealed.protected + b"\x40")
