"""Fingerprints name keys for people and records: they tell two keys apart, and reveal none of their octets."""

import hashlib

FINGERPRINT_OCTETS = 8


def fingerprint(key: bytes) -> bytes:
    """Return the 8 octets that name a key: the start of SHA-256(b"ami-headend key fingerprint" || key).

    Device keys are 32 random or derived octets, so that no search finds one from its fingerprint.
    """
    return hashlib.sha256(b"ami-headend key fingerprint" + key).digest()[:FINGERPRINT_OCTETS]
