"""A simulated meter's side of docs/frame.md, section 10: which commands it takes, and what it answers. No Django."""

import random
import struct
from enum import StrEnum
from typing import Any, NamedTuple

import cbor2

from concentrators.simulator.nonvolatile import CounterRecord, NonVolatile
from keyvault.cose.algorithms import command_algorithm
from keyvault.cose.kdf import downlink_key
from keyvault.cose.sealing import DirectionCipher, TagInvalidError
from keyvault.cose.structures import MalformedError, parse_frame
from meters.readings.obis import COMMAND_DONE, COMMAND_LATE, COMMAND_REFUSED

FIRST_EPOCH = 1
TRANSFER_EPOCH = 0
SET_KEY, READ_NOW, RESEND, SET_CLOCK, SET_INTERVAL = 1, 2, 3, 4, 5
_SHAPES: dict[int, list[tuple[type, ...]]] = {
    SET_KEY: [(int, int, int, bytes, int)],
    READ_NOW: [(int, int)],
    RESEND: [(int,) * 4],
    SET_CLOCK: [(int,) * 3, (int,) * 4],
    SET_INTERVAL: [(int,) * 4],
}
CLOCK_LATE_S = 600  # a set clock may be as old as the newest frame that the head-end heard before it sealed it


class Fault(StrEnum):
    """What can go wrong with a command, by the name that ``--command-faults`` takes."""

    LOSE = "lose"  # the concentrator forgets it, and says nothing
    DELAY = "delay"  # it comes to the meter late
    REPEAT = "repeat"  # the meter gets it twice
    REFUSE = "refuse"  # the meter will not do it
    LOSE_ANSWER = "lose_answer"  # done, but neither concentrator nor meter says so


class Faults:
    """Draws what goes wrong with a command: by the run's seed, the command's number, and how often it came."""

    def __init__(self, seed: int, rates: dict[str, float]) -> None:
        self._seed = seed
        self._kinds = [Fault(name) for name in rates]
        self._weights = [*rates.values(), max(0.0, 1 - sum(rates.values()))]
        self._came: dict[int, int] = {}

    def draw(self, number: int) -> Fault | None:
        came = self._came[number] = self._came.get(number, 0) + 1
        rng = random.Random(f"{self._seed}/command/{number}/{came}")
        return rng.choices([*self._kinds, None], self._weights)[0]


class AnswerEvent(NamedTuple):
    """An event by which a meter answers a command."""

    register: str
    number: int
    at_s: int


class Key(NamedTuple):
    """A key of 32 octets, the algorithm that it is for, and its epoch."""

    octets: bytes
    alg: int
    epoch: int


class Keys:
    """A meter's keys: those that it was made with, which stay, and two cells for what commands bring.

    The counter record (epoch in 2 octets, reserved counter in 6) says which epoch the meter sends under: a key
    that stands in a cell is not in use before that record names it.
    """

    def __init__(self, memory: NonVolatile, *made_with: Key) -> None:
        self._memory, self._counter = memory, CounterRecord(memory, "counter")
        self._made_with = made_with

    def boot(self) -> tuple[int, int]:
        """The epoch to send under, and the counter to go on with. LookupError: the meter needs a new key."""
        self._counter.repair()
        body = self._counter.load()
        if body is None:
            raise LookupError("neither copy of the counter record is valid")
        return int.from_bytes(body[:2], "big"), int.from_bytes(body[2:], "big")

    def reserve(self, epoch: int, counter: int) -> None:
        """Counters below this one may be used under the epoch when this returns."""
        self._counter.store(_counter_record(epoch, counter))

    def of(self, epoch: int) -> Key:
        """The key of an epoch; LookupError where the meter does not have it, or no more."""
        brought = (body for cell in _KEY_CELLS if (body := self._memory.read(cell)) is not None)
        keys = (*self._made_with, *(Key(body[3:], body[2], int.from_bytes(body[:2], "big")) for body in brought))
        for key in keys:
            if key.epoch == epoch:
                return key
        raise LookupError(f"no key of epoch {epoch}")

    def keep(self, current: int, epoch: int, key: bytes, alg: int) -> None:
        """Put a new key where the current one is not."""
        for cell in _KEY_CELLS:
            body = self._memory.read(cell)
            if body is None or int.from_bytes(body[:2], "big") != current:
                self._memory.write_checked(cell, epoch.to_bytes(2, "big") + bytes((alg,)) + key)
                return


