"""How a simulated meter follows commands (docs/frame.md section 10): what it accepts and answers. No Django."""

import random
import struct
from enum import StrEnum
from io import BytesIO
from typing import Any, NamedTuple

import cbor2
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from concentrators.simulator.keys import FIRST_EPOCH, TRANSFER_EPOCH, Key, Keys, envelope_of, pushes
from concentrators.simulator.nonvolatile import CounterRecord, NonVolatile
from concentrators.simulator.sealers import METER_SCHEMES
from keyvault.cose.algorithms import command_algorithm
from keyvault.cose.kdf import DEVICE_KEY_OCTETS, downlink_key
from keyvault.cose.sealing import DirectionCipher, TagInvalidError
from keyvault.cose.structures import SYSTEM_TITLE_OCTETS, MalformedError, parse_frame
from keyvault.schemes.agreed import AgreementError, agree, agreed_device_key
from meters.readings.obis import COMMAND_DONE, COMMAND_LATE, COMMAND_REFUSED

SET_KEY, READ_NOW, RESEND, SET_CLOCK, SET_INTERVAL, AGREE_KEY, SET_CONCENTRATOR = 1, 2, 3, 4, 5, 6, 7
_KEY_COMMANDS = (SET_KEY, AGREE_KEY)
_SHAPES: dict[int, list[tuple[type, ...]]] = {
    SET_KEY: [_NEW_KEY := (int, int, int, bytes, int), (*_NEW_KEY, int), (*_NEW_KEY, int, bytes)],
    READ_NOW: [(int, int)],
    RESEND: [(int,) * 4],
    SET_CLOCK: [(int,) * 3, (int,) * 4],
    SET_INTERVAL: [(int,) * 4],
    AGREE_KEY: [(int,) * 5 + (bytes,)],
    SET_CONCENTRATOR: [(int, int, bytes)],
}
PUBLIC_OCTETS = 32
CLOCK_LATE_S = 600  # a set clock may be as old as the newest frame that the head-end heard before it sealed it


class Fault(StrEnum):
    """What can go wrong with a command, by its name in ``--command-faults``."""

    LOSE = "lose"  # the concentrator forgets it, and says nothing
    DELAY = "delay"  # it comes to the meter late
    REPEAT = "repeat"  # the meter gets it twice
    REFUSE = "refuse"  # the meter will not do it
    LOSE_ANSWER = "lose_answer"  # done, but neither concentrator nor meter says so


class Faults:
    """Decides what goes wrong with a command, from the run's seed, the command's number, and how often it arrived."""

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


