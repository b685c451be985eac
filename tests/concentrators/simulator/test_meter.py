"""A simulated meter seals what the known answer of docs/frame.md says, and never uses a counter twice."""

from concentrators.simulator import nonvolatile
from concentrators.simulator.meter import RESERVE_AHEAD, Memory, SimulatedMeter, event_payload, interval_payload
from keyvault.cose.algorithms import AES_CCM_16_64_128
from keyvault.cose.kdf import uplink_key
from keyvault.cose.sealing import DirectionCipher
from keyvault.cose.structures import parse_frame
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
