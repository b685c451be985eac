"""A simulated meter: it holds its key, counts its frames, seals what it measured, and obeys. No Django."""

from dataclasses import dataclass, field
from hashlib import sha256
from secrets import token_bytes
from typing import Self

import cbor2

from concentrators.simulator.keys import FIRST_EPOCH, TRANSFER_EPOCH, Key, Keys
from concentrators.simulator.masks import Masks, does_mask
from concentrators.simulator.nonvolatile import CounterRecord, NonVolatile
from concentrators.simulator.obedience import (
    AGREE_KEY,
    CLOCK_LATE_S,
    READ_NOW,
    SET_CLOCK,
    SET_INTERVAL,
    SET_KEY,
    AnswerEvent,
    Receiver,
    TakenCommand,
)
from concentrators.simulator.packs import interval_payload
from concentrators.simulator.sealers import METER_SCHEMES, Place, Sealer, ccm, sealer
from concentrators.simulator.signing import Signer
from keyvault.cose.algorithms import AES_CCM_16_64_128
from keyvault.cose.kdf import uplink_key
from keyvault.cose.sealing import DirectionCipher
from keyvault.cose.structures import SYSTEM_TITLE_OCTETS, make_kid
from keyvault.enrolment.frames import seal_enrolment
from keyvault.schemes.hop_tag import HopTagKey
from keyvault.schemes.session import kid_context
from meters.readings.obis import COMMAND_LATE

RESERVE_AHEAD = 256
_SEQUENCE_OCTETS = 4  # how often a meter was told another concentrator: the record's later body is the greater


@dataclass(slots=True)
class Memory:
    """What outlives a loss of power: the energy register, and the cells of the non-volatile memory."""

    number: int
    register_wh: int = 0
    nonvolatile: NonVolatile = field(default_factory=NonVolatile)


