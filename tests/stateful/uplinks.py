"""The uplink of the head-end under test: frames posted, verified, found again, and judged again."""

from collections.abc import Container, Iterable, Sequence
from datetime import timedelta
from functools import partial

from ami_headend.core.sql import fetch_rows
from concentrators import tasks
from concentrators.ingest import (
    clock_corrections,
    dispatch,
    reception,
    reverification,
    reverification_queue,
    uplink_state,
    verification,
)
from concentrators.ingest.clock_corrections import ClockRequest
from concentrators.models import Reverification
from keyvault.cose.structures import encode_sequence
from tests.stateful import database
from tests.stateful.entities import WAITING, Posted, Sent
from tests.stateful.faults import Fault, Worker
from tests.stateful.ground import ACTOR, Effect, clock
from tests.stateful.model import Truth
from tests.stateful.registry import Registry


class Uplinks(Registry):
    """What web and workers do with frames."""

    def post(self, place: int, frames: Sequence[Sent], behind: timedelta = timedelta(0)) -> int:
        """Frames arrive; the id of their uplink, as yet unverified, or of the same one that came before.

        ``behind``: by so much is the clock of the web server.
        """
        received_at = clock.now - behind
        receipt = reception.receive(
            self.concentrators[place], encode_sequence([sent.octets for sent in frames]), received_at, tasks.enqueue
        )
        self.truth.uplinks.setdefault(receipt.uplink_id, Posted(received_at, list(frames)))
        return receipt.uplink_id

    def correct_clock(self, uplink_id: int, behind: timedelta, worker: Worker) -> None:
        """Somebody says by how much the clock was behind when an uplink came, and what was ahead is judged again."""
        at = self.truth.uplinks[uplink_id].received_at
        wish = ClockRequest(at, at + timedelta(microseconds=1), int(behind.total_seconds()), "NTP was off", uplink_id)
        clock_corrections.correct(wish, ACTOR, clock.now)
        corrected = dict(fetch_rows("SELECT id, corrected_at FROM concentrators_uplink"))
        for pk, uplink in self.truth.uplinks.items():
            uplink.corrected_at = corrected[pk]
        self.by_itself(worker)

    def by_itself(self, worker: Worker) -> None:
        """What the schedule does with frames that wait: those judged again for which something has come."""
        causes = list(Reverification.objects.order_by("pk").values_list("cause", flat=True))
        causes.sort(key=reverification_queue.CAUSES.index)
        with worker.at_work():
            while reverification_queue.work(worker.own):
                pass
        corrected = {pk for pk, uplink in self.truth.uplinks.items() if uplink.corrected_at is not None}
        self.settle(
            *_in_batches(
                [
                    partial(_judge_again, uplink_id, kinds=reverification_queue._KINDS[cause])
                    for cause in causes
                    for uplink_id in sorted(self.truth.uplinks if cause != "clock" else corrected)
                ]
            )
        )

    def arrive(self, place: int, frames: Sequence[Sent], worker: int, fault: Fault | None = None) -> None:
        """An uplink comes in and is verified at once, unless the very same came before."""
        uplink_id = self.post(place, frames)
        if uplink_id in self.unverified():
            self.verify(uplink_id, self.workers[worker], fault)

    def unverified(self) -> list[int]:
        return sorted(uplink_id for uplink_id, uplink in self.truth.uplinks.items() if uplink.verdicts is None)

    def verify(self, uplink_id: int, worker: Worker, fault: Fault | None = None, beside: Sequence[Effect] = ()) -> None:
        """A worker verifies an uplink; ``beside``: what another one may have done meanwhile."""
        with worker.at_work():
            self.faults.run(lambda: verification.verify(uplink_id, worker.own), fault)
        done = self._verified()
        mine = self._judging([uplink_id] if uplink_id in done else [])
        if fault is None or fault.between is not None:
            assert mine, "verification came to nothing"
        mine = [one for effect in mine for one in (effect, Truth.end_batch)]
        self.settle([*mine, *beside], [*beside, *mine], mine)

    def verify_in_turn(self, uplink_id: int, worker: Worker) -> None:
        """A worker verifies an uplink, and what else its concentrator has waiting, oldest first."""
        with worker.at_work():
            dispatch.verify_backlog(uplink_id, worker.own)
        done = self._verified()
        assert uplink_id in done
        self.settle(*_in_batches(self._judging(done)))

    def sweep(self, worker: Worker) -> None:
        """What was left over is found again, and verified."""
        for uplink_id in uplink_state.claim_overdue(clock.now):
            self.verify(uplink_id, worker)

    def judging_if_done(self, uplink_id: int) -> Effect:
        """The effect of an uplink that another worker verified, if it did."""

        def judge(truth: Truth) -> None:
            if uplink_id in self._verified() and truth.uplinks[uplink_id].verdicts is None:
                truth.judge_uplink(uplink_id, clock.now)
                truth.end_batch()

        return judge

    def verify_again(self, worker: Worker, fault: Fault | None = None) -> None:
        """The frames that waited for keys are judged again; a worker that dies has got through some uplinks."""
        waiting = reverification.waiting_uplinks()
        with worker.at_work():
            self.faults.run(lambda: reverification.verify_all_again(waiting, worker=worker.own), fault)
        effects = [partial(_judge_again, uplink_id) for uplink_id in waiting]
        counts = range(len(effects), -1, -1) if fault else [len(effects)]
        self.settle(*(batches for count in counts for batches in _in_batches(effects[:count])))

    def _verified(self) -> list[int]:
        """What the database says is verified, and the model does not know of yet."""
        waiting = self.unverified()
        seen = database.verified(waiting)
        return [uplink_id for uplink_id in waiting if uplink_id in seen]

    def _judging(self, uplink_ids: Iterable[int]) -> list[Effect]:
        return [partial(_judge, uplink_id) for uplink_id in uplink_ids]


def _in_batches(effects: Sequence[Effect]) -> list[list[Effect]]:
    """Uplinks were judged each alone, or all together."""
    alone = [one for effect in effects for one in (effect, Truth.end_batch)]
    return [alone, [*effects, Truth.end_batch]]


def _judge(uplink_id: int, truth: Truth) -> None:
    truth.judge_uplink(uplink_id, clock.now)


def _judge_again(uplink_id: int, truth: Truth, kinds: Container[str] = WAITING) -> None:
    truth.judge_again(uplink_id, clock.now, kinds)
