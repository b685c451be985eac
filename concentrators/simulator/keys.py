"""The keys of a simulated meter: those it was made with, and those of commands, in non-volatile memory. No Django."""

from typing import NamedTuple

import cbor2

from concentrators.simulator.nonvolatile import CounterRecord, NonVolatile

FIRST_EPOCH = 1
TRANSFER_EPOCH = 0
KEYS_HELD = 2  # besides the transfer key: the newest, and the previous one


def envelope_of(scheme: str) -> str:
    """The envelope of a scheme: "ccm" of "ccm + signed"."""
    return scheme.partition(" + ")[0]


def signs(scheme: str) -> bool:
    """Whether meters of a scheme sign their readings."""
    return scheme.endswith(" + signed")


def pushes(scheme: str) -> bool:
    """Whether meters of a scheme push DLMS notifications: their keys are sets, and they take no command of ours."""
    return scheme.startswith("dlms")


class Key(NamedTuple):
    """A key of 32 octets, the algorithm that it is for, its epoch, and the scheme of its frames.

    ``head_end`` is the public key (32 octets) that ``sealed`` frames are sealed to. The octets of a DLMS key set are
    GUEK and GAK.
    """

    octets: bytes
    alg: int
    epoch: int
    scheme: str = "ccm"
    head_end: bytes = b""

    @property
    def envelope(self) -> str:
        """What seals its frames: a scheme is named after it, and after its content where that is not plain."""
        return envelope_of(self.scheme)

    @property
    def signs(self) -> bool:
        """Whether its readings are signed."""
        return signs(self.scheme)

    @property
    def pushes(self) -> bool:
        """Whether its frames are DLMS notifications."""
        return pushes(self.scheme)


class Keys:
    """The keys of a meter: those it was made with, which stay, and two cells for keys from commands.

    The counter record (epoch in 2 octets, reserved counter in 6) says which epoch the meter sends under: a key
    that stands in a cell is not in use before that record names it.
    """

    def __init__(self, memory: NonVolatile, *made_with: Key) -> None:
        self._memory, self._counter = memory, CounterRecord(memory, "counter")
        self._made_with = made_with

    def boot(self) -> tuple[int, int]:
        """Return the epoch to send under, and the next counter. LookupError: the meter needs a new key."""
        self._counter.repair()
        body = self._counter.load()
        if body is None:
            raise LookupError("neither copy of the counter record is valid")
        return int.from_bytes(body[:2], "big"), int.from_bytes(body[2:], "big")

    def reserve(self, epoch: int, counter: int) -> None:
        """Counters below this one may be used under the epoch when this returns."""
        self._counter.store(_counter_record(epoch, counter))

    def of(self, epoch: int) -> Key:
        """Return the key of an epoch; LookupError if the meter does not have it, or no longer."""
        brought = (_unpack(body) for cell in _KEY_CELLS if (body := self._memory.read(cell)) is not None)
        held = [*self._made_with, *brought]
        newest = sorted({key.epoch for key in held if key.epoch != TRANSFER_EPOCH})[-KEYS_HELD:]
        for key in held:
            if key.epoch == epoch and epoch in (TRANSFER_EPOCH, *newest):
                return key
        raise LookupError(f"no key of epoch {epoch}")

    def are_for_commands(self, epoch: int) -> bool:
        """Whether a meter that sends under an epoch takes commands.

        One of scheme ``mac`` that was made without a transfer key has no AES to open them with.
        """
        return envelope_of(self.of(epoch).scheme) != "mac" or any(
            key.epoch == TRANSFER_EPOCH for key in self._made_with
        )

    def keep(self, current: int, key: Key) -> None:
        """Store a new key in the cell that does not have the one of the current epoch."""
        for cell in _KEY_CELLS:
            body = self._memory.read(cell)
            if body is None or _unpack(body).epoch != current:
                self._memory.write_checked(cell, cbor2.dumps(list(key)))
                return


_KEY_CELLS = ("key 0", "key 1")


def _unpack(body: bytes) -> Key:
    return Key(*cbor2.loads(body))


def _counter_record(epoch: int, reserved: int) -> bytes:
    return epoch.to_bytes(2, "big") + reserved.to_bytes(6, "big")