class SimulatedMeter:
    """One meter, booted from its memory: it goes on at the counter reserved, so no counter is ever used twice.

    ``system_title`` has 8 octets, the keys 32. Each key has its algorithm: that of the first, whose frames are of
    ``scheme``, is ``alg``, that of the transfer key, which opens key commands, ``transfer_alg``. ``head_end`` is the
    public key that ``sealed`` frames are sealed to, ``private`` the meter's own key to agree with, ``clock_s`` what its
    clock says (Unix seconds), ``masks`` what it hides values with, where its scheme does, ``signing`` what its
    signatures follow from, ``next_key`` the key set of the epoch that follows (``use_next_set``). A memory without any
    cell is a meter from the factory.
    """

    __slots__ = (
        "_boots",
        "_concentrators",
        "_counter",
        "_in_session",
        "_keys",
        "_lengths",
        "_marks",
        "_of_events",
        "_reserved",
        "_sealer",
        "_tag",
        "clock_s",
        "epoch",
        "key",
        "kid",
        "masks",
        "memory",
        "place",
        "receiver",
        "signer",
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
        scheme: str = "ccm",
        head_end: bytes = b"",
        private: bytes = b"",
        signing: bytes = b"",
        clock_s: int = 0,
        masks: Masks | None = None,
        next_key: bytes = b"",
    ) -> None:
        self.masks = masks
        self.system_title, self.memory, self.clock_s = system_title, memory, clock_s
        cells = memory.nonvolatile
        made_with = [Key(device_key, alg, made_epoch, scheme, head_end)]
        if transfer_key:
            made_with.append(Key(transfer_key, transfer_alg, TRANSFER_EPOCH))
        if next_key:
            made_with.append(Key(next_key, alg, made_epoch + 1, scheme))
        self._keys = Keys(cells, *made_with)
        if not cells.cells:
            self._keys.reserve(made_epoch, 0)  # in the factory: no counter was used yet
        self.epoch, self._reserved = self._keys.boot()
        self._counter = self._reserved
        self._marks: list[tuple[float, int]] = []  # by running time, the counter of the next frame; newest last
        self._lengths, self._boots = CounterRecord(cells, "lengths"), CounterRecord(cells, "boots")
        self._concentrators = CounterRecord(cells, "concentrator")
        for record in (self._lengths, self._boots, self._concentrators):
            record.repair()
        self.receiver = Receiver(system_title, cells, self._keys, private)
        self.signer = Signer(cells, signing or sha256(device_key).digest())
        self._use_key()

    @classmethod
    def unknown_to_all(cls, system_title: bytes, noise: bytes, scheme: str, alg: int) -> Self:
        """A meter with a key that nobody provisioned."""
        return cls(system_title, sha256(noise).digest(), Memory(-1), scheme=scheme, alg=alg)

    def impostor(self, noise: bytes) -> "SimulatedMeter":
        """Somebody who says to be this meter, and has another key."""
        _, alg, epoch, scheme, head_end = self.key
        other = SimulatedMeter(
            self.system_title,
            sha256(noise).digest(),
            Memory(-1),
            alg=alg,
            made_epoch=epoch,
            scheme=scheme,
            head_end=head_end,
            clock_s=self.clock_s,
        )
        if self.concentrator:
            other.send_over(self.concentrator)
        return other

    @property
    def kept_since_s(self) -> int | None:
        """From which interval on (Unix seconds) no concentrator took what it measured; None where all was taken."""
        body = self.memory.nonvolatile.read("kept since")
        return int.from_bytes(body, "big") if body else None

    def keep(self, since_s: int | None) -> None:
        """Remember from which interval on readings are to be sent again; None: from none."""
        self.memory.nonvolatile.write_checked("kept since", b"" if since_s is None else since_s.to_bytes(8, "big"))

    @property
    def waits(self) -> bool:
        """Whether its concentrator is to open its frames, and it was not told yet which one that is."""
        return self._sealer is None

    @property
    def concentrator(self) -> bytes:
        """The system title of the concentrator that the meter was told to send over; empty where it knows none."""
        return (self._concentrators.load() or b"")[_SEQUENCE_OCTETS:]

    def send_over(self, concentrator: bytes) -> None:
        """Send over the concentrator with that system title (8 octets): hop tags and ``hop`` frames are for it."""
        body = self._concentrators.load() or bytes(_SEQUENCE_OCTETS + SYSTEM_TITLE_OCTETS)
        if concentrator == body[_SEQUENCE_OCTETS:]:
            return
        sequence = int.from_bytes(body[:_SEQUENCE_OCTETS], "big") + 1
        self._concentrators.store(sequence.to_bytes(_SEQUENCE_OCTETS, "big") + concentrator)
        self._use_place()

    def set_clock(self, clock_s: int) -> None:
        """The clock was set: whatever is sealed from now on is of a session that begins now."""
        self.clock_s = clock_s
        self._use_place()

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
        key = self.receiver.key_in(order)
        if key is None or key.epoch <= self.epoch:
            return
        self._keys.keep(self.epoch, key)
        self._send_under(key.epoch)

    def use_next_set(self) -> None:
        """Send under the key set of the next epoch from now on, which a DLMS meter was given by its own system."""
        self._send_under(self.epoch + 1)

    def _send_under(self, epoch: int) -> None:
        self._keys.reserve(epoch, RESERVE_AHEAD)
        self.epoch, self._counter, self._reserved, self._marks = epoch, 0, RESERVE_AHEAD, []
        self._use_key()

    @property
    def _next(self) -> int:
        """The counter of the next frame: of the session at hand, where it is one's."""
        return self._in_session if self.key.envelope == "session" else self._counter

    def let_time_pass(self, running_s: float) -> None:
        """The meter has run for so long: by this, and not by its clock, it tells how old a command is."""
        if not self._marks or running_s - self._marks[-1][0] >= CLOCK_LATE_S / 2:
            self._marks = [*self._marks[-2:], (running_s, self._next)]

    def is_late(self, order: TakenCommand, running_s: float) -> bool:
        """Whether a set clock may be older than CLOCK_LATE_S: it names no frame that was sealed since then."""
        if order.kind != SET_CLOCK:
            return False
        if order.epoch != self.epoch:
            return True  # what was heard under another key says nothing of this one's counters
        since = min((counter for at_s, counter in self._marks if running_s - at_s <= CLOCK_LATE_S), default=None)
        heard = order.fields[3] if len(order.fields) == 4 else 0
        return since is None or not since < heard <= self._next

    def answer(self, order: TakenCommand, now_s: int, register: str) -> AnswerEvent:
        """What the meter says of a command that it has followed, each time at another second.

        That one came too late it says at the time that is in the command: its own clock may be wrong.
        """
        late = register == COMMAND_LATE
        at_s = order.fields[2] if late else max(now_s, self.receiver.answered_s + 1)
        return self.receiver.answer(order, at_s, register)

    def next_counter(self) -> int:
        """A counter that no frame of this key, or of this session of it, was sealed under."""
        if self.key.envelope == "session":
            self._in_session += 1
            return self._in_session - 1
        return self._own_counter()

    def enrol(self, certificate: bytes, payload: bytes) -> bytes:
        """A frame that brings the certificate of the meter's key pair; under the key's own counter in every scheme."""
        alg = self.key.alg if self.key.alg in METER_SCHEMES["ccm"].algorithms else AES_CCM_16_64_128
        cipher = DirectionCipher(uplink_key(self.key.octets, self.system_title, self.epoch, alg), alg)
        return seal_enrolment(cipher, self.kid, self._own_counter(), payload, certificate)

    def _own_counter(self) -> int:
        counter = self._counter
        if counter >= self._reserved:
            self._keys.reserve(self.epoch, counter + RESERVE_AHEAD)
            self._reserved = counter + RESERVE_AHEAD
        self._counter = counter + 1
        return counter

    def seal(self, payload: bytes, counter: int | None = None) -> bytes:
        """A frame of the payload under the next counter; a given ``counter`` is for simulated faults only.

        LookupError where its scheme is ``hop`` and it knows no concentrator: it waits.
        """
        if self._sealer is None:
            raise LookupError(f"meter {self.system_title.hex()} was told no concentrator")
        return self._sealer.seal(self.next_counter() if counter is None else counter, self.content(payload))

    def content(self, payload: bytes) -> bytes:
        """What the meter says in place of a plain payload, by the content of its scheme."""
        if self.key.signs:
            return self.signer.sign(self.kid, payload)
        return self.masks.payload(payload) if self.masks is not None and does_mask(self.key.scheme) else payload

    def can(self, order: TakenCommand) -> bool:
        """Whether the meter does what a command says: one that masks says no plain value, and keeps its length."""
        if does_mask(self.key.scheme) and order.kind in (READ_NOW, SET_INTERVAL):
            return False
        key = self.receiver.key_in(order) if order.kind in (SET_KEY, AGREE_KEY) else None
        return key is None or not does_mask(key.scheme) or self.masks is not None

    def seal_event(self, payload: bytes) -> bytes:
        """A frame that is for the head-end whoever carries it: of events, of answers, of whatever is signed already."""
        return self._of_events.seal(self.next_counter(), payload)

    def seal_as(self, scheme: str, alg: int, payload: bytes) -> bytes:
        """A frame of another scheme or COSE algorithm than the key was provisioned for."""
        key = self.key._replace(scheme=scheme, alg=alg)
        return sealer(key, self.system_title, self.place).seal(self.next_counter(), payload)

    def wear_tag(self, octets: bytes) -> bytes:
        """A frame with the hop tag for the meter's concentrator; as it is where it knows none."""
        return octets if self._tag is None else self._tag.seal_tag(octets)

    def measure(self, interval_start_s: int, energy_wh: int) -> bytes:
        """The payload of one interval; the register counts on by its energy."""
        payload = interval_payload(interval_start_s, self.memory.register_wh, energy_wh)
        self.memory.register_wh += energy_wh
        return payload

    def _use_key(self) -> None:
        self.key = self._keys.of(self.epoch)
        self.kid = make_kid(self.system_title, self.epoch)
        self._use_place()

    def _use_place(self) -> None:
        """Make what seals under the key at hand; a session begins, with a boot count that never was."""
        boots = int.from_bytes(self._boots.load() or b"", "big") + 1
        if self.key.envelope == "session":
            self._boots.store(boots.to_bytes(4, "big"))
            self._marks = []  # its counters begin anew
        context = kid_context(self.clock_s, boots.to_bytes(4, "big") + token_bytes(4))
        self.place, self._in_session = Place(context, self.concentrator), 0
        title = self.place.concentrator
        is_hop = self.key.scheme == "hop"
        self._of_events = (ccm if is_hop else sealer)(self.key, self.system_title, self.place)
        self._sealer: Sealer | None = self._of_events
        if is_hop:
            self._sealer = sealer(self.key, self.system_title, self.place) if title else None
        tag = title and HopTagKey.of_device(self.key.octets, self.system_title, self.epoch, title)
        self._tag = tag or None


def lengths_in(memory: NonVolatile) -> list[tuple[int, int]]:
    """The interval lengths in a meter's memory: from a Unix second on, in minutes; oldest first."""
    body = CounterRecord(memory, "lengths").load()
    return [] if body is None else [(from_s, minutes) for from_s, minutes in cbor2.loads(body[2:])]
