"""Keys that are no secret: patterns, text, and keys printed in documents. Pure.

``shipments`` refuses a key that another device has.
"""

from itertools import pairwise

from keyvault.device_keys.fingerprints import fingerprint

_MIN_DISTINCT_OCTETS = 12  # of 32 random octets, fewer are different once in 10^24 keys
_SHORT_OCTETS = 16
_MIN_DISTINCT_OF_SHORT = 7  # of 16 random octets, fewer are different once in 10^16 keys
_LONGEST_PERIOD = 16
_TEXT = frozenset(range(0x20, 0x7F))

# Of docs/frame.md, docs/shipments.md, and RFC 3394 section 4.6. Those that count need no entry: patterns find them.
_PUBLISHED = frozenset(
    fingerprint(bytes.fromhex(key))
    for key in (
        "4daf40da346e817a09712ea1ea990b6f530bb6c3fbcc421b524da424b6915806",
        "00112233445566778899aabbccddeeff000102030405060708090a0b0c0d0e0f",
        # Keys of DLMS meters in papers of operators, and in tests of open projects that read them.
        "36c66639e48a8ca4d6bc8b282a793bbb",
        "e36344d76c1f6e5dd9f54258b5508866",
        "5c316162209ebb790b52eb0e7fc5b11c",
        "92705c5c97286064eabae38d190f87a4",
    )
)


def set_weakness(keys: bytes) -> str | None:
    """Why one of two keys of 16 or 32 octets is no secret, or both together are none; as ``weakness``.

    Or of one key of 16 octets alone. Zeros in the place of the second stand for one that is not known.
    """
    if len(keys) == _SHORT_OCTETS:
        return _weakness_of_half(keys)
    half = len(keys) // 2
    first, second = keys[:half], keys[half:]
    if first == second:
        return "is one key twice"
    return _weakness_of_half(first) or (None if not any(second) else _weakness_of_half(second))


def _weakness_of_half(key: bytes) -> str | None:
    if len(key) > _SHORT_OCTETS:
        return weakness(key)
    if fingerprint(key) in _PUBLISHED:
        return "is a published example"
    steps = {(after - before) % 256 for before, after in pairwise(key)}
    if len(steps) == 1:
        return "is one octet repeated" if steps == {0} else "is octets that count up or down"
    for period in range(2, len(key) // 2 + 1):
        if key[period:] == key[:-period]:
            return f"is a pattern of {period} octets repeated"
    if len(set(key)) < _MIN_DISTINCT_OF_SHORT:
        return f"has only {len(set(key))} different octets"
    return None


def weakness(key: bytes, system_title: bytes | None = None) -> str | None:
    """Why a key of 32 octets is no secret, for people, without an octet of it; None where nothing is found.

    ``system_title`` (8 octets) is the device's, whose repetition is looked for. A random key is refused
    less than once in 10^13.
    """
    if fingerprint(key) in _PUBLISHED:
        return "is a published example"
    if _is_vendor_default(key):
        return "is a vendor's default: an EUI-48 twice, and ff"
    steps = {(after - before) % 256 for before, after in pairwise(key)}
    if len(steps) == 1:
        return "is one octet repeated" if steps == {0} else "is octets that count up or down"
    if system_title is not None and (system_title in key or system_title.hex().encode() in key.lower()):
        return "holds the system title"
    for period in range(2, _LONGEST_PERIOD + 1):
        if key[period:] == key[:-period]:
            return f"is a pattern of {period} octets repeated"
    if len(set(key)) < _MIN_DISTINCT_OCTETS:
        return f"has only {len(set(key))} different octets"
    if _TEXT.issuperset(key):
        return "is text, not random octets"
    return None


def _is_vendor_default(key: bytes) -> bool:
    """Whether a key, or one of 16 octets that it repeats or begins with, is an EUI-48 (6 octets) twice, the rest ff."""
    return any(part[:6] == part[6:12] and not part[12:].strip(b"\xff") for part in (key, key[:16]))
