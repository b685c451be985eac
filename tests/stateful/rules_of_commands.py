"""What may happen on the downlink: waves of key commands, other commands, and what becomes of them on their way."""

from contextlib import suppress
from datetime import timedelta

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from concentrators.commands import downlink, queue, rollouts
from concentrators.commands.queue import CommandRequest
from concentrators.commands.rollouts import WaveError
from concentrators.fleet.selection import Selection
from concentrators.models import CommandKind, RotationWave
from keyvault.device_keys import epochs
from tests.stateful.faults import Fault
from tests.stateful.headend import ACTOR, STRONG, USUAL, clock
from tests.stateful.rules import DEATH, LENGTHS, OFTEN_NOT, PICK, PLACE, POWER, Rules, faults

SCHEMES = st.sampled_from((None, None, None, "ccm", "session", "mac", "sealed", "hop"))


class CommandRules(Rules):
    """Commands, and the time that they take."""

    @rule(length=st.sampled_from(LENGTHS), fault=DEATH)
    def time_passes(self, length: timedelta, fault: Fault | None) -> None:
        """What beat does meanwhile: keys are retired, commands expire."""
        if clock.now + length < self.site.start:
            self.site.pass_time(length)
            faults.run(lambda: epochs.retire_due(clock.now), fault)
            queue.expire(clock.now)
            self.site.learn({("retiring", "retired")})

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
        now_s = clock.now_s
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

    def waves_step(self, fault: Fault | None) -> None:
        faults.run(lambda: rollouts.step(clock.now), fault)
        self.site.learn({(None, "pending")})
