"""Which sessions a device key keeps, and where its floor is. Pure.

A meter of scheme ``session`` begins a session each time it boots. For each key the highest sessions are stored
(setting SESSIONS_KEPT), compared as kid contexts (12 octets), and a floor: the highest session that was deleted.
A frame is refused as ``session_closed`` if its session is neither stored nor above the floor.
"""

from collections.abc import Collection


def can_begin(floor: bytes, kept: Collection[bytes], new: Collection[bytes]) -> bool:
    """Whether all ``new`` sessions of a key are really new: none is stored already, and none was deleted."""
    return all(context > floor for context in new) and set(new).isdisjoint(kept)


def floor_over(floor: bytes, sessions: Collection[bytes], at_most: int) -> bytes:
    """Return the floor of a key after its lowest sessions are deleted, so that ``at_most`` are left."""
    ranked = sorted(sessions, reverse=True)
    return ranked[at_most] if len(ranked) > at_most else floor
