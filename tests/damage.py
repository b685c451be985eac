"""Octets that something has damaged on their way."""


def damaged(octets: bytes | memoryview | None) -> bytes:
    """Return octets with one bit of the last one changed: random octets may end with any fixed one already."""
    whole = bytes(octets or b"")
    return whole[:-1] + bytes((whole[-1] ^ 1,))
