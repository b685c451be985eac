"""Names of keys for people and records: they tell two keys apart, and nothing of their octets."""

import hashlib

FINGERPRINT_OCTETS = 8


def fingerprint(key: bytes) -> bytes:
    """The 8 octets that name a key: the start of SHA-256(b"ami-headend key fingerprint" || key).

    Device keys are 32 random or derived octets: no search finds one from its fingerprint.
    """
    return hashlib.sha256(b"ami-headend key fingerprint" + key).digest()[:FINGERPRINT_OCTETS]
