"""What one worker knows from before, and how it judges a batch: gather, decide, store."""

from collections.abc import Sequence

from concentrators.ingest.attempt import Foresight
from concentrators.ingest.decide import decide
from concentrators.ingest.decisions import Verdicts
from concentrators.ingest.facts import Delivery, Frames
from concentrators.ingest.frame_checks import examine
from concentrators.ingest.gather import gather, look_up
from concentrators.ingest.meter_cache import KeptMeters
from concentrators.ingest.store import store
from keyvault.ciphers import KeptCiphers
from keyvault.replay_window_store import Care
from meters.readings.store import Registers


class Worker:
    """Keeps ciphers, meters, registers, and whether what frames foresee proved true lately; it looks whether they hold.

    A process has one (``PROCESS``). Another one, in the same process, knows nothing of what this one keeps.
    """

    def __init__(self) -> None:
        self.ciphers = KeptCiphers()
        self.meters = KeptMeters()
        self.registers = Registers()
        self.foresight = Foresight()

    def judge(self, uplinks: Sequence[tuple[Delivery, Frames]], care: Care) -> list[Verdicts]:
        """Judge the frames of uplinks, in their order, and store what follows, in the caller's transaction.

        Gives the verdicts of each uplink.

        Raises ContendedError or IntegrityError where another transaction came between, or where frames at hand say
        different things of one place: the caller rolls back and calls again with more ``care``. Care.LOCK locks the
        counters in title order and looks before it stores.
        """
        batch, facts, opening, enrolling = gather(uplinks, care, self.ciphers, self.meters, self.registers)
        examined = examine(batch, facts)
        decisions = decide(examined, look_up(examined))
        store(decisions, opening, enrolling)
        return [uplink.verdicts for uplink in decisions.uplinks]


PROCESS = Worker()
