"""What may happen to concentrators that hold keys: their meters move, sums are said, their own keys rotate or leak."""

from hypothesis import strategies as st
from hypothesis.stateful import rule

from tests.stateful.faults import Fault
from tests.stateful.field import HonestMeter
from tests.stateful.headend import clock
from tests.stateful.rules import DEATH, FRAMES, OFTEN_NOT, PICK, PLACE, WORKER, Rules


class HolderRules(Rules):
    """Concentrators that open, report and add up."""

    @rule(place=PLACE, fault=DEATH)
    def hop_keys_are_fetched(self, place: int, fault: Fault | None) -> None:
        self.site.fetch_hop_keys(self.site.holder_of(place), fault)

    @rule(place=PLACE, picks=FRAMES, worker=WORKER, fault=DEATH)
    def sums_are_said(self, place: int, picks: list[int], worker: int, fault: Fault | None) -> None:
        """And arrive, among other frames, or later."""
        self.site.say_sums(self.site.holder_of(place))
        self.site.arrive(place, [self.frame(pick) for pick in picks], worker, fault)

    @rule()
    def sums_are_compared(self) -> None:
        self.site.compare_sums()

    @rule(pick=PICK, back=st.booleans(), stages=st.integers(0, 4), wh=st.integers(0, 500), worker=WORKER)
    def hop_meter_moves(self, pick: int, back: bool, stages: int, wh: int, worker: int) -> None:
        """To the other concentrator, and maybe back at once, as far as it comes for now; then it measures."""
        site, meter = self.site, self.hop_meter(pick)
        for _ in range(2 if back else 1):
            site.assign(meter, next(pk for pk in site.concentrators if pk != self.home_of(meter)))
            if stages > 0:
                site.fetch(self.home_of(meter))
            if stages > 1:
                for letter in [one for one in site.letters if one.title == meter.title][-2:]:
                    site.deliver(letter)
            if stages > 2:
                for holder in site.holders.values():
                    site.fetch_hop_keys(holder)
            site.read([meter], wh)
        if stages > 3:
            site.arrive(worker, site.air[-4:], worker)

    @rule(place=PLACE, leaked=OFTEN_NOT, stages=st.integers(0, 3), worker=WORKER, fault=DEATH)
    def concentrator_gets_a_new_key(
        self, place: int, leaked: bool, stages: int, worker: int, fault: Fault | None
    ) -> None:
        """Maybe since somebody else knows the old one; its first frame under the new one may come at once."""
        site, holder = self.site, self.site.holder_of(place)
        if leaked:
            site.compromise_holder(holder)
        site.begin_next_key(holder)
        if stages > 0:
            site.fetch_next_key(holder, fault)
        if stages > 1:
            site.say_sums(holder)
            site.arrive(place, site.air[-2:], worker)
        if stages > 2:
            site.fetch_hop_keys(holder)

    @rule(place=PLACE)
    def concentrator_boots(self, place: int) -> None:
        self.site.holder_of(place).boot()

    @rule(pick=PICK)
    def meter_logs_something(self, pick: int) -> None:
        """An event comes in the meter's own frame, whoever opens its readings."""
        self.site.air += self.meter(pick).say_event(clock.now_s)

    # --- shared by rules ----------------------------------------------------------------------------

    def hop_meter(self, pick: int) -> HonestMeter:
        """A meter of scheme hop; any, where there is none."""
        found = [one for one in self.site.meters if one.scheme == "hop"] or self.site.meters
        return found[pick % len(found)]

    def home_of(self, meter: HonestMeter) -> int:
        return self.site.truth.assigned[meter.title][-1].concentrator
