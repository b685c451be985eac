"""The COSE algorithms of this head-end, as tables of sizes. Pure."""

from typing import NamedTuple


class Algorithm(NamedTuple):
    """An algorithm and its sizes in octets. AES-CCM (RFC 9053 section 4.2) has L = 2, and so a nonce of 13."""

    name: str
    key_octets: int
    tag_octets: int
    nonce_octets: int = 13


AES_CCM_16_64_128 = 10
AES_CCM_16_64_256 = 11
AES_CCM_16_128_128 = 30
AES_CCM_16_128_256 = 31
A256GCM = 3

CCM: dict[int, Algorithm] = {
    AES_CCM_16_64_128: Algorithm("AES-CCM-16-64-128", 16, 8),
    AES_CCM_16_64_256: Algorithm("AES-CCM-16-64-256", 32, 8),
    AES_CCM_16_128_128: Algorithm("AES-CCM-16-128-128", 16, 16),
    AES_CCM_16_128_256: Algorithm("AES-CCM-16-128-256", 32, 16),
}

# RFC 9053 section 3.1.
HMAC_256_64 = 4
HMAC_256_256 = 5
HMAC: dict[int, Algorithm] = {
    HMAC_256_64: Algorithm("HMAC 256/64", 32, 8, 0),
    HMAC_256_256: Algorithm("HMAC 256/256", 32, 32, 0),
}

# RFC 9180, mode_psk; for private use (RFC 9052 section 16.4), as COSE has no number for it yet.
HPKE_PSK = -65537
HPKE: dict[int, Algorithm] = {
    HPKE_PSK: Algorithm("HPKE PSK, X25519, HKDF-SHA-256, AES-128-GCM", 16, 16, 12),
}


def command_algorithm(alg: int) -> int:
    """Return the algorithm of commands under a key for ``alg``: AES-CCM with a full tag, in every scheme.

    Its keys have 256 bits if ``alg`` is AES-CCM-16-64-256, else 128.
    """
    return AES_CCM_16_128_256 if alg == AES_CCM_16_64_256 else AES_CCM_16_128_128
