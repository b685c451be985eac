"""Which sessions a key keeps: the highest, and a floor below which it takes no other."""

from keyvault.sessions import can_begin, floor_over

CONTEXTS = [bytes((n,)) * 12 for n in range(6)]


def test_a_session_begins_once_and_above_the_floor() -> None:
    assert can_begin(b"", [], CONTEXTS)
    assert can_begin(CONTEXTS[1], [CONTEXTS[3]], [CONTEXTS[2], CONTEXTS[4]])
    assert not can_begin(CONTEXTS[1], [CONTEXTS[3]], [CONTEXTS[4], CONTEXTS[3]])  # another began it
    assert not can_begin(CONTEXTS[1], [], [CONTEXTS[1]])  # it was given up
    assert not can_begin(CONTEXTS[1], [], [CONTEXTS[0]])


def test_the_floor_rises_over_the_lowest() -> None:
    assert floor_over(b"", CONTEXTS[:3], 3) == b""
    assert floor_over(CONTEXTS[0], CONTEXTS[1:3], 3) == CONTEXTS[0]
    assert floor_over(CONTEXTS[0], [CONTEXTS[4], CONTEXTS[1], CONTEXTS[3], CONTEXTS[2]], 3) == CONTEXTS[1]
    assert floor_over(b"", CONTEXTS, 2) == CONTEXTS[3]
    assert floor_over(CONTEXTS[2], [], 64) == CONTEXTS[2]
