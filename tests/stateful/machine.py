"""What may happen to a head-end, its meters and its attackers: rules that Hypothesis puts in any order."""

import sys
from collections import Counter
from contextlib import suppress
from datetime import timedelta

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from concentrators.commands import downlink, queue, rollouts
from concentrators.commands.queue import CommandRequest
from concentrators.commands.rollouts import WaveError
from concentrators.fleet.selection import Selection
from concentrators.models import CommandKind, RotationWave
from keyvault import master_key
from keyvault.device_keys import agreement_keys, epochs
from keyvault.master_key import rewrap, versions
from keyvault.master_key.rewrap import RotationError
from keyvault.master_key.versions import DestroyError
from keyvault.models import DeviceKey
from tests.stateful.between import ACTS, verify_beside
from tests.stateful.ending import end_well
from tests.stateful.faults import Fault, Faults
from tests.stateful.field import ATTACKS, HonestMeter, forged
from tests.stateful.headend import ACTOR, STRONG, USUAL, HeadEnd, clock, real_now
from tests.stateful.model import ACCEPTABLE, TRANSFER_EPOCH, Sent
from tests.stateful.restoring import Saved, back_up, restore
from tests.stateful.rotating import destroy_what_may_be, forget_backups, rotate_twice

MADE = (
    ("imported", "ccm"),
    ("exported", "sealed"),
    ("derived", "mac"),
    ("unshipped", "session"),
    ("agreed", "session"),
)
PICK = st.integers(0, 999)
WORKER = st.integers(0, 1)
PLACE = st.integers(0, 1)  # of a concentrator
METERS = st.sets(st.integers(0, 4), min_size=1)
SCHEMES = st.sampled_from((None, None, None, "ccm", "session", "mac", "sealed"))
FRAMES = st.lists(PICK, min_size=1, max_size=5)
OFTEN_NOT = st.sampled_from((False, False, False, True))
DEATH = st.one_of(st.none(), st.none(), st.integers(0, 15).map(Fault))
POWER = st.one_of(st.none(), st.none(), st.integers(0, 9))  # of a meter: for how many writes it lasts
BEHIND = (timedelta(minutes=20), timedelta(hours=1), timedelta(days=2))
LENGTHS = [timedelta(minutes=10), timedelta(hours=7), timedelta(days=3), timedelta(days=8), timedelta(days=11)]

faults = Faults()
lived: Counter[str] = Counter()  # lives and their steps


