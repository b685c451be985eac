"""A simulated meter seals what the known answer of docs/frame.md says, and never uses a counter twice."""

import cbor2
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from concentrators.simulator import nonvolatile
from concentrators.simulator.meter import RESERVE_AHEAD, Memory, SimulatedMeter
from concentrators.simulator.obedience import SET_CLOCK, TakenCommand
from concentrators.simulator.packs import event_payload, interval_payload
from keyvault.cose.algorithms import AES_CCM_16_64_128
from keyvault.cose.kdf import downlink_key, uplink_key
from keyvault.cose.sealing import DirectionCipher
from keyvault.cose.structures import parse_frame
from keyvault.schemes.agreed import agree, agreed_device_key
from keyvault.schemes.session import parse_session
from meters.readings.senml import SenmlRecord, parse_pack

TITLE = bytes.fromhex("0024befffe804ff1")
KEY = bytes(range(32))
PAYLOAD = bytes.fromhex(
    "82a520181a221a6955b9000069312d303a312e382e3001625768021a0012d687a3006a312d303a312e32392e3001625768021870"
)
FRAME = bytes.fromhex(
    "d08353a3010a044a0024befffe804ff10001064261a7a0583c33b01f37ac067296dec5f05bb05220f5f30da19fc79562e6"
    "cc7a66c4c52b8f16a9982f44fc474b5587e8e51680fcde8d66f3479c0dab0eb15fdb9ad4"
)


def reserved(memory: Memory) -> int:
    """The counter that stands in a memory as reserved."""
    body = nonvolatile.CounterRecord(memory.nonvolatile, "counter").load()
    assert body is not None
    return int.from_bytes(body[2:], "big")


def test_known_answer() -> None:
    memory = Memory(number=0, register_wh=1_234_567)
    nonvolatile.CounterRecord(memory.nonvolatile, "counter").store((1).to_bytes(2, "big") + (0x61A7).to_bytes(6, "big"))
    meter = SimulatedMeter(TITLE, KEY, memory)
    assert interval_payload(0x6955B900, 1_234_567, 112) == PAYLOAD
    assert meter.seal(meter.measure(0x6955B900, 112)) == FRAME
    assert memory.register_wh == 1_234_567 + 112


def test_reserve_stands_in_memory_before_a_counter_of_it_is_used() -> None:
    memory = Memory(number=0)
    meter = SimulatedMeter(TITLE, KEY, memory)
    for counter in range(3 * RESERVE_AHEAD):
        assert meter.next_counter() == counter
        assert reserved(memory) > counter


def test_reboot_goes_on_at_the_reserve() -> None:
    memory = Memory(number=0)
    before = SimulatedMeter(TITLE, KEY, memory)
    used = {before.next_counter() for _ in range(10)}
    after = SimulatedMeter(TITLE, KEY, memory)
    assert after.next_counter() == RESERVE_AHEAD
    assert used == set(range(10))


def test_frames_open_and_say_what_was_measured() -> None:
    meter = SimulatedMeter(TITLE, KEY, Memory(number=0))
    cipher = DirectionCipher(uplink_key(KEY, TITLE, 1, AES_CCM_16_64_128), AES_CCM_16_64_128)
    frame = parse_frame(meter.seal(event_payload(1_767_225_600, "0-0:96.11.1", 3)))
    assert (frame.kid, frame.alg, frame.counter) == (TITLE + b"\x00\x01", AES_CCM_16_64_128, 0)
    assert parse_pack(cipher.open_(frame)) == [SenmlRecord("0-0:96.11.1", "count", 3, 1_767_225_600)]


def clock_heard(counter: int) -> TakenCommand:
    """A set clock that names how far the meter's counter was heard."""
    return TakenCommand([SET_CLOCK, 7, 0x6955BA00, counter], epoch=1, counter=1, again=False)


