"""Who is out there: honest meters, which seal, keep and obey, and an attacker who has heard all of it."""

from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import NamedTuple

from concentrators.simulator.keys import pushes
from concentrators.simulator.meter import Memory, SimulatedMeter
from concentrators.simulator.nonvolatile import NonVolatile, PowerLostError
from concentrators.simulator.obedience import (
    AGREE_KEY,
    READ_NOW,
    RESEND,
    SET_CLOCK,
    SET_CONCENTRATOR,
    SET_KEY,
    TakenCommand,
)
from concentrators.simulator.packs import ENERGY_REGISTER, event_payload, interval_payload, register_payload
from concentrators.simulator.sealers import Sealer, sealer
from keyvault.cose.forms import KID_OCTETS
from keyvault.device_keys.fingerprints import fingerprint
from keyvault.enrolment.frames import parse_enrolment
from keyvault.schemes.dlms.security import LAST_COUNTER
from keyvault.schemes.table import ENVELOPES
from meters.models import Meter
from meters.readings.obis import COMMAND_DONE, COMMAND_LATE, COMMAND_REFUSED, LOAD_PROFILE, STANDARD_LOG
from tests.builders import seal_frame, senml_payload
from tests.stateful.entities import EXTRA, INTERVAL_S, Certificate, Sent, Value
from tests.stateful.holders import Holder

FLEET_KEY = sha256(b"fleet key").digest()
_LOGGED = 200  # a code of the standard log
ATTACKS = ("flip", "wrong key", "other meter", "other epoch", "downgrade", "downlink", "transfer key", "noise", "clone")


class Made(NamedTuple):
    """What a meter begins with; ``head_end`` is the public key that it seals to, ``private`` its own to agree with.

    ``next_key`` is the key set after its own, of a DLMS meter.
    """

    key: bytes
    transfer_key: bytes
    alg: int
    transfer_alg: int
    scheme: str = "ccm"
    head_end: bytes = b""
    private: bytes = b""
    epoch: int = 1
    next_key: bytes = b""


