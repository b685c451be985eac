"""The primitives of a meter, written so that each use counts: what a scheme costs is what these were asked for.

Modes and key derivation stand here block by block (RFC 2104, RFC 3610, RFC 5869, SP 800-38D, RFC 8032), so that no
formula stands between a scheme and its count. Frames made with them are compared with those of the product. No Django.
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from keyvault.coupons import chameleon
from keyvault.coupons.chameleon import GROUP_ORDER

_AES_OCTETS, _SHA256_OCTETS, _SHA512_OCTETS = 16, 64, 128
_GHASH_POLYNOMIAL = 0xE1 << 120
Block = Callable[[bytes], bytes]


@dataclass
class Work:
    """How often each primitive was used: AES blocks, multiplications of GHASH, compressions of SHA-256 and SHA-512,
    X25519, scalar multiplications on edwards25519, multiplications modulo its order.
    """

    aes_blocks: int = 0
    ghash: int = 0
    sha256_blocks: int = 0
    sha512_blocks: int = 0
    x25519: int = 0
    scalar_multiplications: int = 0
    modular_multiplications: int = 0

    def __iadd__(self, other: "Work") -> "Work":
        for name, count in other.counts.items():
            setattr(self, name, getattr(self, name) + count)
        return self

    @property
    def counts(self) -> dict[str, int]:
        """Each count by its name."""
        return {one.name: getattr(self, one.name) for one in fields(self)}


class Primitives:
    """Primitives that count. Work goes to one of three times: ``once`` for a key or boot, ``ahead`` while the meter is
    idle, and ``frame`` when it has something to send.
    """

    def __init__(self) -> None:
        self.once, self.ahead, self.frame = Work(), Work(), Work()
        self._now = self.frame

    @contextmanager
    def at(self, time: Work) -> Iterator[None]:
        """Count what is done in the block for one of the three times."""
        before, self._now = self._now, time
        try:
            yield
        finally:
            self._now = before

    def aes(self, key: bytes) -> Block:
        """AES under a key, a block of 16 octets at a time."""
        encryptor = Cipher(algorithms.AES(key), modes.ECB()).encryptor()  # noqa: S305 - a single block

        def block(octets: bytes) -> bytes:
            self._now.aes_blocks += 1
            return encryptor.update(octets)

        return block

    def sha256(self, octets: bytes) -> bytes:
        """SHA-256: a compression for each block of the padded octets (FIPS 180-4 section 5.1.1)."""
        self._now.sha256_blocks += (len(octets) + 9 + _SHA256_OCTETS - 1) // _SHA256_OCTETS
        return hashlib.sha256(octets).digest()

    def sha512(self, octets: bytes) -> bytes:
        """SHA-512: a compression for each block of the padded octets (FIPS 180-4 section 5.1.2)."""
        self._now.sha512_blocks += (len(octets) + 17 + _SHA512_OCTETS - 1) // _SHA512_OCTETS
        return hashlib.sha512(octets).digest()

    def hmac(self, key: bytes, octets: bytes) -> bytes:
        """HMAC-SHA-256 (RFC 2104) as a small meter computes it: it keeps no inner state of a key."""
        key = key.ljust(_SHA256_OCTETS, b"\0")
        inner = self.sha256(bytes(one ^ 0x36 for one in key) + octets)
        return self.sha256(bytes(one ^ 0x5C for one in key) + inner)

    def hkdf_expand(self, prk: bytes, info: bytes, length: int) -> bytes:
        """HKDF-Expand of up to 32 octets (RFC 5869 section 2.3)."""
        return self.hmac(prk, info + b"\x01")[:length]

    def hkdf(self, secret: bytes, info: bytes, length: int = 32) -> bytes:
        """HKDF-SHA-256 with an empty salt."""
        return self.hkdf_expand(self.hmac(b"", secret), info, length)

    def x25519(self, private: bytes, public: bytes | None = None) -> bytes:
        """X25519 (RFC 7748): with a public key, or with the base point."""
        self._now.x25519 += 1
        own = X25519PrivateKey.from_private_bytes(private)
        if public is None:
            return own.public_key().public_bytes_raw()
        return own.exchange(X25519PublicKey.from_public_bytes(public))

    def base_times(self, scalar: int) -> bytes:
        """A multiple of the base point of edwards25519."""
        self._now.scalar_multiplications += 1
        return chameleon.base_times(scalar)

    def multiply(self, one: int, other: int) -> int:
        """A product modulo the order of edwards25519."""
        self._now.modular_multiplications += 1
        return one * other % GROUP_ORDER

    def ccm(self, block: Block, nonce: bytes, aad: bytes, plaintext: bytes, tag_octets: int = 8) -> bytes:
        """AES-CCM with lengths in 2 octets (RFC 3610): ciphertext and tag."""
        flags = 0x40 | ((tag_octets - 2) // 2) << 3 | 1
        blocks = bytes((flags,)) + nonce + len(plaintext).to_bytes(2, "big")
        blocks += _padded(len(aad).to_bytes(2, "big") + aad) + _padded(plaintext)
        mac = bytes(_AES_OCTETS)
        for at in range(0, len(blocks), _AES_OCTETS):
            mac = block(_xor(mac, blocks[at : at + _AES_OCTETS]))
        counters = (b"\x01" + nonce + number.to_bytes(2, "big") for number in range(2**16))
        tag = _xor(mac, block(next(counters)))[:tag_octets]
        return _streamed(plaintext, block, counters) + tag

    def gcm_key(self, key: bytes) -> tuple[Block, int]:
        """AES-GCM's key as a meter keeps it: the cipher, and the hash key H (SP 800-38D section 7.1)."""
        block = self.aes(key)
        return block, int.from_bytes(block(bytes(_AES_OCTETS)), "big")

    def gcm(self, key: tuple[Block, int], iv: bytes, aad: bytes, plaintext: bytes, tag_octets: int) -> bytes:
        """AES-GCM with an IV of 12 octets: ciphertext and tag; no tag at all of 0 octets."""
        block, hash_key = key
        counters = (iv + number.to_bytes(4, "big") for number in range(1, 2**32))
        first = next(counters)
        ciphertext = _streamed(plaintext, block, counters)
        if not tag_octets:
            return ciphertext
        lengths = (8 * len(aad)).to_bytes(8, "big") + (8 * len(ciphertext)).to_bytes(8, "big")
        hashed = self._ghash(hash_key, _padded(aad) + _padded(ciphertext) + lengths)
        return ciphertext + _xor(hashed, block(first))[:tag_octets]

    def _ghash(self, hash_key: int, octets: bytes) -> bytes:
        total = 0
        for at in range(0, len(octets), _AES_OCTETS):
            self._now.ghash += 1
            total = _product(total ^ int.from_bytes(octets[at : at + _AES_OCTETS], "big"), hash_key)
        return total.to_bytes(_AES_OCTETS, "big")

    def ed25519_secret(self, seed: bytes) -> tuple[int, bytes]:
        """The secret scalar and the prefix of a seed (RFC 8032 section 5.1.5)."""
        digest = self.sha512(seed)
        scalar = int.from_bytes(digest[:32], "little")
        return scalar & ~7 & ~(1 << 255) | 1 << 254, digest[32:]

    def ed25519_answer(self, secret: int, public: bytes, nonce: int, point: bytes, message: bytes) -> bytes:
        """An Ed25519 signature whose R was made before: one hash, and one multiplication modulo the order."""
        hashed = int.from_bytes(self.sha512(point + public + message), "little") % GROUP_ORDER
        answer = (nonce + self.multiply(hashed, secret)) % GROUP_ORDER
        return point + answer.to_bytes(32, "little")

    def ed25519(self, seed: bytes, public: bytes, message: bytes) -> bytes:
        """An Ed25519 signature as RFC 8032 has it."""
        secret, prefix = self.ed25519_secret(seed)
        nonce = int.from_bytes(self.sha512(prefix + message), "little") % GROUP_ORDER
        return self.ed25519_answer(secret, public, nonce, self.base_times(nonce), message)


def _padded(octets: bytes) -> bytes:
    return octets + bytes(-len(octets) % _AES_OCTETS)


def _xor(one: bytes, other: bytes) -> bytes:
    return bytes(left ^ right for left, right in zip(one, other, strict=False))


def _streamed(octets: bytes, block: Block, counters: Iterator[bytes]) -> bytes:
    """Counter mode."""
    parts = (octets[at : at + _AES_OCTETS] for at in range(0, len(octets), _AES_OCTETS))
    return b"".join(_xor(part, block(next(counters))) for part in parts)


def _product(one: int, other: int) -> int:
    """A product in the field of GHASH (SP 800-38D section 6.3)."""
    product = 0
    for bit in range(127, -1, -1):
        if one >> bit & 1:
            product ^= other
        other = other >> 1 ^ (_GHASH_POLYNOMIAL if other & 1 else 0)
    return product
