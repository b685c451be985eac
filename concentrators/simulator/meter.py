"""A simulated meter: it holds its key, counts its frames, seals what it measured, and obeys. No Django."""

from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Self

import cbor2

from concentrators.simulator.nonvolatile import CounterRecord, NonVolatile
from concentrators.simulator.obedience import (
    CLOCK_LATE_S,
    FIRST_EPOCH,
    SET_CLOCK,
    TRANSFER_EPOCH,
    AnswerEvent,
    Key,
    Keys,
    Receiver,
    TakenCommand,
)
from keyvault.cose.algorithms import AES_CCM_16_64_128
from keyvault.cose.kdf import uplink_key
from keyvault.cose.sealing import DirectionCipher
from keyvault.cose.structures import make_kid
from meters.readings.obis import COMMAND_LATE, LOAD_PROFILE
from meters.readings.senml import BN, BT, BVER, SECONDARY_UNITS_VERSION, N, T, U, V

ENERGY_REGISTER = "1-0:1.8.0"
RESERVE_AHEAD = 256


@dataclass(slots=True)
class Memory:
    """What outlives a loss of power: the energy register, and the cells of the non-volatile memory."""

    number: int
    register_wh: int = 0
    nonvolatile: NonVolatile = field(default_factory=NonVolatile)


class SimulatedMeter:
    """One meter, booted from its memory: it goes on at the counter reserved, so no counter is ever used twice.

    ``system_title`` has 8 octets, the keys 32. Each key has its algorithm: that of the first is ``alg``, that of the
    transfer key, which opens key commands, ``transfer_alg``. A memory without any cell is a meter from the factory.
    """

    __slots__ = (
        "_cipher",
        "_counter",
        "_keys",
        "_lengths",
        "_marks",
        "_reserved",
        "alg",
        "epoch",
        "key",
        "kid",
        "memory",
        "receiver",
        "system_title",
    )

    def __init__(
        self,
        system_title: bytes,
        device_key: bytes,
        memory: Memory,
        transfer_key: bytes = b"",
        *,
        alg: int = AES_CCM_16_64_128,
        transfer_alg: int = AES_CCM_16_64_128,
        made_epoch: int = FIRST_EPOCH,
    ) -> None:
        self.system_title = system_title
        self.memory = memory
        cells = memory.nonvolatile
        self._keys = Keys(cells, Key(device_key, alg, made_epoch), Key(transfer_key, transfer_alg, TRANSFER_EPOCH))
        if not cells.cells:
            self._keys.reserve(made_epoch, 0)  # in the factory: no counter was used yet
        self.epoch, self._reserved = self._keys.boot()
        self._counter = self._reserved
        self._marks: list[tuple[float, int]] = []  # by running time, the counter of the next frame; newest last
        self._lengths = CounterRecord(cells, "lengths")
        self._lengths.repair()
        self.receiver = Receiver(system_title, cells, self._keys)
        self._use_key()

    @classmethod
    def unknown_to_all(cls, system_title: bytes, noise: bytes, epoch: int = FIRST_EPOCH) -> Self:
        """A meter with a key that nobody provisioned."""
        return cls(system_title, sha256(noise).digest(), Memory(-1), made_epoch=epoch)

    @property
    def lengths(self) -> list[tuple[int, int]]:
        """The interval lengths that commands set: from a Unix second on, in minutes; oldest first."""
        return lengths_in(self.memory.nonvolatile)

    def measure_in(self, from_s: int, minutes: int) -> None:
        """Measure in another length from a Unix second on."""
        lengths = [*self.lengths, (from_s, minutes)]
        self._lengths.store(len(lengths).to_bytes(2, "big") + cbor2.dumps(lengths))

    def renew(self, order: TakenCommand) -> None:
        """Send under the key that a command brought from now on, unless that or a newer one is there already."""
        _, _, epoch, key, alg = order.fields
        if epoch <= self.epoch:
            return
        self._keys.keep(self.epoch, epoch, key, alg)
        self._keys.reserve(epoch, RESERVE_AHEAD)
        self.epoch, self._counter, self._reserved, self._marks = epoch, 0, RESERVE_AHEAD, []
        self._use_key()

    def let_time_pass(self, running_s: float) -> None:
        """The meter has run for so long: by this, and not by its clock, it tells how old a command is."""
        if not self._marks or running_s - self._marks[-1][0] >= CLOCK_LATE_S / 2:
            self._marks = [*self._marks[-2:], (running_s, self._counter)]

    def is_late(self, order: TakenCommand, running_s: float) -> bool:
        """Whether a set clock may be older than CLOCK_LATE_S: it names no frame that was sealed since then."""
        if order.kind != SET_CLOCK:
            return False
        if order.epoch != self.epoch:
            return True  # what was heard under another key says nothing of this one's counters
        since = min((counter for at_s, counter in self._marks if running_s - at_s <= CLOCK_LATE_S), default=None)
        heard = order.fields[3] if len(order.fields) == 4 else 0
        return since is None or not since < heard <= self._counter

    def answer(self, order: TakenCommand, now_s: int, register: str) -> AnswerEvent:
        """What the meter says of a command that it has followed, each time at another second.

        That one came too late it says at the time that is in the command: its own clock may be wrong.
        """
        late = register == COMMAND_LATE
        at_s = order.fields[2] if late else max(now_s, self.receiver.answered_s + 1)
        return self.receiver.answer(order, at_s, register)

    def next_counter(self) -> int:
        counter = self._counter
        if counter >= self._reserved:
            self._keys.reserve(self.epoch, counter + RESERVE_AHEAD)
            self._reserved = counter + RESERVE_AHEAD
        self._counter = counter + 1
        return counter

    def seal(self, payload: bytes, counter: int | None = None) -> bytes:
        """A frame of the payload under the next counter; a given ``counter`` is for simulated faults only."""
        return self._cipher.seal(self.kid, self.next_counter() if counter is None else counter, payload)

    def seal_with(self, alg: int, payload: bytes) -> bytes:
        """A frame sealed for another COSE algorithm than the key was provisioned for."""
        return self._cipher_for(alg).seal(self.kid, self.next_counter(), payload)

    def measure(self, interval_start_s: int, energy_wh: int) -> bytes:
        """The payload of one interval; the register counts on by its energy."""
        payload = interval_payload(interval_start_s, self.memory.register_wh, energy_wh)
        self.memory.register_wh += energy_wh
        return payload

    def _use_key(self) -> None:
        self.key, self.alg, _ = self._keys.of(self.epoch)
        self.kid = make_kid(self.system_title, self.epoch)
        self._cipher = self._cipher_for(self.alg)

    def _cipher_for(self, alg: int) -> DirectionCipher:
        return DirectionCipher(uplink_key(self.key, self.system_title, self.epoch, alg), alg)


