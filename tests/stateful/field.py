"""Who is out there: honest meters, which seal, keep and obey, and an attacker who has heard all of it."""

from hashlib import sha256

from concentrators.simulator.meter import (
    ENERGY_REGISTER,
    INTERVAL_REGISTER,
    Memory,
    SimulatedMeter,
    event_payload,
    interval_payload,
    register_payload,
)
from concentrators.simulator.obedience import READ_NOW, RESEND, SET_KEY, Keyring
from keyvault.cose.structures import parse_frame
from meters.models import Meter
from tests.builders import seal_frame
from tests.stateful.model import Sent, Value

INTERVAL_S = 1800
FLEET_KEY = sha256(b"fleet key").digest()
ATTACKS = ("flip", "wrong key", "other meter", "other epoch", "downgrade", "downlink", "transfer key", "noise", "clone")


class HonestMeter:
    """A meter, with what it keeps in non-volatile memory."""

    def __init__(self, row: Meter, made_key: bytes, transfer_key: bytes, alg: int, transfer_alg: int) -> None:
        self.row = row
        self.title = bytes(row.system_title)
        self.made_key, self.transfer_key = made_key, transfer_key
        self._memory = Memory(row.pk)
        self._keyring = Keyring(row.pk, alg=alg, transfer_alg=transfer_alg)
        self._intervals: dict[int, tuple[int, int]] = {}
        self.boot()

    @property
    def epoch(self) -> int:
        return self._device.epoch

    @property
    def key(self) -> bytes:
        return self._device.receiver.key

    @property
    def alg(self) -> int:
        return self._keyring.alg

    def visit(self, transfer_key: bytes) -> None:
        """Somebody comes and gives the meter another transfer key."""
        self.transfer_key = transfer_key
        self.boot()

    def boot(self) -> None:
        """Power comes back: the counter jumps to the reserve."""
        self._device = SimulatedMeter(self.title, self.made_key, self._memory, self.transfer_key, self._keyring)

    def read(self, interval_s: int, wh: int) -> Sent:
        """A frame of one interval; no interval is read twice."""
        assert interval_s not in self._intervals
        self._intervals[interval_s] = self._memory.register_wh, wh
        self._memory.register_wh += wh
        return self._say_interval(interval_s)

    def obey(self, octets: bytes, now_s: int, *, refuse: bool) -> list[Sent]:
        """What a command makes the meter send: nothing where it drops it, its answer last."""
        receiver = self._device.receiver
        order = receiver.take(octets)
        if order is None:
            return []
        does = receiver.does(order) and not refuse
        sent: list[Sent] = []
        if does and not order.again:
            if order.kind == SET_KEY:
                self._device.renew(order)
            elif order.kind == READ_NOW and self._intervals:
                at_s = max(self._intervals) + INTERVAL_S
                value = ENERGY_REGISTER, at_s, self._memory.register_wh
                sent.append(self._seal(register_payload(*value[1:]), value))
            elif order.kind == RESEND:
                first, end = order.fields[2:]
                sent += [self._say_interval(one) for one in sorted(self._intervals) if first <= one < end]
        answer = receiver.answer(order, now_s, done=does)
        payload = event_payload(answer.at_s, answer.register, answer.number)
        sent.append(self._seal(payload, (answer.register, answer.at_s, answer.number)))
        return sent

    def _say_interval(self, interval_s: int) -> Sent:
        register_wh, wh = self._intervals[interval_s]
        values = (ENERGY_REGISTER, interval_s, register_wh), (INTERVAL_REGISTER, interval_s, wh)
        return self._seal(interval_payload(interval_s, register_wh, wh), *values)

    def _seal(self, payload: bytes, *values: Value) -> Sent:
        octets = self._device.seal(payload)
        return Sent(octets, self.title, self.epoch, parse_frame(octets).counter, values)


def forged(attack: str, like: Sent, whose: HonestMeter, other: HonestMeter, number: int, commands: list[bytes]) -> Sent:
    """A frame of an attacker who heard a frame of one meter, and what went by on the downlink."""
    title, epoch, counter = like.title, like.epoch, like.counter
    payload = interval_payload(like.values[-1][1], 1, 66_666)
    match attack:
        case "flip":
            octets = bytearray(like.octets)
            octets[number // 8 % len(octets)] ^= 1 << number % 8
            made = bytes(octets)
        case "wrong key":  # far ahead: where it is believed before its tag, it locks the meter out
            made = seal_frame(title, epoch, sha256(title + whose.key).digest(), 2**40 - 1 - number, payload, whose.alg)
        case "other meter":
            made = like.octets.replace(title, other.title if other.title != title else bytes(8))
        case "other epoch":
            made = seal_frame(title, epoch + 1, whose.made_key, counter + number % 3, payload, whose.alg)
        case "downgrade":  # the right key, the wrong algorithm
            made = seal_frame(title, whose.epoch, whose.key, 2**30 + number, payload, alg=21 - whose.alg)
        case "downlink" if commands:
            made = commands[number % len(commands)]
        case "transfer key":
            made = seal_frame(title, 0, whose.transfer_key, number, payload)
        case "clone" if whose.epoch == epoch:  # the right key; the caller sees to it that the counter is taken
            made = seal_frame(title, epoch, whose.key, counter, payload, whose.alg)
        case _:
            shorter = like.octets[: number % (len(like.octets) - 5)]  # so that chance does not make the frame itself
            made = shorter + sha256(shorter).digest()[: number % 5]
    return Sent(made, title, epoch, counter, (), honest=False)
