"""Dispatch: which uplinks a worker verifies next. Only one worker at a time has the uplinks of a concentrator, in lots.

The uplinks of a concentrator name the same meters. Two workers would contend for the same counters, and the loser would
judge its uplink twice. So a worker claims concentrators, verifies their waiting uplinks together, oldest first, and
releases the claims; other workers skip claimed concentrators. A concentrator with more uplinks than fit into a lot has
its next turn after all others: so no concentrator delays the others for longer than one lot. Verification is correct
without dispatch, too; dispatch makes it fast and fair.
"""

import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from typing import NamedTuple

from django.db import InterfaceError, OperationalError

from ami_headend.core import locks
from ami_headend.core.sql import fetch_rows, int_array
from concentrators.ingest import uplink_state, verification
from concentrators.ingest.transaction_retry import TransientError
from concentrators.ingest.worker import PROCESS, Worker

_LOCK = locks.TURNS  # with the id of the concentrator; held by the session, over transactions
_WORK_S = 5.0  # then another task goes on, so that the broker sees progress
_LOOK_AT = 200  # waiting uplinks at once
_FRAMES_TOGETHER = 5_000  # in one transaction: its fixed costs hardly matter then


class _Waiting(NamedTuple):
    """An uplink that nobody has tried yet; ``is_overdue`` if the sweep has enqueued it again."""

    id: int
    concentrator_id: int
    frames: int
    is_overdue: bool


def verify_backlog(uplink_id: int, worker: Worker = PROCESS) -> int | None:
    """Verify waiting uplinks for some seconds, of any concentrator; an uplink that failed before first, and alone.

    Uplinks of concentrators that another worker has claimed are left to that worker. Returns an uplink that still waits
    at the end, for the caller to enqueue; None if there is none. TransientError as ``verification.verify_together``.
    """
    until = time.monotonic() + _WORK_S
    rows = fetch_rows(
        "SELECT concentrator_id, attempts + begun FROM concentrators_uplink WHERE id = %s AND verified_at IS NULL",
        uplink_id,
    )
    if not rows:
        return None
    concentrator_id, failed = rows[0]
    if failed:  # it failed before, or was enqueued again: it is verified alone
        with _claimed({concentrator_id}) as ours:
            if ours:
                with _noted([uplink_id]):
                    verification.verify(uplink_id, worker)
    tried: set[int] = set()  # without a verdict, for example because another session has locked the row: no second try
    served: set[int] = set()  # concentrators that had a lot, and have more
    # Until nothing is left: others left to us what came while we had claimed its concentrator.
    while True:
        with _lot(tried, served) as lot:
            if not lot and served:
                served.clear()
                continue
            if not lot:
                return None
            ids = [one.id for one in lot]
            with _noted([one.id for one in lot if one.is_overdue]):
                tried.update(set(ids) - verification.verify_together(ids, worker).keys())
        if time.monotonic() >= until:
            return next((one.id for one in _waiting(tried, ())), None)


@contextmanager
def _noted(overdue: Sequence[int]) -> Iterator[None]:
    """Note that work begins on uplinks that were tried without an end before: one of them may kill the worker."""
    if overdue:
        uplink_state.note_begun(overdue)
    try:
        yield
    except TransientError as error:
        if overdue and error.says_nothing_of_frames:
            uplink_state.note_not_begun(overdue)
        raise


@contextmanager
def _lot(tried: Collection[int], served: set[int]) -> Iterator[list[_Waiting]]:
    """Claim concentrators and return uplinks to verify together, oldest first; none if others have claimed them all.

    Skips concentrators in ``served``, and adds to it those that have more than this lot.
    """
    passed = set(served)  # and concentrators that another worker has claimed
    while waiting := _waiting(tried, passed):
        lot = _first_frames(waiting)
        concentrators = {one.concentrator_id for one in lot}
        with _claimed(concentrators) as ours:
            if ours:
                more = set(waiting).difference(lot if len(waiting) < _LOOK_AT else ())
                served.update({one.concentrator_id for one in more} & ours)
                yield [one for one in lot if one.concentrator_id in ours]
                return
        passed |= concentrators
    yield []


def _first_frames(waiting: list[_Waiting]) -> list[_Waiting]:
    """Return uplinks of up to _FRAMES_TOGETHER frames, at least one: first all of who has waited longest.

    The uplinks of one concentrator share keys and counters, which are read and written once for all of them.
    """
    by_concentrator: dict[int, list[_Waiting]] = {}
    for one in waiting:
        by_concentrator.setdefault(one.concentrator_id, []).append(one)
    first: list[_Waiting] = []
    room = _FRAMES_TOGETHER
    for one in chain.from_iterable(by_concentrator.values()):
        room -= one.frames
        if first and room < 0:
            break
        first.append(one)
    return first


def _waiting(tried: Collection[int], passed: Collection[int]) -> list[_Waiting]:
    """Return uplinks that nobody has tried yet, oldest first. Those that failed wait for the sweep."""
    rows = fetch_rows(
        """SELECT id, concentrator_id, frames, claims > 0 FROM concentrators_uplink
           WHERE verified_at IS NULL AND attempts = 0 AND begun = 0
             AND id <> ALL(%s::bigint[]) AND concentrator_id <> ALL(%s::int[])
           ORDER BY due_at, id LIMIT %s""",
        int_array(tried),
        int_array(passed),
        _LOOK_AT,
    )
    return [_Waiting(*row) for row in rows]


@contextmanager
def _claimed(concentrator_ids: Collection[int]) -> Iterator[set[int]]:
    """Claim those concentrators that no other worker has; a connection that breaks releases them."""
    rows = fetch_rows(
        "SELECT id FROM unnest(%s::int[]) AS n(id) WHERE pg_try_advisory_lock(%s, id)",
        int_array(concentrator_ids),
        _LOCK,
    )
    ours = {row[0] for row in rows}
    try:
        yield ours
    finally:
        if ours:
            with suppress(OperationalError, InterfaceError):  # a broken connection has released them already
                fetch_rows("SELECT pg_advisory_unlock(%s, id) FROM unnest(%s::int[]) AS n(id)", _LOCK, int_array(ours))