def lengths_in(memory: NonVolatile) -> list[tuple[int, int]]:
    """The interval lengths in a meter's memory: from a Unix second on, in minutes; oldest first."""
    body = CounterRecord(memory, "lengths").load()
    return [] if body is None else [(from_s, minutes) for from_s, minutes in cbor2.loads(body[2:])]


def interval_payload(interval_start_s: int, register_wh: int, energy_wh: int, base_name: str | None = None) -> bytes:
    """The SenML pack of one interval: the register at its start and the energy of it, both in Wh."""
    base: dict[int, Any] = {BVER: SECONDARY_UNITS_VERSION, BT: interval_start_s}
    if base_name is not None:
        base[BN] = base_name
    return cbor2.dumps(
        [
            {**base, N: ENERGY_REGISTER, U: "Wh", V: register_wh},
            {N: LOAD_PROFILE, U: "Wh", V: energy_wh},
        ]
    )


def register_payload(captured_at_s: int, register_wh: int) -> bytes:
    """The SenML pack of the cumulative register alone."""
    return cbor2.dumps(
        [{BVER: SECONDARY_UNITS_VERSION, BT: captured_at_s, N: ENERGY_REGISTER, U: "Wh", V: register_wh}]
    )


def event_payload(captured_at_s: int, register: str, code: int) -> bytes:
    """The SenML pack of one event."""
    return cbor2.dumps([{N: register, U: "count", V: code, T: captured_at_s}])


def base_name(system_title: bytes) -> str:
    """The SenML base name of a meter (RFC 9039: urn:dev:mac)."""
    return f"urn:dev:mac:{system_title.hex()}:"
