"""A simulated meter's side of docs/frame.md, section 10: which commands it takes, and what it answers. No Django."""

import json
import random
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple, Self

import cbor2

from keyvault.cose.algorithms import AES_CCM_16_64_128, DOWNLINK_OF
from keyvault.cose.kdf import downlink_key
from keyvault.cose.sealing import DirectionCipher, TagInvalidError
from keyvault.cose.structures import MalformedError, parse_frame
from meters.obis import COMMAND_DONE, COMMAND_REFUSED

FIRST_EPOCH = 1
TRANSFER_EPOCH = 0
SET_KEY, READ_NOW, RESEND, SET_CLOCK, SET_INTERVAL = 1, 2, 3, 4, 5
_SHAPES = {
    SET_KEY: (int, int, int, bytes, int),
    READ_NOW: (int, int),
    RESEND: (int,) * 4,
    SET_CLOCK: (int,) * 3,
    SET_INTERVAL: (int,) * 4,
}


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


class Answer(NamedTuple):
    """An event by which a meter answers a command."""

    register: str
    number: int
    at_s: int


@dataclass(slots=True)
class Keyring:
    """What a meter keeps of keys and commands in non-volatile memory: ``key`` None is the one it was made with.

    ``taken`` is the counter of the last command taken, by epoch, and ``answers`` what was said to it; ``lengths``
    are the interval lengths that commands set. ``transfer_alg`` is of the key that opens key commands.
    """

    number: int
    epoch: int = FIRST_EPOCH
    alg: int = AES_CCM_16_64_128
    key: str | None = None
    old: list[Any] | None = None  # epoch, key and alg before, until a command comes under the new one
    taken: dict[str, int] = field(default_factory=dict)
    answers: dict[str, list[Any]] = field(default_factory=dict)
    answered_s: int = 0
    lengths: list[tuple[int, int]] = field(default_factory=list)  # from a Unix second on, in minutes
    transfer_alg: int = AES_CCM_16_64_128

    @classmethod
    def load(cls, text: str) -> Self:
        return cls(**json.loads(text))

    def dump(self) -> str:
        return json.dumps(asdict(self))


class Order(NamedTuple):
    """A command that a meter took, or ``again``: the one before once more."""

    fields: list[Any]
    epoch: int
    again: bool

    @property
    def kind(self) -> int:
        return int(self.fields[0])

    @property
    def number(self) -> int:
        return int(self.fields[1])


class Receiver:
    """Opens the commands of one meter, with the keys that it was made with and those that commands brought."""

    def __init__(self, system_title: bytes, made_key: bytes, transfer_key: bytes, keyring: Keyring) -> None:
        self.keyring = keyring
        self._title, self._made_key, self._transfer_key = system_title, made_key, transfer_key

    @property
    def key(self) -> bytes:
        """The device key that the meter sends under."""
        return self._octets(self.keyring.key)

    def take(self, octets: bytes) -> Order | None:
        """The command in a frame, its counter stored; None where the meter drops it in silence."""
        ring = self.keyring
        try:
            frame = parse_frame(octets)
            epoch = int.from_bytes(frame.kid[8:], "big")
            key, alg = self._keys()[epoch]
            if frame.kid[:8] != self._title or frame.alg != DOWNLINK_OF[alg]:
                return None
            cipher = DirectionCipher(downlink_key(key, self._title, epoch, frame.alg), frame.alg)
            fields = cbor2.loads(cipher.open_(frame))
        except (MalformedError, KeyError, TagInvalidError):
            return None
        last = ring.taken.get(str(epoch), -1)
        if frame.counter < last:
            return None
        ring.taken[str(epoch)] = frame.counter
        if epoch == ring.epoch and ring.old is not None:
            ring.taken.pop(str(ring.old[0]), None)
            ring.answers.pop(str(ring.old[0]), None)
            ring.old = None
        return Order(fields, epoch, frame.counter == last)

    def does(self, order: Order) -> bool:
        """Whether a command is one that the meter knows, under the right key and in the right shape."""
        shape = _SHAPES.get(order.kind)
        of_transfer_key = order.epoch == TRANSFER_EPOCH
        return (
            shape is not None
            and of_transfer_key == (order.kind == SET_KEY)
            and tuple(type(one) for one in order.fields) == shape
        )

    def renew(self, order: Order) -> bool:
        """Take the key that a command brings; False where the meter has that epoch, or a later one, already."""
        _, _, epoch, key, alg = order.fields
        ring = self.keyring
        if epoch <= ring.epoch:
            return False
        ring.old = [ring.epoch, ring.key, ring.alg]
        ring.epoch, ring.key, ring.alg = epoch, key.hex(), alg
        return True

    def answer(self, order: Order, now_s: int, *, done: bool) -> Answer:
        """What the meter says of a command: no two answers have the same second; the same again to the same command."""
        ring = self.keyring
        if order.again and str(order.epoch) in ring.answers:
            return Answer(*ring.answers[str(order.epoch)])
        ring.answered_s = max(now_s, ring.answered_s + 1)
        answer = Answer(COMMAND_DONE if done else COMMAND_REFUSED, order.number, ring.answered_s)
        ring.answers[str(order.epoch)] = list(answer)
        return answer

    def _keys(self) -> dict[int, tuple[bytes, int]]:
        ring = self.keyring
        keys = {TRANSFER_EPOCH: (self._transfer_key, ring.transfer_alg), ring.epoch: (self.key, ring.alg)}
        if ring.old is not None:
            keys[ring.old[0]] = (self._octets(ring.old[1]), ring.old[2])
        return keys

    def _octets(self, key: str | None) -> bytes:
        return self._made_key if key is None else bytes.fromhex(key)
