"""A meter whose power is lost at each write in turn, and again soon after: no nonce comes twice, no command is lost."""

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import cbor2
import pytest

from concentrators.simulator import meter as meter_module
from concentrators.simulator.keys import Key, Keys
from concentrators.simulator.meter import Memory, SimulatedMeter
from concentrators.simulator.nonvolatile import CounterRecord, NonVolatile, PowerLostError
from concentrators.simulator.obedience import RESEND, SET_INTERVAL, SET_KEY, AnswerEvent, Receiver, TakenCommand
from concentrators.simulator.packs import event_payload
from keyvault.cose.kdf import downlink_key
from keyvault.cose.sealing import DirectionCipher
from keyvault.cose.structures import make_kid, parse_frame
from meters.readings.obis import COMMAND_DONE

TITLE = bytes.fromhex("0024befffe804ff1")
KEYS = {epoch: bytes([epoch]) * 32 for epoch in range(4)}
ALGORITHMS = {0: 10, 1: 10, 2: 11, 3: 10}
NOW_S = 1_767_225_600
BEFORE, TORN, AFTER = "before", "torn", "after"  # where in a write the power is lost

# What the head-end says, in order; each comes again, octet for octet, until it is answered.
COMMANDS: list[tuple[int, tuple[Any, ...]]] = [  # the epoch that it is sealed under, and the plaintext
    (1, (RESEND, 10, 0, NOW_S)),
    (0, (SET_KEY, 11, 2, KEYS[2], 11)),
    (1, (SET_INTERVAL, 12, 15, NOW_S)),
    (2, (RESEND, 13, 0, NOW_S)),
    (0, (SET_KEY, 14, 3, KEYS[3], 10)),
    (3, (SET_INTERVAL, 15, 60, 2 * NOW_S)),
]


def command(place: int) -> bytes:
    epoch, fields = COMMANDS[place]
    alg = ALGORITHMS[epoch] + 20
    cipher = DirectionCipher(downlink_key(KEYS[epoch], TITLE, epoch, alg), alg)
    return cipher.seal(make_kid(TITLE, epoch), 256 * NOW_S + place, cbor2.dumps(list(fields)))


LETTERS = [command(place) for place in range(len(COMMANDS))]


class Field:
    """A meter through losses of power, and everything that it ever put on the air."""

    def __init__(self, losses: Iterator[tuple[int, str]]) -> None:
        self.memory = Memory(0)
        SimulatedMeter(TITLE, KEYS[1], self.memory, KEYS[0])  # in the factory, whose power is good
        self.memory.nonvolatile.power = self._power
        self.writes, self.air, self.done = 0, {}, []  # type: int, dict[tuple[int, int], bytes], list[int]
        self.lost = 0
        self._losses = losses
        self._next = next(losses, None)
        self.boot()

    def boot(self) -> None:
        while True:
            try:
                self.meter = SimulatedMeter(TITLE, KEYS[1], self.memory, KEYS[0])
            except PowerLostError:
                continue
            return

    def _power(self, memory: NonVolatile, cell: str, octets: bytes) -> None:
        """The losses say after how many writes, counted from the one before, and where in the next."""
        if self._next is None or self.writes < self._next[0]:
            self.writes += 1
            return
        _, where = self._next
        half = len(octets) // 2
        if where == TORN:
            memory.cells[cell] = octets[:half] + memory.cells.get(cell, b"")[half:]
        elif where == AFTER:
            memory.cells[cell] = octets
        self._next, self.writes, self.lost = next(self._losses, None), 0, self.lost + 1
        raise PowerLostError(cell)

    def say(self, payload: bytes) -> None:
        octets = self.meter.seal(payload)
        frame = parse_frame(octets)
        key = self.meter.epoch, frame.counter
        assert self.air.setdefault(key, octets) == octets, f"epoch {key[0]}, counter {key[1]}: a nonce again"

    def read(self, number: int) -> None:
        """A reading, sealed by what power there is: one that did not leave is read again after the boot."""
        try:
            self.say(b"reading %d in try %d" % (number, len(self.air)))
        except PowerLostError:
            self.boot()
            self.read(number)

    def bring(self, octets: bytes) -> AnswerEvent | None:
        """The concentrator brings a command; what the meter says to it."""
        try:
            order = self.meter.receiver.take(octets, self.meter.epoch)
            if order is None:
                return None
            if order.again:
                answer = self.meter.receiver.answer_again(order)
            else:
                self._follow(order)
                self.done.append(order.number)
                answer = self.meter.answer(order, NOW_S, COMMAND_DONE)
            self.say(event_payload(answer.at_s, answer.register, answer.number))
        except PowerLostError:
            self.boot()
            self.read(77)
            return None
        return answer

    def bring_until_answered(self, octets: bytes) -> AnswerEvent:
        for _ in range(3):  # power is lost twice at most
            answer = self.bring(octets)
            if answer is not None:
                return answer
        raise AssertionError("a command was lost")

    def _follow(self, order: TakenCommand) -> None:
        assert self.meter.receiver.does(order)
        if order.kind == SET_KEY:
            self.meter.renew(order)
        elif order.kind == RESEND:
            self.say(b"again, in try %d" % len(self.air))
        elif (minutes_from := (order.fields[3], order.fields[2])) not in self.meter.lengths:
            self.meter.measure_in(*minutes_from)


