"""All that is at work in a cell beside the fault: a mixed fleet, a meter that pushes, people and programs."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp

from tests.flows.load import Poster, posting
from tests.rack import pushes
from tests.rack.acts import IN_DOUBT, Acts
from tests.rack.fleet import Fleet, obeying
from tests.rack.pushes import PushMeter
from tests.rack.rack import Rack


class Load:
    """The fleet, the pushing meter and the acts of one cell."""

    def __init__(self, rack: Rack, base_url: str) -> None:
        pushes.prepare()
        self.rack = rack
        self.fleet = Fleet(base_url, Path(mkdtemp(prefix="fleet-", dir=rack.folder)))
        self.acts = Acts(base_url, obeying(self.fleet.plan))
        self.meter = PushMeter(rack.field.address)
        self.frames = self.lost = 0

    @contextmanager
    def running(self, posters: list[Poster]) -> Iterator[None]:
        """All of it and some posters at work while the block runs; afterwards every command has ended."""
        self.fleet.start()
        try:
            self.rack.wait("the fleet measures", self.fleet.is_measuring, 60)
            with posting([*posters, self.acts, self.meter]):
                yield
            self.rack.wait("every command has ended", self.acts.are_commands_done, 120)
            self.fleet.stop()
        except BaseException:
            self.fleet.give_up()
            raise

    def assert_true(self, timeout_s: float) -> None:
        """Everything that was acknowledged stands, once, and what was sent has its verdict."""
        self.frames = self.fleet.assert_true(timeout_s)
        self.acts.assert_true(timeout_s)
        self.lost = self.meter.assert_true(timeout_s)

    def told(self) -> str:
        """What was done, in a few words."""
        acts = f"{len(self.acts.commands)} commands, {len(self.acts.tokens)} tokens"
        return f"{acts}, {self.acts.answers[IN_DOUBT]} in doubt; {self.meter.pushed} pushes, {self.lost} lost"
