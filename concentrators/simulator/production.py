"""Runs the meters of a plan: their values of each stretch of time go into the spool as frames. No Django."""

import time

from concentrators.simulator import obedience
from concentrators.simulator.enrolling import Enrolments
from concentrators.simulator.factory import Factory
from concentrators.simulator.ghosts import lives
from concentrators.simulator.keys import FIRST_EPOCH
from concentrators.simulator.meter import Memory, SimulatedMeter
from concentrators.simulator.misbehaviour import Mischief
from concentrators.simulator.obedience import SET_INTERVAL, Fault, TakenCommand
from concentrators.simulator.packs import ENERGY_REGISTER, event_payload, interval_payload, register_payload
from concentrators.simulator.plan import Lengths, Load, Plan, PlannedInterval
from concentrators.simulator.sent import ACCEPTED, Genuine, OverLink
from concentrators.simulator.spool import ExtraValue, Outgoing, Spool
from meters.readings.obis import COMMAND_DONE, COMMAND_LATE, COMMAND_REFUSED

_Readings = list[tuple[bytes, int]]  # payloads, with the minutes of their intervals


class Production:
    """All meters of a plan, started with the memories in the spool, and the time that they have reached.

    ``spread`` lets meters report over the interval that follows instead of all at its first second.
    """

    def __init__(self, plan: Plan, load: Load, spool: Spool, factory: Factory, *, spread: bool = False) -> None:
        self._plan, self._load, self._spool, self._spread = plan, load, spool, spread
        self.tick: int = spool.fact("tick") or 0
        memories = spool.memories()
        self._meters = [self._boot(number, factory, memories) for number in range(len(plan.meters))]
        self._ghosts = {ghost: self._boot(ghost.number, factory, memories) for ghost in plan.ghosts}
        self._by_title = {meter.system_title: meter for meter in (*self._meters, *self._ghosts.values())}
        self._link = factory.link(spool)
        self._mischief = Mischief(plan, self._ghosts, self._link)
        self._enrolments = Enrolments(plan, factory, self._meters)
        self._is_enrolled = not plan.enrolled or self.tick > 0  # nothing was measured before
        self._sets_change_at_s = plan.key_sets_change_at_s or 0
        self._with_next_set = {
            number
            for number, meter in enumerate(self._meters)
            if plan.changes_key_set(number) and meter.epoch == FIRST_EPOCH
        }
        self._late_formed = {number for number in range(len(plan.meters)) if plan.waits_for_profile(number)}
        self._is_late_profile_there = spool.fact("late_profile") is not None
        self._late_said = False
        self.frames = 0

    @property
    def clock_s(self) -> int:
        """The simulation's time: the begin of the next stretch."""
        return self._plan.start_s + self.tick * self._plan.tick_minutes * 60

    def is_ready(self) -> bool:
        """Whether frames can be verified: concentrators have the hop keys of their meters, and all meters are enrolled.

        A meter enrols once; its later frames wait until that is verified. After the first readings in a form without a
        push profile all wait until it is registered.
        """
        if not self._is_enrolled:
            if not self._spool.fact("enrolling"):
                memories = [self._meters[number].memory for number in self._plan.enrolled]
                frames = self._enrolments.frames(int(time.time()))
                self._spool.hand_over(frames, memories, said=self._enrolments.said(), facts={"enrolling": True})
                self.frames += len(frames)
            self._is_enrolled = all(self._spool.is_drained(number) for number in range(self._plan.concentrators))
        return self._link.is_ready() and self._is_enrolled and self._is_profile_there()

    def _is_profile_there(self) -> bool:
        """Whether there is the late push profile, if any frame needed it so far (``push_registration``)."""
        if not self._is_late_profile_there and self._spool.fact("late_said"):
            self._is_late_profile_there = self._spool.fact("late_profile") is not None
            return self._is_late_profile_there
        return True

    def advance(self, ticks: int, eagerness: float = 1.0) -> int:
        """Let the meters measure and seal for ``ticks`` more ticks; return how many frames that made.

        ``eagerness`` multiplies the rates of misbehaviour.
        """
        self._mischief.begin(self.tick, eagerness)
        frames = lives(self._plan, self._ghosts) if self.tick == 0 else []
        genuine = self._measured(self.tick, self.tick + ticks)
        for interval, number in sorted((end, number) for number, ends in genuine.items() for end in ends):
            self._report(number, genuine[number][interval], frames)
        self.tick += ticks
        frames += self._link.sums(self.clock_s, self._mischief.lies)
        memories = [meter.memory for meter in (*self._meters, *self._ghosts.values())]
        facts = {"tick": self.tick} | ({"late_said": True} if self._late_said else {})
        self._spool.hand_over(frames, memories, beside=self._link.write, facts=facts)
        self._spool.release_due(self.clock_s)
        self.frames += len(frames)
        return len(frames)

    def obey(self, now_s: float) -> int:
        """Let the meters execute the commands that have reached them; return how many frames that made."""
        mail = self._spool.mail(now_s)
        self._link.take_keys()  # after the mail was read: a concentrator has a new key before it delivers the command
        frames: list[Outgoing] = []
        said: list[ExtraValue] = []
        meters: dict[int, SimulatedMeter] = {}
        for one in mail:
            meter = self._by_title.get(one.system_title)
            if meter is not None and self._plan.is_out(meter.memory.number, int(now_s)):
                continue
            order = None if meter is None else meter.receiver.take(one.octets, meter.epoch)
            if meter is None or order is None:
                continue
            meters[meter.memory.number] = meter
            octets = self._follow(meter, one.concentrator, order, one.fault, now_s, said)
            frames += [Outgoing(one.concentrator, frame, ACCEPTED) for frame in octets]
        if mail:
            memories = [meter.memory for meter in meters.values()]
            self._spool.hand_over(frames, memories, mail, said, self._link.write)
        self.frames += len(frames)
        return len(frames)

    def finish(self) -> None:
        """End measuring: release all frames that were held back for later."""
        self._spool.release_due(float("inf"))

    def _boot(self, number: int, factory: Factory, memories: dict[int, Memory]) -> SimulatedMeter:
        memory = memories.get(number) or Memory(number, self._plan.first_register_wh(number))
        return factory.boot(number, memory, self.clock_s)

    def _follow(
        self,
        meter: SimulatedMeter,
        over: int,
        order: TakenCommand,
        fault: str,
        now_s: float,
        said: list[ExtraValue],
    ) -> list[bytes]:
        """Execute a command that a concentrator passed on, and return the frames that the meter sends then.

        Its answer is the last.
        """
        meter.let_time_pass(now_s)
        number = meter.memory.number
        readings: _Readings = []
        if order.again:
            answer = meter.receiver.answer_again(order)
        else:
            does = meter.receiver.does(order) and meter.can(order) and fault != Fault.REFUSE
            register = COMMAND_DONE if does else COMMAND_REFUSED
            if does and meter.is_late(order, now_s):
                register = COMMAND_LATE
            elif does and order.kind == SET_INTERVAL:
                register = COMMAND_DONE if self._measure_in(meter, *order.fields[2:]) else COMMAND_REFUSED
            elif does:
                readings = self._do(meter, order, int(now_s), said)
            answer = meter.answer(order, int(now_s), register)
        carried = [self._link.reading(meter, over, payload, minutes, now_s) for payload, minutes in readings]
        octets = [*self._lists(meter, over, now_s), *(one.octets for one in carried if one is not None)]
        if fault != Fault.LOSE_ANSWER:
            payload = event_payload(answer.at_s, answer.register, answer.number)
            said_so = self._link.event(meter, over, payload, now_s)
            octets += [] if said_so is None else [said_so]
            said.append(ExtraValue(number, answer.register, answer.at_s, answer.number))
        return octets

    def _do(self, meter: SimulatedMeter, order: TakenCommand, now_s: int, said: list[ExtraValue]) -> _Readings:
        """Execute a checked command; return the payloads of the resulting readings, with their length in minutes."""
        number = meter.memory.number
        match order.kind:
            case obedience.SET_KEY | obedience.AGREE_KEY:
                meter.renew(order)
            case obedience.SET_CLOCK:
                meter.set_clock(now_s)
            case obedience.SET_CONCENTRATOR:
                meter.send_over(order.fields[2])
            case obedience.READ_NOW:
                at_s = self._measured_until(number)
                said.append(ExtraValue(number, ENERGY_REGISTER, at_s, meter.memory.register_wh))
                return [(register_payload(at_s, meter.memory.register_wh), 0)]
            case obedience.RESEND:
                return self._again(number, *order.fields[2:])
        return []

    def _measure_in(self, meter: SimulatedMeter, minutes: int, from_s: int) -> bool:
        """Change the interval length from a time on; False if the meter cannot, or it is too late.

        True if it was changed already: by the same command, sealed under an older key.
        """
        lengths = meter.lengths
        last_s, last = lengths[-1] if lengths else (0, self._plan.interval_of(meter.memory.number))
        if (last_s, last) == (from_s, minutes):
            return True
        can = self._load.has_intervals_of(minutes) and minutes % self._plan.tick_minutes == 0
        if not can or from_s < max(last_s, self.clock_s) or from_s % (last * 60) or from_s % (minutes * 60):
            return False
        meter.measure_in(from_s, minutes)
        return True

    def _lengths(self, number: int) -> Lengths:
        return self._meters[number].lengths

    def _measured_until(self, number: int) -> int:
        """Return when the last measured interval ended; the meter's register has its value of that time."""
        return self._plan.measured_until(number, self.tick, self._lengths(number))

    def _again(self, number: int, from_s: int, to_s: int) -> _Readings:
        """Return the payloads of the intervals measured between two times, with their length in minutes."""
        return [
            (interval_payload(one.start_s, one.register_wh, one.energy_wh), one.minutes)
            for one in self._plan.intervals(self._load, number, self.tick, self._lengths(number))
            if from_s <= one.start_s < to_s
        ]

    def _send_kept(self, number: int, home: int, until_s: int, now_s: float) -> list[Outgoing]:
        """Seal again, up to an interval, what the earlier concentrator did not accept."""
        meter = self._meters[number]
        if meter.kept_since_s is None:
            return []
        again = self._again(number, meter.kept_since_s, until_s)
        meter.keep(None)
        carried = [self._link.reading(meter, home, payload, minutes, now_s) for payload, minutes in again]
        return [Outgoing(home, one.octets, ACCEPTED) for one in carried if one is not None]

    def _measured(self, first_tick: int, end_tick: int) -> dict[int, dict[int, PlannedInterval]]:
        """Return the intervals that end in the stretch, by meter and end (Unix seconds)."""
        return {
            number: {
                one.end_s: one
                for one in self._plan.intervals(
                    self._load, number, end_tick, self._lengths(number), first_tick, meter.memory.register_wh
                )
            }
            for number, meter in enumerate(self._meters)
        }

    def _report(self, number: int, interval: PlannedInterval, frames: list[Outgoing]) -> None:
        """Seal a meter's report of an interval, and the wrong frames that go with it."""
        meter, now_s, place = self._meters[number], time.time(), len(frames)
        told = self._link.home_of(meter)
        home = self._plan.home_of(number) if told is None else told
        if number in self._with_next_set and interval.end_s > self._sets_change_at_s:
            meter.use_next_set()
            self._with_next_set.remove(number)
        payload = meter.measure(interval.start_s, interval.energy_wh)
        carried = self._link.reading(meter, home, payload, interval.minutes, now_s)
        if carried is None:
            if meter.key.scheme == "hop" and meter.kept_since_s is None:
                meter.keep(interval.start_s)
            return  # unless it is sent again, the truth misses it
        frames += self._send_kept(number, home, interval.start_s, now_s)
        frame = Outgoing(home, carried.octets, ACCEPTED)
        if self._spread:
            length_s = interval.minutes * 60
            frame.not_before_s = interval.end_s + number * 7919 % (length_s * 9 // 10)
        frames.append(frame)
        event = self._plan.event_in(number, interval)
        said_so = None if event is None else self._link.event(meter, home, event_payload(*event), now_s)
        if said_so is not None:
            frames.append(Outgoing(home, said_so, ACCEPTED))
        said = interval.start_s, interval.minutes, interval.register_wh, interval.energy_wh
        genuine = Genuine(meter, carried.heard, carried.sender, frame, carried.counter, *said)
        if number in self._late_formed:
            self._late_said = True
            if not self._is_late_profile_there:
                return  # what is wrong beside a frame that waits would be judged before it
        for wrong in self._mischief.beside(genuine):
            if isinstance(wrong, OverLink):
                self._link.drop(wrong, now_s)
            else:
                frames.append(wrong)
        frames[place:place] = [Outgoing(home, octets, ACCEPTED) for octets in self._lists(meter, home, now_s)]

    def _lists(self, meter: SimulatedMeter, over: int, now_s: float) -> list[bytes]:
        """Return frames with the coupon lists for what the meter just signed: they go first."""
        carried = [self._link.event(meter, over, octets, now_s) for octets in meter.signer.take_lists()]
        return [octets for octets in carried if octets is not None]