class TakenCommand(NamedTuple):
    """A command that a meter accepts; ``again`` if it is the last one repeated."""

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
    """The record of the last command under the transfer key, or under the meter's own keys, and its outcome."""

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
    """Opens the commands of one meter, and remembers the last one that it accepted under each kind of key.

    Writes are in the order of docs/frame.md: the effect of a command, then its record with the answer, then the answer.
    If power fails in between, the command is executed again when it is repeated.
    """

    def __init__(self, system_title: bytes, memory: NonVolatile, keys: Keys, private: bytes = b"") -> None:
        self._title, self._keys, self._private = system_title, keys, private
        self._records = {True: CounterRecord(memory, "key command"), False: CounterRecord(memory, "command")}
        for record in self._records.values():
            record.repair()

    @property
    def answered_s(self) -> int:
        """The time of the last answer (Unix seconds)."""
        return max(self._last(epoch).at_s for epoch in (TRANSFER_EPOCH, FIRST_EPOCH))

    def take(self, octets: bytes, epoch: int) -> TakenCommand | None:
        """Return the command in a frame for a meter that sends under an epoch; None if the meter drops the frame."""
        if not self._keys.are_for_commands(epoch):
            return None
        try:
            frame = parse_frame(octets)
            under = int.from_bytes(frame.kid[8:], "big")
            last = self._last(under)
            if under > epoch or (under and under < last.epoch):
                return None  # the keys before one under which a command was taken are forgotten
            key, alg, *_ = self._keys.of(under)
            if frame.kid[:8] != self._title or frame.alg != command_algorithm(alg):
                return None
            cipher = DirectionCipher(downlink_key(key, self._title, under, frame.alg), frame.alg)
            fields = _read(cipher.open_(frame))
        except (MalformedError, LookupError, TagInvalidError, cbor2.CBORError):
            return None
        counter = last.counter if last.epoch == under else -1
        if frame.counter < counter or not _names_itself(fields):
            return None
        return TakenCommand(fields, under, frame.counter, frame.counter == counter)

    def does(self, order: TakenCommand) -> bool:
        """Whether the meter knows a command, and its key and form are right."""
        of_transfer_key = order.epoch == TRANSFER_EPOCH
        shape = tuple(type(one) for one in order.fields)
        if of_transfer_key != (order.kind in _KEY_COMMANDS) or shape not in _SHAPES.get(order.kind, []):
            return False
        if not of_transfer_key and any(type(one) is int and one < 0 for one in order.fields):
            return False
        if order.kind == SET_CONCENTRATOR:
            return len(order.fields[2]) == SYSTEM_TITLE_OCTETS
        return not of_transfer_key or self.key_in(order) is not None

    def key_in(self, order: TakenCommand) -> Key | None:
        """Return the key in a key command; None if the meter does not support its scheme or algorithm."""
        if order.kind == AGREE_KEY:
            return self._agreed_key(*order.fields[2:])
        _, _, epoch, octets, alg, *more = order.fields
        if more[:1] == [0]:
            return None  # of scheme 0 a command has five items
        number, head_end = more[0] if more else 0, more[1] if len(more) > 1 else b""
        return brought_key(Key(octets, alg, epoch, "", head_end), number)

    def _agreed_key(self, epoch: int, alg: int, number: int, head_end: bytes) -> Key | None:
        """Compute the key of an epoch from the meter's own pair and the head-end's public key."""
        if not self._private:
            return None
        own = X25519PrivateKey.from_private_bytes(self._private)
        try:
            z = agree(own, head_end)
        except AgreementError:
            return None
        octets = agreed_device_key(z, self._title, epoch, own.public_key().public_bytes_raw(), head_end)
        sealed_to = head_end if envelope_of(_scheme_numbered(number) or "") == "sealed" else b""
        return brought_key(Key(octets, alg, epoch, "", sealed_to), number)

    def answer(self, order: TakenCommand, at_s: int, register: str) -> AnswerEvent:
        """Record the answer to a command that was executed."""
        taken = Taken(order.epoch, order.counter, order.number, _SAID.index(register), at_s)
        self._records[order.epoch == TRANSFER_EPOCH].store(taken.pack())
        return AnswerEvent(register, order.number, at_s)

    def answer_again(self, order: TakenCommand) -> AnswerEvent:
        """Return the recorded answer to a command that is repeated."""
        last = self._last(order.epoch)
        return AnswerEvent(_SAID[last.said], last.number, last.at_s)

    def _last(self, epoch: int) -> Taken:
        body = self._records[epoch == TRANSFER_EPOCH].load()
        return _NEVER if body is None else Taken(*_TAKEN.unpack(body))


def brought_key(key: Key, number: int) -> Key | None:
    """Return the key in a command, of the scheme with that number; None if the meter does not support it."""
    scheme = _scheme_numbered(number)
    if scheme is None or key.alg not in METER_SCHEMES[scheme].algorithms:
        return None
    head_end_octets = PUBLIC_OCTETS if envelope_of(scheme) == "sealed" else 0
    if (len(key.octets), len(key.head_end)) != (DEVICE_KEY_OCTETS, head_end_octets):
        return None
    return key._replace(scheme=scheme)


def _read(plaintext: bytes) -> Any:
    """What a plaintext says. Where it is not deterministic, or goes on after its end, of no shape that is known.

    cbor2.CBORError where it does not begin with CBOR.
    """
    fields = cbor2.CBORDecoder(BytesIO(plaintext)).decode()
    if type(fields) is list and cbor2.dumps(fields, canonical=True) != plaintext:
        fields.append(None)
    return fields


def _scheme_numbered(number: int) -> str | None:
    """The scheme of a key that a command may bring; those of DLMS meters come otherwise."""
    return next((name for name, one in METER_SCHEMES.items() if one.number == number and not pushes(name)), None)


def _names_itself(fields: Any) -> bool:
    """Whether a plaintext has kind and number; without them the meter cannot answer."""
    return (
        type(fields) is list and len(fields) >= 2 and all(type(one) is int and 0 <= one < 2**63 for one in fields[:2])
    )
