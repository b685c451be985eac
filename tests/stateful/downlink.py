"""The downlink of the head-end under test: commands fetched, brought to meters, and obeyed."""

from concentrators.commands import downlink
from keyvault.cose.structures import make_kid, parse_frame
from tests.stateful.faults import Fault, Faults
from tests.stateful.ground import Letter, clock
from tests.stateful.uplinks import Uplinks


class Downlink(Uplinks):
    """What concentrators fetch, and what meters make of it."""

    def __init__(self, faults: Faults) -> None:
        super().__init__(faults)
        self._numbers: dict[int, bytes] = {}

    def fetch(self, concentrator: int, fault: Fault | None = None) -> None:
        """A concentrator fetches commands. Where the web process dies, nothing comes out."""
        clock.now += self.request_takes
        offers = self.faults.run(lambda: downlink.offer(concentrator, 100, clock.now), fault) or []
        for offer in offers:
            self.letters.append(Letter(concentrator, *offer))
            frame = parse_frame(offer.octets)
            self.note_sealed(frame.kid, frame.counter, offer.octets)
            assert self._numbers.setdefault(offer.number, offer.system_title) == offer.system_title, "a number again"
            newest = self.truth.newest(offer.system_title)
            if newest is not None and newest[1].state == "pending" and frame.kid == make_kid(offer.system_title, 0):
                newest[1].given_away = True
        self.settle()

    def deliver(
        self, letter: Letter, *, refuse: bool = False, lose_answer: bool = False, power_for: int | None = None
    ) -> None:
        """A command reaches its meter, now or again; the meter's power may last for some writes only."""
        meter = self.meter_of(letter.title)
        over = next((title for title, one in self.truth.holders.items() if one == letter.concentrator), b"")
        said = meter.obey(letter.octets, clock.now_s, over=over, refuse=refuse, power_for=power_for)
        if not lose_answer:
            self.air += said