class HonestMeter:
    """A meter, with what it keeps in non-volatile memory; ``holders`` are the concentrators that it may send over."""

    def __init__(self, row: Meter, made: Made, now_s: int, holders: Mapping[bytes, Holder]) -> None:
        self.row, self._holders = row, holders
        self.title = bytes(row.system_title)
        self._memory = Memory(row.pk)
        self._intervals: dict[int, tuple[int, int]] = {}
        self._kept: list[tuple[bytes, tuple[Value, ...]]] = []  # what no concentrator took yet
        self.done: set[int] = set()  # numbers of the commands that it did
        self._reached_over = b""  # the concentrator that brought the command which it follows, where that has a title
        self._now_s = now_s
        self.begin_with(made, now_s)

    def begin_with(self, made: Made, now_s: int) -> None:
        """Begin with keys as from the factory: whatever keys and counters it had are lost."""
        self.made, self.transfer_key = made, made.transfer_key
        self.done.clear()
        self._said: dict[tuple[bytes, int], bytes] = {}  # plaintext by kid, with the session's kid context, and counter
        self._memory = Memory(self.row.pk, self._memory.register_wh)
        self.boot(now_s)

    @property
    def made_key(self) -> bytes:
        return self.made.key

    @property
    def transfer_alg(self) -> int:
        return self.made.transfer_alg

    @property
    def concentrator(self) -> bytes:
        """The system title of the concentrator that it was told to send over; empty where it knows none."""
        return self._device.concentrator

    @property
    def waits(self) -> bool:
        """Whether there is nobody to send its readings to: its concentrator opens them, and has no key, or is none."""
        over = self._holders.get(self.concentrator)
        is_elsewhere = self._reached_over not in (b"", self.concentrator)
        return self.scheme == "hop" and (over is None or is_elsewhere or not over.knows(self._device.kid))

    @property
    def epoch(self) -> int:
        return self._device.epoch

    @property
    def key(self) -> bytes:
        return self._device.key.octets

    @property
    def scheme(self) -> str:
        return self._device.key.scheme

    @property
    def alg(self) -> int:
        return self._device.key.alg

    def visit(self, transfer_key: bytes, now_s: int) -> None:
        """Somebody comes and gives the meter another transfer key."""
        self.transfer_key = transfer_key
        self.boot(now_s)

    def boot(self, now_s: int) -> None:
        """Power comes back: the counter jumps to what was reserved, or a session begins."""
        made = self.made
        self._now_s = now_s
        self._memory.nonvolatile.power = None
        self._device = SimulatedMeter(
            self.title,
            self.made_key,
            self._memory,
            self.transfer_key,
            alg=made.alg,
            transfer_alg=made.transfer_alg,
            scheme=made.scheme,
            head_end=made.head_end,
            private=made.private,
            made_epoch=made.epoch,
            clock_s=now_s,
            next_key=made.next_key,
        )

    def use_next_set(self) -> None:
        """Send under the key set of the next epoch from now on, as its own system told it."""
        self._device.use_next_set()

    def seal_with_other_key(self, counter: int, payload: bytes) -> bytes:
        """A frame of somebody with another key."""
        return self._for_head_end(self._device.impostor(self.title + self.key)).seal(counter, payload)

    def _for_head_end(self, device: SimulatedMeter) -> Sealer:
        """What seals for the head-end in any scheme."""
        key = device.key._replace(scheme="ccm") if self.scheme == "hop" else device.key
        return sealer(key, self.title, device.place)

    def is_sealing_as(self, sent: Sent) -> bool:
        """Whether a frame is of the epoch, and of the session, that the meter seals in now."""
        context = self._device.place.kid_context if sent.context else b""
        return (sent.epoch, sent.context) == (self.epoch, context)

    def seal_again(self, counter: int, payload: bytes) -> bytes:
        """What whoever cloned the meter seals, with a counter of its choice."""
        return self._for_head_end(self._device).seal(counter, payload)

    def seal_otherwise(self, counter: int, payload: bytes) -> bytes:
        """A frame under the meter's own key that is not of its scheme and algorithm."""
        scheme, alg = ("mac", 4) if counter % 2 else ("ccm", 21 - self.alg if self.alg in (10, 11) else 10)
        if scheme == self._device.key.scheme:
            scheme, alg = ("ccm", 10) if scheme == "mac" else (scheme, alg)
        key = self._device.key._replace(scheme=scheme, alg=alg)
        return sealer(key, self.title, self._device.place).seal(counter, payload)

    def read(self, interval_s: int, wh: int, now_s: int, *, extra: bool = False) -> list[Sent]:
        """A frame of one interval; no interval is read twice. ``extra``: with a register that new firmware has.

        None where there is nobody to send it to: it comes with the next one.
        """
        assert interval_s not in self._intervals
        self._now_s = now_s
        self._intervals[interval_s] = self._memory.register_wh, wh
        self._memory.register_wh += wh
        if not extra:
            return self._say_interval(interval_s)
        said = {ENERGY_REGISTER: self._intervals[interval_s][0], LOAD_PROFILE: wh, EXTRA: wh}
        return self._seal(senml_payload(said, interval_s), *((name, interval_s, value) for name, value in said.items()))

    def obey(
        self, octets: bytes, now_s: int, *, over: bytes = b"", refuse: bool, power_for: int | None = None
    ) -> list[Sent]:
        """What a command makes the meter send: nothing where it drops it, its answer last.

        ``over`` is the title of the concentrator that brought it, and hears the answer. ``power_for`` is how many
        writes the power lasts: what the meter meant to send is lost with it.
        """
        self._reached_over = over
        if power_for is not None:
            self._memory.nonvolatile.power = lose_power_after(power_for)
        try:
            return self._obey(octets, now_s, refuse=refuse)
        except PowerLostError:
            self.boot(now_s)
            return []
        finally:
            self._memory.nonvolatile.power = None
            self._reached_over = b""

    def enrol(self, octets: bytes, certificate: Certificate, now_s: int) -> Sent:
        """A frame that brings a certificate of the meter's key pair, and an event."""
        value = STANDARD_LOG, now_s, _LOGGED
        frame = self._device.enrol(octets, event_payload(value[1], *value[::2]))
        parsed = parse_enrolment(frame)
        assert parsed is not None
        name = fingerprint(self.key)
        return Sent(
            frame, self.title, self.epoch, parsed.frame.counter, (value,), certificate=certificate, key_name=name
        )

    def _obey(self, octets: bytes, now_s: int, *, refuse: bool) -> list[Sent]:
        device = self._device
        order = device.receiver.take(octets, device.epoch)
        if order is None:
            return []
        device.let_time_pass(now_s)
        self._now_s = now_s
        sent: list[Sent] = []
        if order.again:
            answer = device.receiver.answer_again(order)
        else:
            register = COMMAND_DONE if device.receiver.does(order) and not refuse else COMMAND_REFUSED
            if register == COMMAND_DONE and device.is_late(order, now_s):
                register = COMMAND_LATE
            elif register == COMMAND_DONE:
                sent += self._do(order)
                self.done.add(order.number)
            answer = device.answer(order, now_s, register)
        payload = event_payload(answer.at_s, answer.register, answer.number)
        sent += self._say(payload, (answer.register, answer.at_s, answer.number))
        return sent

    def _do(self, order: TakenCommand) -> list[Sent]:
        if order.kind in (SET_KEY, AGREE_KEY):
            self._device.renew(order)
        elif order.kind == SET_CLOCK:
            self._device.set_clock(order.fields[2])
        elif order.kind == SET_CONCENTRATOR:
            self._device.send_over(order.fields[2])
        elif order.kind == READ_NOW and self._intervals:
            at_s = max(self._intervals) + INTERVAL_S
            value = ENERGY_REGISTER, at_s, self._memory.register_wh
            return self._seal(register_payload(*value[1:]), value)
        elif order.kind == RESEND:
            first, end = order.fields[2:]
            within = [one for one in sorted(self._intervals) if first <= one < end]
            return [sent for one in within for sent in self._say_interval(one)]
        return []

    def _say_interval(self, interval_s: int) -> list[Sent]:
        register_wh, wh = self._intervals[interval_s]
        values = (ENERGY_REGISTER, interval_s, register_wh), (LOAD_PROFILE, interval_s, wh)
        return self._seal(interval_payload(interval_s, register_wh, wh), *values)

    def say_event(self, now_s: int) -> list[Sent]:
        """Something that the meter logs, of its own accord."""
        value = STANDARD_LOG, now_s, _LOGGED
        self._now_s = now_s
        return self._say(event_payload(value[1], *value[::2]), value)

    def _say(self, payload: bytes, value: Value) -> list[Sent]:
        """A frame with an event: the meter's own word in every scheme. None where its concentrator drops it."""
        if self.scheme != "hop":
            return self._seal(payload, value)
        octets = self._device.seal_event(payload)
        over = self._holders.get(self._reached_over or self.concentrator)
        passed = octets if over is None else over.pass_on(self._device.wear_tag(octets), self._now_s)
        return [] if passed is None else [self._sent(octets, payload, (value,))]

    def _seal(self, payload: bytes, *values: Value) -> list[Sent]:
        """Frames with readings: those that could not be sent yet, and these."""
        self._kept.append((payload, values))
        if self.waits:
            return []
        kept, self._kept = self._kept, []
        return [self._carry(*one) for one in kept]

    def _carry(self, payload: bytes, values: tuple[Value, ...]) -> Sent:
        """A frame with readings; of scheme hop as the concentrator says it."""
        octets = self._device.seal(payload)
        sent = self._sent(octets, payload, values)
        if self.scheme != "hop":
            return sent
        return self._holders[self.concentrator].report(self.title, octets, values, self._now_s)

    def _sent(self, octets: bytes, payload: bytes, values: tuple[Value, ...]) -> Sent:
        starts = ENVELOPES.starts
        frame = starts[octets[: starts.octets]][1](octets)
        over = self.concentrator if values[0][0] in (ENERGY_REGISTER, LOAD_PROFILE) else b""
        under = frame.kid + bytes((self.epoch,)) + over  # frames of DLMS name the title alone
        assert self._said.setdefault((under, frame.counter), payload) is payload, "a nonce again"
        context = frame.kid[KID_OCTETS:]
        name = fingerprint(self.key) if self.made.private else b""
        return Sent(octets, self.title, self.epoch, frame.counter, values, context=context, key_name=name)


