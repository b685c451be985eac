"""Which sessions a device key keeps, and where its floor is. Pure.

A meter of scheme ``session`` begins one each time that it boots. A key keeps its highest sessions (setting
SESSIONS_KEPT), compared as kid contexts (12 octets), and a floor: the highest session that it gave up. Frames of a
session that is not kept and not above the floor are refused as ``session_closed``.
"""

from collections.abc import Collection


def can_begin(floor: bytes, kept: Collection[bytes], new: Collection[bytes]) -> bool:
    """Whether none of some new sessions of a key has begun already, or was given up."""
    return all(context > floor for context in new) and set(new).isdisjoint(kept)


def floor_over(floor: bytes, sessions: Collection[bytes], at_most: int) -> bytes:
    """The floor of a key with those sessions, once the lowest are given up so that ``at_most`` of them are left."""
    ranked = sorted(sessions, reverse=True)
    return ranked[at_most] if len(ranked) > at_most else floor
