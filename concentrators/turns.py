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


def verify_in_turn(uplink_id: int) -> int | None:
    """Verify an uplink and what else its concentrator has waiting; nothing where another worker has the turn.

    Gives an uplink that still waits when the turn is over, for the caller to enqueue. Raises
    TransientError as ``verification.verify`` does.
    """
    until = time.monotonic() + _TURN_S
    rows = fetch_rows(
        "SELECT concentrator_id FROM concentrators_uplink WHERE id = %s AND verified_at IS NULL", uplink_id
    )
    if not rows:
        return None
    concentrator_id = rows[0][0]
    waiting = [uplink_id]
    tried: set[int] = set()  # one that gets no verdict, as another session holds its row, is not tried twice
    # Another worker may have left between our last look and the end of our turn: look again after it.
    while waiting:
        with _turn(concentrator_id) as is_ours:
            if not is_ours:
                return None
            while waiting:
                for one in waiting:
                    tried.add(one)
                    verification.verify(one)
                    if time.monotonic() >= until:
                        break
                waiting = [one for one in _waiting(concentrator_id) if one not in tried]
                if time.monotonic() >= until:
                    return waiting[0] if waiting else None
        waiting = [one for one in _waiting(concentrator_id) if one not in tried]
    return None


def _waiting(concentrator_id: int) -> list[int]:
    """Uplinks of a concentrator that nobody has tried yet, oldest first; what failed before waits for the sweep."""
    rows = fetch_rows(
        """SELECT id FROM concentrators_uplink
           WHERE concentrator_id = %s AND verified_at IS NULL AND attempts = 0 ORDER BY id LIMIT %s""",
        concentrator_id,
        _AT_ONCE,
    )
    return [row[0] for row in rows]


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
