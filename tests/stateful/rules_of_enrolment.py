"""What may happen as meters enrol by certificate: right ones, late ones, revoked ones, and keys that leak meanwhile."""

from datetime import timedelta

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from tests.stateful.faults import Fault
from tests.stateful.field import HonestMeter
from tests.stateful.rules import DEATH, FRAMES, OFTEN_NOT, PICK, PLACE, WORKER, Rules

_DAYS = timedelta(days=1)
_DATES = (  # of a certificate: how long ago it was issued, and how long it lasts
    (_DAYS, 300 * _DAYS),
    (_DAYS, 300 * _DAYS),
    (_DAYS, 2 * _DAYS),
    (3 * _DAYS, 2 * _DAYS),
    (40 * _DAYS, 300 * _DAYS),
    (-_DAYS, 300 * _DAYS),
)


class EnrolmentRules(Rules):
    """Authority, operators, newcomers."""

    @rule(
        pick=PICK,
        anew=OFTEN_NOT,
        allowed=st.booleans(),
        dates=st.sampled_from(_DATES),
        said=st.booleans(),
        picks=FRAMES,
        place=PLACE,
        worker=WORKER,
        fault=DEATH,
    )
    def meter_enrols(
        self,
        pick: int,
        anew: bool,
        allowed: bool,
        dates: tuple[timedelta, timedelta],
        said: bool,
        picks: list[int],
        place: int,
        worker: int,
        fault: Fault | None,
    ) -> None:
        """A newcomer, or a meter that lost its memory; its frame may come at once, before others, or later."""
        site, meter = self.site, self.newcomer(pick)
        if anew or meter.title not in site.certificates:
            if site.truth.newest(meter.title):
                site.lose_memory(meter)
            site.certify(meter, *dates)
        if allowed:
            site.allow(meter)
        sent = site.enrol(meter)
        if said:
            site.read([meter], pick)
            site.arrive(place, [sent, *(self.frame(one) for one in picks)], worker, fault)

    @rule(pick=PICK, worker=WORKER)
    def meter_may_enrol(self, pick: int, worker: int) -> None:
        """An operator allows it; what came before that, and waits, is looked at again."""
        self.site.allow(self.newcomer(pick))
        self.site.by_itself(self.site.workers[worker])

    @precondition(lambda self: self.site.certificates)
    @rule(pick=PICK, compromise=OFTEN_NOT)
    def certificate_is_revoked(self, pick: int, compromise: bool) -> None:
        """The meter goes on with it, until it makes another pair."""
        titles = list(self.site.certificates)
        self.site.revoke(self.site.meter_of(titles[pick % len(titles)]), compromise=compromise)

    @rule(leaked=OFTEN_NOT)
    def agreement_key_rotates(self, leaked: bool) -> None:
        """Maybe since the version before has leaked: what was agreed on with it is cut off."""
        if leaked:
            self.site.cut_off_agreement_key()
        else:
            self.site.rotate_agreement_key()

    # --- shared by rules ----------------------------------------------------------------------------

    def newcomer(self, pick: int) -> HonestMeter:
        """A meter that has a key pair of its own."""
        found = [one for one in self.site.meters if one.made.private]
        return found[pick % len(found)]
