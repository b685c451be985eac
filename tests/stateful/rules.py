"""What all rules of a life share: numbers that Hypothesis draws, and what they pick."""

from collections import Counter
from datetime import timedelta

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine

from tests.stateful.entities import ACCEPTABLE, Sent
from tests.stateful.faults import Fault, Faults
from tests.stateful.field import HonestMeter
from tests.stateful.headend import HeadEnd
from tests.stateful.restoring import Saved

PICK = st.integers(0, 999)
WORKER = st.integers(0, 1)
PLACE = st.integers(0, 1)  # of a concentrator
METERS = st.sets(st.integers(0, 6), min_size=1)
FRAMES = st.lists(PICK, min_size=1, max_size=5)
OFTEN_NOT = st.sampled_from((False, False, False, True))
DEATH = st.one_of(st.none(), st.none(), st.integers(0, 15).map(Fault))
POWER = st.one_of(st.none(), st.none(), st.integers(0, 9))  # of a meter: for how many writes it lasts
LENGTHS = [timedelta(minutes=10), timedelta(hours=7), timedelta(days=3), timedelta(days=8), timedelta(days=11)]

faults = Faults()
lived: Counter[str] = Counter()  # lives and their steps


class Rules(RuleBasedStateMachine):
    """Picks are numbers, taken modulo whatever is there."""

    site: HeadEnd
    saved: Saved | None

    def meter(self, pick: int) -> HonestMeter:
        return self.site.meters[pick % len(self.site.meters)]

    def frame(self, pick: int) -> Sent:
        """A late frame, or one that came before: the newest half of the numbers are the newest frames."""
        air = self.site.air
        return air[-1 - pick // 2 % min(8, len(air))] if pick % 2 else air[pick // 2 % len(air)]

    def subject(self, act: str, pick: int) -> Sent:
        """A frame that would be accepted but for the act: a new one, or a late one under a key that may be retired."""
        site = self.site
        keys = site.truth.keys
        late = [sent for sent in site.air if sent.kid in keys and keys[sent.kid].is_open_to(sent, "retiring")]
        if act == "retire" and late:
            return late[pick % len(late)]
        good = [one for one in site.meters if (key := keys.get((one.title, one.epoch))) and key.state in ACCEPTABLE]
        good = [one for one in good if not one.waits and not site.is_enrolling(one)]
        site.read([good[pick % len(good)] if good else self.meter(pick)], pick)
        return site.air[-1]

    def read(self, chosen: set[int], wh: int) -> None:
        self.site.read([self.site.meters[number] for number in sorted(chosen)], wh)