def live(*losses: tuple[int, str]) -> Field:
    """A life with readings between commands; each command is brought until it is answered."""
    field = Field(iter(losses))
    for place, octets in enumerate(LETTERS):
        for number in range(3):
            field.read(number)
        answer = field.bring_until_answered(octets)
        assert answer.number == COMMANDS[place][1][1]
        assert field.bring_until_answered(octets) == answer  # its answer was lost: it comes once more
    field.read(99)
    assert (field.meter.epoch, field.meter.key.octets) == (3, KEYS[3])
    assert field.meter.lengths == [(NOW_S, 15), (2 * NOW_S, 60)]
    again = [number for number in field.done if field.done.count(number) > 1]
    assert len(again) <= 2 * field.lost, "done again without need"
    assert sorted(set(field.done)) == [10, 11, 12, 13, 14, 15]
    return field


@pytest.fixture(autouse=True)
def small_reserve(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the counter is reserved often."""
    monkeypatch.setattr(meter_module, "RESERVE_AHEAD", 4)


def test_without_a_loss_each_command_is_done_once() -> None:
    field = live()
    assert field.done == [10, 11, 12, 13, 14, 15]
    assert field.writes > 30


@pytest.mark.parametrize("where", [BEFORE, TORN, AFTER])
def test_power_lost_in_any_write(where: str) -> None:
    writes = live().writes
    for after in range(writes):
        assert live((after, where)).lost == 1


@pytest.mark.parametrize("where", [BEFORE, TORN, AFTER])
@pytest.mark.parametrize("again", [BEFORE, TORN, AFTER])
def test_power_lost_in_any_write_and_again_in_one_soon_after(where: str, again: str) -> None:
    """While it boots, reserves, or does what it was to do once more."""
    writes = live().writes
    for after in range(writes):
        for soon in range(7):
            live((after, where), (soon, again))


def test_one_copy_of_any_record_rots_before_a_boot() -> None:
    """The other one is no older: the counter in it was not used yet."""
    for cell in live().memory.nonvolatile.cells:
        field = live()
        field.memory.nonvolatile.cells[cell] = b"rotten"
        if cell.startswith("key "):
            continue  # a key stands once: the meter is given a new one
        field.boot()
        for number in range(9):
            field.read(number)
        assert field.meter.lengths == [(NOW_S, 15), (2 * NOW_S, 60)]
        answer = field.bring(LETTERS[-1])
        assert answer is not None
        assert field.done == [10, 11, 12, 13, 14, 15]


def test_without_a_valid_copy_it_does_not_send() -> None:
    field = live()
    for cell in ("counter 0", "counter 1"):
        field.memory.nonvolatile.cells[cell] = b"rotten"
    with pytest.raises(LookupError, match="neither copy"):
        SimulatedMeter(TITLE, KEYS[1], field.memory, KEYS[0])


class TestTheModelFindsWhatIsWrong:
    """Meters that do it in another order: each is found out."""

    def losses(self) -> Iterator[tuple[int, str]]:
        return ((after, where) for after in range(70) for where in (BEFORE, TORN, AFTER))

    def assert_found(self, what: str, *more: tuple[int, str]) -> None:
        found = []
        for loss in self.losses():
            try:
                live(loss, *more)
            except (AssertionError, LookupError) as error:
                found.append(str(error))
        assert any(what in text for text in found), found[:3]

    def test_the_counter_is_used_before_it_is_reserved(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def next_counter(meter: SimulatedMeter) -> int:
            counter = meter._counter
            meter._counter = counter + 1
            if counter > meter._reserved:
                meter._keys.reserve(meter.epoch, counter + 4)
                meter._reserved = counter + 4
            return counter

        monkeypatch.setattr(SimulatedMeter, "next_counter", next_counter)
        self.assert_found("a nonce again")

    def test_the_epoch_is_not_kept_with_the_counter(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The counter is set to 0 first, and the key is changed then."""

        def renew(meter: SimulatedMeter, order: TakenCommand) -> None:
            epoch = order.fields[2]
            if epoch > meter.epoch:
                for cell in ("counter 0", "counter 1"):  # the epoch would stand in a place of its own
                    meter.memory.nonvolatile.write_checked(cell, meter.epoch.to_bytes(2, "big") + bytes(6))
                right(meter, order)

        right = SimulatedMeter.renew
        monkeypatch.setattr(SimulatedMeter, "renew", renew)
        self.assert_found("a nonce again")

    def test_the_key_is_stored_after_the_epoch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def renew(meter: SimulatedMeter, order: TakenCommand) -> None:
            key = meter.receiver.key_in(order)
            if key is not None and key.epoch > meter.epoch:
                meter._keys.reserve(key.epoch, 4)
                meter._keys.keep(meter.epoch, key)
                meter.epoch, meter._counter, meter._reserved = key.epoch, 0, 4
                meter._use_key()

        monkeypatch.setattr(SimulatedMeter, "renew", renew)
        self.assert_found("no key of epoch")

    def test_a_new_key_is_put_where_the_current_one_stands(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def keep(keys: Keys, current: int, key: Key) -> None:
            keys._memory.write_checked("key 0", cbor2.dumps(list(key)))

        monkeypatch.setattr(Keys, "keep", keep)
        self.assert_found("no key of epoch")

    def test_a_command_is_recorded_before_it_is_done(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def take(receiver: Receiver, octets: bytes, epoch: int) -> TakenCommand | None:
            order = right(receiver, octets, epoch)
            if order is not None and not order.again:
                receiver.answer(order, NOW_S, COMMAND_DONE)
            return order

        right: Callable[[Receiver, bytes, int], TakenCommand | None] = Receiver.take
        monkeypatch.setattr(Receiver, "take", take)
        self.assert_found("")

    def test_one_copy_is_written_at_a_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """In turn: then the other is older, and where the newer rots, its counters come again."""

        def store(record: CounterRecord, body: bytes) -> None:
            oldest = min(record._cells, key=lambda cell: record._memory.read(cell) or b"")
            record._memory.write_checked(oldest, body)

        monkeypatch.setattr(CounterRecord, "store", store)
        monkeypatch.setattr(CounterRecord, "repair", lambda record: None)
        field = live()
        newest = max(("counter 0", "counter 1"), key=lambda cell: field.memory.nonvolatile.read(cell) or b"")
        field.memory.nonvolatile.cells[newest] = b"rotten"
        field.boot()
        with pytest.raises(AssertionError, match="a nonce again"):
            deque(map(field.read, range(9)))
