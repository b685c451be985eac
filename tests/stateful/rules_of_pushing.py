"""What may happen to DLMS meters: they push, change their key set before or after it is known here, and it leaks."""

from hypothesis import strategies as st
from hypothesis.stateful import rule

from tests.stateful.faults import Fault
from tests.stateful.pushing import NEXT_EPOCH
from tests.stateful.rules import DEATH, FRAMES, PLACE, WORKER, Rules


class PushRules(Rules):
    """A meter whose frames name its title alone."""

    @rule(wh=st.integers(0, 500), picks=FRAMES, place=PLACE, worker=WORKER, fault=DEATH)
    def meters_push(self, wh: int, picks: list[int], place: int, worker: int, fault: Fault | None) -> None:
        """And what they pushed arrives among other frames, new ones and old ones, in any order."""
        site = self.site
        site.read(site.pushers, wh)
        its = [sent for sent in site.air if sent.title in site.truth.by_title]
        late = [its[-1 - pick % min(8, len(its))] for pick in picks]
        site.arrive(place, [*late, *(self.frame(pick) for pick in picks[1:])], worker, fault)

    @rule(act=st.sampled_from(("comes", "comes", "is used", "is used", "leaks")), epoch=st.integers(1, 2), fault=DEATH)
    def key_set_changes(self, act: str, epoch: int, fault: Fault | None) -> None:
        for meter in self.site.pushers:
            match act:
                case "comes":
                    self.site.bring_next_set(meter, fault)
                case "is used" if meter.epoch < NEXT_EPOCH:
                    meter.use_next_set()
                case "leaks" if (meter.title, epoch) in self.site.truth.keys:
                    self.site.compromise_set(meter, epoch)
