"""Corrections of the head-end's clock: if it was behind, frames rejected with clock_skew are judged again.

Only a person can tell a fast clock of a meter from a slow one of the head-end. So an audited act names the times that
the clock gave, and by how much they were too low. Frames ahead of the corrected time stay rejected.
"""

from datetime import datetime, timedelta
from typing import NamedTuple

from django.conf import settings
from django.db import transaction

from ami_headend.core import clock
from ami_headend.core.sql import execute, fetch_rows
from ami_headend.core.text import NOTE_LENGTH, is_note
from concentrators.failures.kinds import FailureKind
from concentrators.ingest.reverification_queue import CLOCK
from concentrators.models import ClockCorrection, Reverification
from keyvault.audit import chain
from keyvault.audit.chain import Actor

BEHIND_MAX_S = 366 * 86_400
# Of verified uplinks only those with waiting frames: no other frame of them is judged by time again.
_MEANT = """concentrators_uplink WHERE received_at >= %s AND received_at < %s AND id >= %s
            AND (verified_at IS NULL OR waiting > 0) AND body IS NOT NULL"""


class ClockError(ValueError):
    """A correction that cannot be right: the caller's mistake, named in the message."""


class ClockRequest(NamedTuple):
    """A correction: the clock gave the times from ``start`` up to ``end`` ``behind_s`` seconds too low.

    A clock that was set back gave some times twice: uplinks before ``first_uplink`` are not corrected.
    """

    start: datetime
    end: datetime
    behind_s: int
    note: str
    first_uplink: int = 0


class ClockEffect(NamedTuple):
    """The number of uplinks whose time of receipt is corrected, and of their frames with clock_skew."""

    uplinks: int
    frames: int


def look(wish: ClockRequest, now: datetime) -> ClockEffect:
    """Return what a correction would affect. ClockError if it cannot be right."""
    _check(wish, now)
    rows = fetch_rows(
        f"""SELECT count(*), coalesce(sum(jsonb_array_length(waiting_frames -> %s)), 0)::bigint FROM {_MEANT}""",
        FailureKind.CLOCK_SKEW.value,
        *_bounds(wish),
    )
    return ClockEffect(*rows[0])


def correct(wish: ClockRequest, actor: Actor, now: datetime) -> ClockEffect:
    """Correct the time of receipt of uplinks, and let workers judge their frames again; audited.

    A second correction with another number replaces the first. ClockError; AuditError or MasterKeyError if it cannot
    be recorded: then nothing was changed.
    """
    with transaction.atomic():
        found = look(wish, now)
        execute(
            f"""UPDATE concentrators_uplink SET corrected_at = received_at + make_interval(secs => %s)
                WHERE id IN (SELECT id FROM {_MEANT} ORDER BY id FOR UPDATE)""",
            wish.behind_s,
            *_bounds(wish),
        )
        ClockCorrection.objects.create(
            start=wish.start,
            end=wish.end,
            behind_s=wish.behind_s,
            first_uplink=wish.first_uplink or None,
            by=actor.name[:150],
            at=now,
            note=wish.note,
        )
        Reverification.objects.create(cause=CLOCK)
        subject = {
            "start": wish.start.isoformat(),
            "end": wish.end.isoformat(),
            "behind_s": wish.behind_s,
            "first_uplink": wish.first_uplink,
            "uplinks": found.uplinks,
            "frames": found.frames,
            "note": wish.note,
        }
        chain.record(actor, "clock.correct", subject)
    return found


def _bounds(wish: ClockRequest) -> tuple[datetime, datetime, int]:
    return wish.start, wish.end, wish.first_uplink


def _check(wish: ClockRequest, now: datetime) -> None:
    if wish.start < clock.EARLIEST or wish.end > clock.LATEST:
        raise ClockError("the span is beyond every time that can be stored")
    if not 1 <= wish.behind_s <= BEHIND_MAX_S:
        raise ClockError(f"the clock was behind by 1 to {BEHIND_MAX_S} seconds, not {wish.behind_s}")
    if wish.start >= wish.end:
        raise ClockError("the span ends before it begins")
    if not is_note(wish.note):
        raise ClockError(f"a note says how it is known, in 1 to {NOTE_LENGTH:,} characters")
    if not 0 <= wish.first_uplink < 2**63:
        raise ClockError("the first uplink is the number of an uplink")
    latest = wish.end + timedelta(seconds=wish.behind_s)
    if latest > now + timedelta(seconds=settings.CLOCK_SKEW_S):
        raise ClockError(
            f"{wish.behind_s} seconds after the end of the span lie in the future ({latest:%Y-%m-%d %H:%M:%S} UTC): "
            "the span is told by the clock that was behind"
        )
