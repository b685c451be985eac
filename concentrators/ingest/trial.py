"""Judges frames as verification would, and stores nothing: gather and decide, in a transaction that cannot write."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from django.db import transaction
from django.utils import timezone

from ami_headend.core.sql import execute
from concentrators.failures.kinds import FailureKind
from concentrators.ingest.decide import decide
from concentrators.ingest.facts import Delivery
from concentrators.ingest.frame_checks import ExaminedUplink, examine
from concentrators.ingest.gather import gather, look_up
from concentrators.ingest.meter_cache import KeptMeters
from concentrators.ingest.transaction_retry import attempt
from keyvault.ciphers import KeptCiphers
from keyvault.enrolment.opening import Enrolling
from keyvault.replay_window_store import Care
from meters.readings.store import Registers

ACCEPTED, DUPLICATE = "accepted", "duplicate"
_NOBODY = 0  # the id of no uplink and of no concentrator


class Judged(NamedTuple):
    """What verification would say of a frame.

    ``failure`` is None for a frame that would be accepted, and for a duplicate. ``kid`` is what the frame claims: 10
    octets, or 22 with a kid context, or 8 where a title alone is known. ``plaintext`` is that of a frame that opened,
    ``enrolling`` the key that it would enrol, if any.
    """

    octets: bytes
    verdict: str
    failure: FailureKind | None
    detail: str
    kid: bytes | None
    counter: int | None
    plaintext: bytes | None
    enrolling: Enrolling | None

    @property
    def is_good(self) -> bool:
        """Whether a meter that sends this did everything right: it is accepted, or was before."""
        return self.failure is None


def judge(frames: Sequence[bytes], received_at: datetime) -> list[Judged]:
    """Judge frames that came together at a time, by the database as it is now; nothing is written.

    TransientError if the database or the master key has a problem.
    """
    return attempt("frames on trial", lambda _: _judge(frames, received_at), Care.READ)


def _judge(frames: Sequence[bytes], received_at: datetime) -> list[Judged]:
    with transaction.atomic():
        execute("SET TRANSACTION READ ONLY")
        delivery = Delivery(_NOBODY, _NOBODY, received_at, timezone.now())
        posted = [(delivery, list(enumerate(frames)))]
        batch, facts, opening, enrolling = gather(posted, Care.READ, KeptCiphers(), KeptMeters(), Registers())
        examined = examine(batch, facts)
        decided = decide(examined, look_up(examined))
        failures = {failure.frame_index: failure for failure in decided.uplinks[0].failures}
        again = _seen_before(examined.uplinks[0])
        opened = {one.frame_index: one for one in opening.uplinks[0].opened}
        transaction.set_rollback(True)
    found = []
    for index, octets in enumerate(frames):
        failure, frame = failures.get(index), opened.get(index)
        plaintext = None if frame is None else frame.plaintext
        if failure is not None:
            kind, kid, counter = failure.kind, failure.kid, failure.counter
            enrols = None if kid is None or plaintext is None else enrolling.get(kid)
            found.append(Judged(octets, str(kind), kind, failure.detail, kid, counter, plaintext, enrols))
        elif frame is not None:
            verdict = DUPLICATE if index in again else ACCEPTED
            kid, counter = frame.kid, frame.invocation_counter
            found.append(Judged(octets, verdict, None, "", kid, counter, plaintext, enrolling.get(kid)))
        else:
            raise AssertionError(f"frame {index} has no verdict")
    return found


def _seen_before(uplink: ExaminedUplink) -> set[int]:
    """The indexes of frames that passed every check under a counter that was taken already."""
    seen = {frame[0] for frame, _, _, is_new in uplink.candidates if not is_new}
    seen |= {one.frame[0] for one in uplink.sums if not one.is_new}
    return seen | {one.frame[0] for one in uplink.lists if not one.is_new}