class TestSessions:
    """A meter of scheme ``session`` writes to its memory once a boot, and no nonce of it comes twice."""

    def boot(self, memory: Memory, clock_s: int = 0x6955B900) -> SimulatedMeter:
        return SimulatedMeter(TITLE, KEY, memory, scheme="session", clock_s=clock_s)

    def test_each_boot_begins_a_session_and_its_counters_begin_at_0(self) -> None:
        memory = Memory(number=0)
        frames = [parse_session(one.seal(PAYLOAD)) for one in (self.boot(memory), self.boot(memory), self.boot(memory))]
        contexts = [frame.kid[10:] for frame in frames]
        assert [frame.counter for frame in frames] == [0, 0, 0]
        assert [context[4:8] for context in contexts] == [number.to_bytes(4, "big") for number in (1, 2, 3)]
        assert contexts == sorted(contexts)

    def test_a_clock_that_is_set_begins_a_session(self) -> None:
        meter = self.boot(Memory(number=0))
        meter.seal(PAYLOAD)
        meter.set_clock(0x6955BA00)
        frame = parse_session(meter.seal(PAYLOAD))
        assert (frame.counter, frame.kid[10:14]) == (0, bytes.fromhex("6955ba00"))

    def test_how_old_a_set_clock_is_goes_by_the_counters_of_the_session(self) -> None:
        meter = self.boot(Memory(number=0))
        meter.let_time_pass(0)
        sealed = [meter.seal(PAYLOAD) for _ in range(3)]
        assert [meter.is_late(clock_heard(heard), 10) for heard in (0, 3, 4)] == [True, False, True]
        meter.set_clock(0x6955BA00)
        assert meter.is_late(clock_heard(3), 10)  # that was of the session before
        assert len(sealed) == 3

    def test_frames_write_nothing(self) -> None:
        memory = Memory(number=0)
        meter = self.boot(memory)
        memory.nonvolatile.changed = False
        for counter in range(3 * RESERVE_AHEAD):
            assert parse_session(meter.seal(PAYLOAD)).counter == counter
        assert not memory.nonvolatile.changed

    def test_power_lost_in_the_write_of_a_boot(self) -> None:
        memory = Memory(number=0)
        self.boot(memory)
        seen = set()
        for torn in range(3):
            memory.nonvolatile.cells[f"boots {torn % 2}"] = b"rotten"
            seen.add(parse_session(self.boot(memory).seal(PAYLOAD)).kid[14:18])
        assert len(seen) == 3


def test_a_meter_with_a_hash_alone_takes_no_commands() -> None:
    octets = DirectionCipher(downlink_key(KEY, TITLE, 1, 30), 30).seal(TITLE + b"\x00\x01", 1, cbor2.dumps([2, 7]))
    without, with_aes = (
        SimulatedMeter(TITLE, KEY, Memory(0), transfer, alg=5, scheme="mac") for transfer in (b"", bytes(32))
    )
    assert without.receiver.take(octets, without.epoch) is None
    order = with_aes.receiver.take(octets, with_aes.epoch)
    assert order is not None
    assert with_aes.receiver.does(order)


def test_a_new_epoch_is_agreed_on_by_command_6() -> None:
    """The known answer of the document; what the head-end sends is no secret."""
    private, head_end = bytes(range(0x60, 0x80)), X25519PrivateKey.from_private_bytes(bytes(range(0x80, 0xA0)))
    ours = head_end.public_key().public_bytes_raw()
    z = agree(X25519PrivateKey.from_private_bytes(private), ours)
    theirs = X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()
    keys = [agreed_device_key(z, TITLE, epoch, theirs, ours) for epoch in range(3)]
    octets = DirectionCipher(downlink_key(keys[0], TITLE, 0, 30), 30).seal(
        TITLE + bytes(2), 1, cbor2.dumps([6, 23, 2, 10, 1, ours])
    )
    meter = SimulatedMeter(TITLE, keys[1], Memory(0), keys[0], private=private)
    order = meter.receiver.take(octets, meter.epoch)
    assert order is not None
    assert meter.receiver.does(order)
    meter.renew(order)
    assert (meter.epoch, meter.key.octets, meter.key.scheme) == (2, keys[2], "session")
    small = order._replace(fields=[*order.fields[:5], bytes(32)])
    assert not meter.receiver.does(small)