def lose_power_after(writes: int) -> Callable[[NonVolatile, str, bytes], None]:
    """Power that lasts for so many writes; the next one is torn: half of its octets are the new ones."""
    left = iter(range(writes))

    def power(memory: NonVolatile, cell: str, octets: bytes) -> None:
        if next(left, None) is None:
            half = len(octets) // 2
            memory.cells[cell] = octets[:half] + memory.cells.get(cell, b"")[half:]
            raise PowerLostError(f"in {cell}")

    return power


def forged(
    attack: str, like: Sent, whose: HonestMeter | Holder, other: HonestMeter, number: int, commands: list[bytes]
) -> Sent:
    """A frame of an attacker who heard a frame of one meter, and what went by on the downlink."""
    title, epoch, counter = like.title, like.epoch, like.counter
    last = LAST_COUNTER if pushes(whose.scheme) else 2**40 - 1
    payload = interval_payload(like.values[-1][1] if like.values else 0, 1, 66_666)
    match attack:
        case "flip":
            octets = bytearray(like.octets)
            octets[number // 8 % len(octets)] ^= 1 << number % 8
            made = bytes(octets)
        case "wrong key":  # far ahead: where it is believed before its tag, it locks the meter out
            made = whose.seal_with_other_key(last - number, payload)
        case "other meter":
            made = like.octets.replace(title, other.title if other.title != title else bytes(8))
        case "other epoch":
            made = seal_frame(title, epoch + 1, whose.made_key, counter + number % 3, payload)
        case "downgrade":  # the right key, the wrong algorithm, or another scheme
            made = whose.seal_otherwise(2**30 + number, payload)
        case "downlink" if commands:
            made = commands[number % len(commands)]
        case "transfer key":
            made = seal_frame(title, 0, whose.transfer_key, number, payload)
        case "clone" if whose.is_sealing_as(like):  # the right key; the caller sees to it that the counter is taken
            made = whose.seal_again(counter, payload)
        case _:
            shorter = like.octets[: number % (len(like.octets) - 5)]  # so that chance does not make the frame itself
            made = shorter + sha256(shorter).digest()[: number % 5]
    return Sent(made, title, epoch, counter, (), honest=False)
