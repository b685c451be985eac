"""Whose turn it is: one worker at a time verifies what one concentrator has posted.

The uplinks of a concentrator name the same meters. Two workers at them would contend for the same
counters, and the loser would judge its uplink twice. So the worker that has the turn goes on with
whatever the concentrator has waiting, oldest first, and another one that meets it leaves at once.
Verification is right without this, too; this makes it fast.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from django.db import InterfaceError, OperationalError

from concentrators import verification
from keyvault.sql import fetch_rows

_LOCK = 0x616D6903  # with the concentrator's id; of the session, so that it lasts over transactions
_TURN_S = 5.0  # then others have theirs
_AT_ONCE = 50
_FRAMES_TOGETHER = 5_000  # in one transaction: what is fixed for a transaction weighs little by then


def verify_in_turn(uplink_id: int) -> int | None:
    """Verify an uplink and what else its concentrator has waiting; nothing where another worker has the turn.

    Gives an uplink that still waits when the turn is over, for the caller to enqueue. Raises
    TransientError as ``verification.verify_together`` does.
    """
    until = time.monotonic() + _TURN_S
    rows = fetch_rows(
        "SELECT concentrator_id, attempts FROM concentrators_uplink WHERE id = %s AND verified_at IS NULL", uplink_id
    )
    if not rows:
        return None
    concentrator_id, attempts = rows[0]
    tried: set[int] = set()  # one that gets no verdict, as another session holds its row, is not tried twice
    # What failed before goes alone. Another worker may have left between our last look and the end of our turn.
    waiting = [[uplink_id]] if attempts else _waiting(concentrator_id, tried)
    while waiting:
        with _turn(concentrator_id) as is_ours:
            if not is_ours:
                return None
            while waiting:
                for together in waiting:
                    tried.update(together)
                    verification.verify_together(together)
                    if time.monotonic() >= until:
                        break
                waiting = _waiting(concentrator_id, tried)
                if time.monotonic() >= until:
                    return waiting[0][0] if waiting else None
        waiting = _waiting(concentrator_id, tried)
    return None


def _waiting(concentrator_id: int, tried: set[int]) -> list[list[int]]:
    """Uplinks of a concentrator that nobody has tried yet, oldest first, in lots to be verified together.

    What failed before waits for the sweep.
    """
    rows = fetch_rows(
        """SELECT id, frames FROM concentrators_uplink
           WHERE concentrator_id = %s AND verified_at IS NULL AND attempts = 0 ORDER BY id LIMIT %s""",
        concentrator_id,
        _AT_ONCE,
    )
    lots: list[list[int]] = []
    room = 0
    for uplink_id, frames in rows:
        if uplink_id in tried:
            continue
        if frames > room:
            lots.append([])
            room = _FRAMES_TOGETHER
        lots[-1].append(uplink_id)
        room -= frames
    return lots


@contextmanager
def _turn(concentrator_id: int) -> Iterator[bool]:
    """Hold the turn of a concentrator, or say that another worker has it. A connection that breaks gives it up."""
    is_ours: bool = fetch_rows("SELECT pg_try_advisory_lock(%s, %s)", _LOCK, concentrator_id)[0][0]
    try:
        yield is_ours
    finally:
        if is_ours:
            with suppress(OperationalError, InterfaceError):  # a broken connection has given it up already
                fetch_rows("SELECT pg_advisory_unlock(%s, %s)", _LOCK, concentrator_id)
