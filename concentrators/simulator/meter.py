"""A simulated meter: it holds its key, counts its frames, and seals what it measured. No Django."""

from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Self

import cbor2

from concentrators.simulator.obedience import FIRST_EPOCH, Keyring, Order, Receiver
from keyvault.cose.kdf import uplink_key
from keyvault.cose.sealing import DirectionCipher
from keyvault.cose.structures import make_kid
from meters.senml import BN, BT, BVER, SECONDARY_UNITS_VERSION, N, T, U, V

ENERGY_REGISTER = "1-0:1.8.0"
INTERVAL_REGISTER = "1-0:1.29.0"
FRAUD_EVENTS = "0-0:96.11.1"
STANDARD_EVENTS = "0-0:96.11.0"
RESERVE_AHEAD = 256


@dataclass(slots=True)
class Memory:
    """What a meter keeps in non-volatile memory: no counter from ``reserve`` on was ever used."""

    number: int
    reserve: int = 0
    register_wh: int = 0


class SimulatedMeter:
    """One meter, booted from its memory: it goes on at the reserve, so no counter is ever used twice.

    ``system_title`` has 8 octets, ``device_key`` 32. ``memory.reserve`` moves before a counter of it
    is used; whoever sends the frames writes the memory no later than the frames.
    """

    __slots__ = ("_cipher", "_counter", "kid", "memory", "receiver", "system_title")

    def __init__(
        self,
        system_title: bytes,
        device_key: bytes,
        memory: Memory,
        transfer_key: bytes = b"",
        keyring: Keyring | None = None,
    ) -> None:
        self.system_title = system_title
        self.memory = memory
        self.receiver = Receiver(system_title, device_key, transfer_key, keyring or Keyring(memory.number))
        self._use_key()
        self._counter = memory.reserve

    @classmethod
    def unknown_to_all(cls, system_title: bytes, noise: bytes, epoch: int = FIRST_EPOCH) -> Self:
        """A meter with a key that nobody provisioned."""
        return cls(system_title, sha256(noise).digest(), Memory(-1), keyring=Keyring(-1, epoch))

    @property
    def epoch(self) -> int:
        return self.receiver.keyring.epoch

    def renew(self, order: Order) -> None:
        """Send under the key that a command brought from now on, unless it is there already."""
        if self.receiver.renew(order):
            self.memory.reserve = self._counter = 0
            self._use_key()

    def next_counter(self) -> int:
        counter = self._counter
        if counter >= self.memory.reserve:
            self.memory.reserve = counter + RESERVE_AHEAD
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
        self.kid = make_kid(self.system_title, self.epoch)
        self._cipher = self._cipher_for(self.receiver.keyring.alg)

    def _cipher_for(self, alg: int) -> DirectionCipher:
        return DirectionCipher(uplink_key(self.receiver.key, self.system_title, self.epoch, alg), alg)


def interval_payload(interval_start_s: int, register_wh: int, energy_wh: int, base_name: str | None = None) -> bytes:
    """The SenML pack of one interval: the register at its start and the energy of it, both in Wh."""
    base: dict[int, Any] = {BVER: SECONDARY_UNITS_VERSION, BT: interval_start_s}
    if base_name is not None:
        base[BN] = base_name
    return cbor2.dumps(
        [
            {**base, N: ENERGY_REGISTER, U: "Wh", V: register_wh},
            {N: INTERVAL_REGISTER, U: "Wh", V: energy_wh},
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
