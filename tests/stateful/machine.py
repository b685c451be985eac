"""What may happen to a head-end, its meters and its attackers: rules that Hypothesis puts in any order."""

import sys
from datetime import timedelta

from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from tests.stateful.between import ACTS, verify_beside
from tests.stateful.ending import end_well
from tests.stateful.faults import Fault
from tests.stateful.field import ATTACKS, forged
from tests.stateful.headend import HeadEnd, clock
from tests.stateful.restoring import back_up, restore
from tests.stateful.rules import DEATH, FRAMES, METERS, PICK, PLACE, WORKER, faults, lived
from tests.stateful.rules_of_commands import CommandRules
from tests.stateful.rules_of_enrolment import EnrolmentRules
from tests.stateful.rules_of_holders import HolderRules
from tests.stateful.rules_of_keys import KeyRules
from tests.stateful.rules_of_pushing import PushRules

MADE = (
    ("imported", "ccm"),
    ("exported", "sealed"),
    ("derived", "mac"),
    ("unshipped", "session"),
    ("agreed", "session"),
    ("imported", "hop"),
)
BEHIND = (timedelta(minutes=20), timedelta(hours=1), timedelta(days=2))


class Machine(KeyRules, CommandRules, HolderRules, EnrolmentRules, PushRules):
    """One life of a head-end: seven meters at two concentrators that hold keys, and one that pushes DLMS."""

    @initialize(scheme=st.sampled_from(("ccm", "session", "hop")))
    def head_end_begins(self, scheme: str) -> None:
        lived["lives"] += 1
        self.site = site = HeadEnd(faults)
        for concentrator in site.concentrators:
            site.hold_keys(concentrator)
        for number, (keys, of) in enumerate(MADE):
            site.commission(number, site.concentrators[number % 2], keys, of)
        site.register_newcomer(len(MADE), site.concentrators[0], scheme)
        site.commission_pusher(0, site.concentrators[1])
        site.bring_home(site.meters[5])
        for _ in range(2):
            site.read([*site.meters, *site.pushers], 100)
        self.saved = back_up(site)

    # --- meters and the air -----------------------------------------------------------------------

    @rule(chosen=METERS, wh=st.integers(0, 500), picks=FRAMES, place=PLACE, worker=WORKER, fault=DEATH)
    def meters_read(
        self, chosen: set[int], wh: int, picks: list[int], place: int, worker: int, fault: Fault | None
    ) -> None:
        """New frames and old ones arrive in any order, some not yet; a worker verifies them, or dies of it."""
        self.read(chosen, wh)
        self.site.arrive(place, [self.frame(pick) for pick in picks], worker, fault)

    @rule(chosen=METERS, wh=st.integers(0, 500), picks=FRAMES, place=PLACE)
    def task_is_lost(self, chosen: set[int], wh: int, picks: list[int], place: int) -> None:
        """Frames arrive, and nobody verifies them for now."""
        self.read(chosen, wh)
        self.site.post(place, [self.frame(pick) for pick in picks])
        self.site.settle()

    @rule(
        chosen=METERS,
        picks=FRAMES,
        place=PLACE,
        worker=WORKER,
        attack=st.sampled_from(ATTACKS),
        number=PICK,
        other=PICK,
    )
    def attacker_strikes(
        self, chosen: set[int], picks: list[int], place: int, worker: int, attack: str, number: int, other: int
    ) -> None:
        """One forged frame among honest ones."""
        self.read(chosen, number)
        frames = [self.frame(pick) for pick in picks]
        like = frames[0]
        if attack == "clone" and like.octets not in self.site.truth.times_accepted():
            attack = "wrong key"  # a clone that comes first is nothing that a head-end can know
        letters = [letter.octets for letter in self.site.letters]
        forgery = forged(attack, like, self.site.sender_of(like.title), self.meter(other), number, letters)
        frames.insert(number % (len(frames) + 1), forgery)
        self.site.arrive(place, frames, worker)

    @rule(pick=PICK, place=PLACE, worker=WORKER)
    def frame_is_altered_on_its_way(self, pick: int, place: int, worker: int) -> None:
        """The one after it is not. What the meter sent may come yet."""
        meter = self.meter(pick)
        for _ in range(2):
            self.site.read([meter], pick)
        sent, following = self.site.air[-2:]
        altered = forged("flip", sent, meter, meter, 8 * len(sent.octets) - 1, [])
        self.site.arrive(place, [altered, following], worker)

    @rule(
        chosen=METERS,
        wh=st.integers(0, 500),
        picks=FRAMES,
        place=PLACE,
        worker=WORKER,
        behind=st.sampled_from(BEHIND),
        said=st.sampled_from((None, None, *BEHIND)),
    )
    def clock_is_behind(
        self,
        chosen: set[int],
        wh: int,
        picks: list[int],
        place: int,
        worker: int,
        behind: timedelta,
        said: timedelta | None,
    ) -> None:
        """Frames arrive at a web server whose clock is slow; somebody may say so, and by how much, or be wrong."""
        self.read(chosen, wh)
        uplink_id = self.site.post(place, [self.frame(pick) for pick in picks], behind)
        if uplink_id in self.site.unverified():
            self.site.verify(uplink_id, self.site.workers[worker])
        if said is not None and self.site.truth.uplinks[uplink_id].received_at + said <= clock.now:
            self.site.correct_clock(uplink_id, said, self.site.workers[worker])

    @rule(chosen=METERS, wh=st.integers(0, 500), picks=FRAMES, place=PLACE, worker=WORKER)
    def new_firmware_says_more(self, chosen: set[int], wh: int, picks: list[int], place: int, worker: int) -> None:
        """Frames with a register that may not be in the catalogue yet, among others."""
        self.site.read([self.site.meters[number] for number in sorted(chosen)], wh, extra=True)
        self.site.arrive(place, [self.frame(pick) for pick in picks], worker)

    @rule(worker=WORKER, unit=st.sampled_from(("Wh", "varh")))
    def register_is_added(self, worker: int, unit: str) -> None:
        """With a wrong unit, where it is new; whoever errs so errs in the interval length of a meter, too."""
        self.site.add_register(unit)
        if unit != "Wh":
            self.site.register_wrongly(self.meter(worker))
        self.site.by_itself(self.site.workers[worker])

    @rule(worker=WORKER)
    def register_is_corrected(self, worker: int) -> None:
        """And whatever else was entered wrongly."""
        self.site.correct_register()
        for meter in self.site.meters:
            self.site.correct_length(meter)
        self.site.by_itself(self.site.workers[worker])

    @rule(worker=WORKER)
    def schedule_looks_at_what_waits(self, worker: int) -> None:
        self.site.by_itself(self.site.workers[worker])

    @rule(pick=PICK)
    def meter_boots(self, pick: int) -> None:
        self.meter(pick).boot(clock.now_s)

    # --- workers ----------------------------------------------------------------------------------

    @precondition(lambda self: self.site.unverified())
    @rule(pick=PICK, worker=WORKER)
    def worker_takes_its_turn(self, pick: int, worker: int) -> None:
        waiting = self.site.unverified()
        self.site.verify_in_turn(waiting[pick % len(waiting)], self.site.workers[worker])

    @rule(
        pick=PICK,
        picks=FRAMES,
        more=FRAMES,
        place=PLACE,
        worker=WORKER,
        statement=st.integers(1, 9),
        act=st.sampled_from(ACTS),
    )
    def another_comes_between(
        self, pick: int, picks: list[int], more: list[int], place: int, worker: int, statement: int, act: str
    ) -> None:
        """While a worker verifies an uplink, another one does, or somebody acts on a meter or a key of it."""
        first = self.site.post(place, [self.subject(act, pick), *(self.frame(one) for one in picks)])
        second = self.site.post(1 - place, [self.frame(one) for one in more])
        waiting = self.site.unverified()
        if first in waiting and second in waiting:
            verify_beside(self.site, first, second, worker, statement, act)

    @rule(worker=WORKER)
    def sweep(self, worker: int) -> None:
        self.site.sweep(self.site.workers[worker])

    @rule(worker=WORKER)
    def worker_restarts(self, worker: int) -> None:
        self.site.workers[worker].restart()

    # --- backups ----------------------------------------------------------------------------------

    @rule()
    def backup_is_made(self) -> None:
        self.saved = back_up(self.site)

    @precondition(lambda self: self.saved)
    @rule()
    def database_is_lost_and_restored(self) -> None:
        assert self.saved
        restore(self.site, self.saved)

    # --- the registry -----------------------------------------------------------------------------

    @rule(pick=PICK)
    def meter_is_suspended_or_resumed(self, pick: int) -> None:
        self.site.toggle_service(self.meter(pick))

    @rule(pick=PICK, place=PLACE)
    def meter_moves_to_another_concentrator(self, pick: int, place: int) -> None:
        self.site.assign(self.meter(pick), self.site.concentrators[place])
        self.site.settle()

    @invariant()
    def step_is_counted(self) -> None:
        lived["steps"] += 1

    # What is to happen more often than the rest.
    usual = usual_1 = usual_2 = meters_read
    often_1 = task_is_lost
    often_2 = often_3 = another_comes_between
    often_4 = attacker_strikes
    often_5 = often_6 = CommandRules.wave_begins
    often_7 = CommandRules.concentrator_fetches
    often_8 = CommandRules.command_comes_to_its_meter
    often_9 = CommandRules.time_passes
    often_10 = HolderRules.hop_meter_moves
    often_11 = EnrolmentRules.meter_enrols
    often_12 = PushRules.meters_push

    def teardown(self) -> None:
        if hasattr(self, "site") and sys.exc_info()[0] is None:  # a step that failed says more than what follows
            end_well(self.site)