class Machine(RuleBasedStateMachine):
    """One life of a head-end. Picks are numbers, taken modulo whatever is there."""

    saved: Saved | None

    @initialize()
    def head_end_begins(self) -> None:
        lived["lives"] += 1
        self.site = site = HeadEnd(faults)
        for number, (keys, scheme) in enumerate(MADE):
            site.commission(number, site.concentrators[number % 2], keys, scheme)
        for _ in range(2):
            site.read(site.meters, 100)
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
        forgery = forged(attack, like, self.site.meter_of(like.title), self.meter(other), number, letters)
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
        self.meter(pick).boot(int(clock.now.timestamp()))

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

    @rule(length=st.sampled_from(LENGTHS), fault=DEATH)
    def time_passes(self, length: timedelta, fault: Fault | None) -> None:
        """What beat does meanwhile: keys are retired, commands expire."""
        if clock.now + length < self.site.start:
            self.site.pass_time(length)
            faults.run(lambda: epochs.retire_due(clock.now), fault)
            queue.expire(clock.now)
            self.site.learn({("retiring", "retired")})

    # --- the master key ---------------------------------------------------------------------------

    @rule(
        act=st.sampled_from(("begin", "begin", "batches", "stop", "resume", "destroy")),
        worker=WORKER,
        number=st.integers(1, 6),
        fault=DEATH,
    )
    def master_key_rotates(self, act: str, worker: int, number: int, fault: Fault | None) -> None:
        """A step of a rotation. Whoever destroys an old version too early is told so."""
        rotation = rewrap.current()
        with suppress(RotationError, DestroyError), self.site.workers[worker].at_work():
            match act:
                case "begin":
                    faults.run(lambda: rewrap.begin(number, ACTOR), fault)
                case "stop":
                    rewrap.stop(ACTOR)
                case "resume":
                    rewrap.resume(ACTOR)
                case "destroy":
                    old = master_key.provider().versions()
                    faults.run(lambda: versions.destroy(old[number % len(old)].number, ACTOR, real_now()), fault)
                case _ if rotation is not None:
                    for _ in range(number):
                        if not faults.run(lambda: rewrap.rewrap_batch(rotation.pk), fault):
                            break
        self.site.settle()

    @rule(worker=WORKER, batches=st.integers(0, 3), backups_kept=st.booleans())
    def master_key_rotates_twice_and_old_ones_go(self, worker: int, batches: int, backups_kept: bool) -> None:
        with self.site.workers[worker].at_work():
            if not backups_kept:
                forget_backups()
                self.saved = None
            rotate_twice(batches)
            destroy_what_may_be()
        assert self.saved is None or self.saved.versions <= set(master_key.provider().fresh().versions)
        self.site.settle()

    @rule()
    def agreement_key_rotates(self) -> None:
        """Keys that begin from now on go with the next version."""
        agreement_keys.rotate("hes-1", ACTOR, clock.now)

    # --- backups ----------------------------------------------------------------------------------

    @rule()
    def backup_is_made(self) -> None:
        self.saved = back_up(self.site)

    @precondition(lambda self: self.saved)
    @rule()
    def database_is_lost_and_restored(self) -> None:
        assert self.saved
        restore(self.site, self.saved)

    # --- device keys ------------------------------------------------------------------------------

    @rule(
        pick=PICK,
        everything=st.booleans(),
        stages=st.integers(0, 5),
        place=PLACE,
        refuse=OFTEN_NOT,
        cancelled=OFTEN_NOT,
        algorithm=st.sampled_from((None, None, USUAL, STRONG)),
        scheme=SCHEMES,
        fault=DEATH,
    )
    def wave_begins(
        self,
        pick: int,
        everything: bool,
        stages: int,
        place: int,
        refuse: bool,
        cancelled: bool,
        algorithm: int | None,
        scheme: str | None,
        fault: Fault | None,
    ) -> None:
        """A rotation of device keys, as far as it comes for now."""
        site = self.site
        selection = Selection(everything=True) if everything else Selection([self.meter(pick).title])
        with suppress(WaveError):
            rollouts.begin("wave", selection, ACTOR, clock.now, 600, 1_000, None if scheme else algorithm, None, scheme)
        if stages > 0:
            self.waves_step(fault)
        if stages > 1:
            site.fetch(site.concentrators[place], fault if stages == 2 else None)
        if stages > 2:
            for letter in site.letters[-4:]:
                site.deliver(letter, refuse=refuse, lose_answer=stages % 2 == 0)
        if stages > 3:
            site.read(site.meters, pick)
        if stages > 4:
            self.site.arrive(place, site.air[-4:], 0)
        if cancelled:
            self.wave_is_moved(-1, "cancel", None)

    @rule(pick=PICK, place=PLACE, cancelled=st.booleans())
    def wave_expires_and_another_begins(self, pick: int, place: int, cancelled: bool) -> None:
        """Commands were fetched, and no meter was heard of: are the keys with them or not?"""
        self.wave_begins(pick, True, 2, place, False, False, None, None, None)
        self.time_passes(timedelta(days=8), None)
        self.wave_begins(pick, True, 1, place, False, cancelled, None, None, None)

    @precondition(lambda self: RotationWave.objects.exists())
    @rule(pick=PICK, act=st.sampled_from(("step", "pause", "resume", "cancel")), fault=DEATH)
    def wave_is_moved(self, pick: int, act: str, fault: Fault | None) -> None:
        found = list(RotationWave.objects.order_by("pk").values_list("pk", flat=True))
        wave_id = found[pick % len(found)] if found else 0
        with suppress(WaveError):
            match act:
                case "step":
                    self.waves_step(fault)
                case "pause":
                    rollouts.pause(wave_id, ACTOR)
                case "resume":
                    rollouts.resume(wave_id, ACTOR)
                case _:
                    faults.run(lambda: rollouts.cancel(wave_id, ACTOR, clock.now), fault)
        self.site.learn({("pending", None)})

    @rule(pick=PICK, older=st.booleans())
    def key_is_compromised(self, pick: int, older: bool) -> None:
        keys = self.keys_of(self.meter(pick))
        if keys:
            epochs.compromise([keys[0 if older else -1].pk], ACTOR)
            self.site.learn({(before, "compromised") for before in ("pending", "active", "retiring", "retired")})

    @rule(place=PLACE, fault=DEATH)
    def concentrator_fetches(self, place: int, fault: Fault | None) -> None:
        self.site.fetch(self.site.concentrators[place], fault)

    @precondition(lambda self: self.site.letters)
    @rule(pick=PICK, refuse=OFTEN_NOT, lose_answer=st.booleans(), late=st.booleans(), power_for=POWER)
    def command_comes_to_its_meter(
        self, pick: int, refuse: bool, lose_answer: bool, late: bool, power_for: int | None
    ) -> None:
        """The newest, or any that was ever fetched: late, or once more."""
        letters = self.site.letters
        letter = letters[pick % len(letters)] if late else letters[-1 - pick % min(3, len(letters))]
        self.site.deliver(letter, refuse=refuse, lose_answer=lose_answer, power_for=power_for)

    @precondition(lambda self: self.site.letters)
    @rule(pick=PICK, delivered=st.booleans())
    def concentrator_acknowledges(self, pick: int, delivered: bool) -> None:
        letter = self.site.letters[pick % len(self.site.letters)]
        downlink.receipt(letter.concentrator, letter.number, delivered=delivered, now=clock.now)

    @rule(
        pick=PICK,
        kind=st.sampled_from((CommandKind.RESEND, CommandKind.READ_NOW, CommandKind.SET_CLOCK)),
        stages=st.integers(0, 3),
        place=PLACE,
    )
    def meter_is_asked(self, pick: int, kind: CommandKind, stages: int, place: int) -> None:
        """A command of the other lane, as far as it comes for now."""
        site, meter = self.site, self.meter(pick)
        now_s = int(clock.now.timestamp())
        period = {"from_s": now_s - 3 * 86_400, "to_s": now_s} if kind == CommandKind.RESEND else {}
        if site.truth.in_service[meter.title]:
            meter.row.refresh_from_db()
            queue.enqueue([CommandRequest(meter.row, kind, period)], "test", clock.now)
        if stages > 0:
            site.fetch(site.concentrators[place])
        if stages > 1:
            for letter in site.letters[-2:]:
                site.deliver(letter, lose_answer=stages == 2)
        if stages > 2:
            self.site.arrive(place, site.air[-6:], 0)

    # --- the registry -----------------------------------------------------------------------------

    @rule(pick=PICK)
    def meter_is_suspended_or_resumed(self, pick: int) -> None:
        self.site.toggle_service(self.meter(pick))

    @rule(pick=PICK, place=PLACE)
    def meter_moves_to_another_concentrator(self, pick: int, place: int) -> None:
        self.site.assign(self.meter(pick), self.site.concentrators[place])
        self.site.settle()

    @rule(worker=WORKER, death_of_import=DEATH, death_of_worker=DEATH)
    def shipment_comes(self, worker: int, death_of_import: Fault | None, death_of_worker: Fault | None) -> None:
        """And frames that wait for keys are verified again."""
        if self.site.unshipped:
            self.site.ship(self.site.unshipped[0], death_of_import)
            if self.keys_of(self.site.unshipped[0]):
                self.site.unshipped.pop()
        self.site.verify_again(self.site.workers[worker], death_of_worker)

    @invariant()
    def step_is_counted(self) -> None:
        lived["steps"] += 1

    @rule(pick=PICK, known=st.booleans(), visited=st.booleans(), fault=DEATH)
    def transfer_key_is_replaced(self, pick: int, known: bool, visited: bool, fault: Fault | None) -> None:
        """By a shipment, maybe since somebody else knows it; what is under way was sealed under the old one."""
        meter = self.meter(pick)
        if (meter.title, TRANSFER_EPOCH) in self.site.truth.keys:
            if known:
                self.site.compromise_transfer_key(meter)
            self.site.replace_transfer_key(meter, fault)
            if visited:
                self.site.visit(meter)

    # What is to happen more often than the rest.
    usual = usual_1 = usual_2 = meters_read
    often_1 = task_is_lost
    often_2 = often_3 = another_comes_between
    often_4 = attacker_strikes
    often_5 = often_6 = wave_begins
    often_7 = concentrator_fetches
    often_8 = command_comes_to_its_meter
    often_9 = time_passes

    def teardown(self) -> None:
        if hasattr(self, "site") and sys.exc_info()[0] is None:  # a step that failed says more than what follows
            end_well(self.site)

    # --- shared by rules ----------------------------------------------------------------------------------

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
        site.read([good[pick % len(good)] if good else self.meter(pick)], pick)
        return site.air[-1]

    def read(self, chosen: set[int], wh: int) -> None:
        self.site.read([self.site.meters[number] for number in sorted(chosen)], wh)

    def waves_step(self, fault: Fault | None) -> None:
        faults.run(lambda: rollouts.step(clock.now), fault)
        self.site.learn({(None, "pending")})

    def keys_of(self, meter: HonestMeter) -> list[DeviceKey]:
        return list(DeviceKey.objects.filter(system_title=meter.title, epoch__gt=0).order_by("epoch"))
