"""A worker: its caches, and how it judges a batch: gather, decide, store."""

from collections.abc import Sequence

from concentrators.ingest.decide import decide
from concentrators.ingest.decisions import Verdicts
from concentrators.ingest.facts import Delivery, Frames
from concentrators.ingest.frame_checks import examine
from concentrators.ingest.gather import gather, look_up
from concentrators.ingest.meter_cache import KeptMeters
from concentrators.ingest.store import store
from concentrators.ingest.transaction_retry import Foresight
from keyvault.ciphers import KeptCiphers
from keyvault.replay_window_store import Care
from meters.readings.store import Registers


class Worker:
    """Caches ciphers, meters, registers, and whether foreseen counters were right; it checks that they are valid.

    A process has one (``PROCESS``). Another one in the same process shares nothing with it.
    """

    def __init__(self) -> None:
        self.ciphers = KeptCiphers()
        self.meters = KeptMeters()
        self.registers = Registers()
        self.foresight = Foresight()

    def judge(self, uplinks: Sequence[tuple[Delivery, Frames]], care: Care) -> list[Verdicts]:
        """Judge the frames of uplinks in order and store the results, in the caller's transaction; return verdicts.

        ContendedError or IntegrityError if another transaction interfered, or if frames of the batch conflict with each
        other: the caller rolls back and calls again with more ``care``. Care.LOCK locks the counters in title order,
        and looks up stored values before it stores.
        """
        batch, facts, opening, enrolling = gather(uplinks, care, self.ciphers, self.meters, self.registers)
        examined = examine(batch, facts)
        decisions = decide(examined, look_up(examined))
        store(decisions, opening, enrolling)
        return [uplink.verdicts for uplink in decisions.uplinks]


PROCESS = Worker()