_KEY_CELLS = ("key 0", "key 1")


def _counter_record(epoch: int, reserved: int) -> bytes:
    return epoch.to_bytes(2, "big") + reserved.to_bytes(6, "big")


class TakenCommand(NamedTuple):
    """A command that a meter takes, or ``again``: the one before once more."""

    fields: list[Any]
    epoch: int
    counter: int
    again: bool

    @property
    def kind(self) -> int:
        return int(self.fields[0])

    @property
    def number(self) -> int:
        return int(self.fields[1])


class Taken(NamedTuple):
    """The record of the last command under the transfer key, or under the meter's own keys: what became of it."""

    epoch: int
    counter: int
    number: int
    said: int  # the last group of the answer's register: 0 done, 1 refused, 2 too late
    at_s: int

    def pack(self) -> bytes:
        return _TAKEN.pack(self.epoch, self.counter, self.number, self.said, self.at_s)


_TAKEN = struct.Struct(">HQQBQ")
_SAID = (COMMAND_DONE, COMMAND_REFUSED, COMMAND_LATE)
_NEVER = Taken(0, -1, 0, 0, 0)


class Receiver:
    """Opens the commands of one meter, and remembers the last that it took under each kind of key.

    The order of writes is that of docs/frame.md: what a command does, then the record of the command with its
    answer, then the answer. Power lost in between lets the command be done again when it comes again.
    """

    def __init__(self, system_title: bytes, memory: NonVolatile, keys: Keys) -> None:
        self._title, self._keys = system_title, keys
        self._records = {True: CounterRecord(memory, "key command"), False: CounterRecord(memory, "command")}
        for record in self._records.values():
            record.repair()

    @property
    def answered_s(self) -> int:
        """The second of the last answer."""
        return max(self._last(epoch).at_s for epoch in (TRANSFER_EPOCH, FIRST_EPOCH))

    def take(self, octets: bytes, epoch: int) -> TakenCommand | None:
        """The command in a frame for a meter that sends under an epoch; None where it drops it in silence."""
        try:
            frame = parse_frame(octets)
            under = int.from_bytes(frame.kid[8:], "big")
            last = self._last(under)
            if under > epoch or (under and under < last.epoch):
                return None  # the keys before one under which a command was taken are forgotten
            key, alg, _ = self._keys.of(under)
            if frame.kid[:8] != self._title or frame.alg != command_algorithm(alg):
                return None
            cipher = DirectionCipher(downlink_key(key, self._title, under, frame.alg), frame.alg)
            fields = cbor2.loads(cipher.open_(frame))
        except (MalformedError, LookupError, TagInvalidError):
            return None
        counter = last.counter if last.epoch == under else -1
        if frame.counter < counter or not _names_itself(fields):
            return None
        return TakenCommand(fields, under, frame.counter, frame.counter == counter)

    def does(self, order: TakenCommand) -> bool:
        """Whether a command is one that the meter knows, under the right key and in the right shape."""
        of_transfer_key = order.epoch == TRANSFER_EPOCH
        shape = tuple(type(one) for one in order.fields)
        return of_transfer_key == (order.kind == SET_KEY) and shape in _SHAPES.get(order.kind, [])

    def answer(self, order: TakenCommand, at_s: int, register: str) -> AnswerEvent:
        """Record what is said to a command that was followed."""
        taken = Taken(order.epoch, order.counter, order.number, _SAID.index(register), at_s)
        self._records[order.epoch == TRANSFER_EPOCH].store(taken.pack())
        return AnswerEvent(register, order.number, at_s)

    def answer_again(self, order: TakenCommand) -> AnswerEvent:
        """What was said to the command that came again."""
        last = self._last(order.epoch)
        return AnswerEvent(_SAID[last.said], last.number, last.at_s)

    def _last(self, epoch: int) -> Taken:
        body = self._records[epoch == TRANSFER_EPOCH].load()
        return _NEVER if body is None else Taken(*_TAKEN.unpack(body))


def _names_itself(fields: Any) -> bool:
    """Whether a plaintext has kind and number: without them there is nothing to answer."""
    return (
        type(fields) is list and len(fields) >= 2 and all(type(one) is int and 0 <= one < 2**63 for one in fields[:2])
    )
