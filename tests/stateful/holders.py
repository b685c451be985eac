"""Concentrators that hold keys, as they are out there: the simulator's reference of them, with what it may not lose."""

from typing import Any

import cbor2

from concentrators.simulator.hop_concentrator import HopConcentrator, SumPlace
from concentrators.simulator.keys import Key
from keyvault.cose.algorithms import command_algorithm
from keyvault.cose.kdf import downlink_key
from keyvault.cose.sealing import DirectionCipher, TagInvalidError
from keyvault.cose.structures import make_kid, parse_frame
from meters.readings.obis import LOAD_PROFILE
from tests.stateful.entities import INTERVAL_S, Sent, Sum, Value

ALG = 10


class Holder:
    """One concentrator: it opens what its meters send it, reports, adds up, and takes its own next key."""

    scheme, alg = "concentrator", ALG

    def __init__(self, title: bytes, key: bytes, transfer_key: bytes) -> None:
        self.title, self.made_key, self.transfer_key = title, key, transfer_key
        self._device = HopConcentrator(title, Key(key, ALG, 1))

    @property
    def epoch(self) -> int:
        return self._device.key.epoch

    def knows(self, kid: bytes) -> bool:
        """Whether it has the keys of a meter's epoch."""
        return self._device.knows(kid)

    def take_keys(self, octets: bytes) -> None:
        """Take hop keys; those that are sealed under another key of its own it cannot open, and keeps what it has."""
        try:
            self._device.take_keys(octets)
        except TagInvalidError:
            return

    def pass_on(self, tagged: bytes, now_s: int) -> bytes | None:
        """A meter's own frame without its hop tag; None where the tag does not hold."""
        return self._device.receive(tagged, INTERVAL_S // 60, now_s)

    def report(self, title: bytes, frame: bytes, values: tuple[Value, ...], now_s: int) -> Sent:
        """What a meter of scheme ``hop`` sent to it, as it says that to the head-end."""
        counter = self._device.counter
        octets = self._device.receive(frame, INTERVAL_S // 60, now_s)
        assert octets is not None, "an honest meter's frame is dropped by its concentrator"
        return Sent(octets, self.title, self.epoch, counter, values, about=title)

    def say_sums(self, now_s: int) -> list[Sent]:
        """Frames of the sums that it did not say so yet; of the last interval, where there are none."""
        said = self._device.sums_until(now_s)
        last_s = now_s // INTERVAL_S * INTERVAL_S - INTERVAL_S
        sums = said or [(SumPlace(LOAD_PROFILE, INTERVAL_S // 60, last_s), 0, 0)]
        sent = []
        for place, value, meters in sums:
            counter = self._device.counter
            (octets,) = self._device.seal_sums([(place, value, meters)])
            one = Sum(place.register, place.start_s, value, meters)
            sent.append(Sent(octets, self.title, self.epoch, counter, (), sums=(one,)))
        return sent

    def renew(self, command: bytes) -> None:
        """Send under the key of a command from now on; its meters' keys it asks for again."""
        alg = command_algorithm(ALG)
        frame = parse_frame(command)
        assert (frame.kid, frame.alg) == (make_kid(self.title, 0), alg)
        fields = cbor2.loads(DirectionCipher(downlink_key(self.transfer_key, self.title, 0, alg), alg).open_(frame))
        _, number, epoch, key, key_alg = fields
        assert number == epoch
        if epoch > self.epoch:
            kept: dict[str, Any] = cbor2.loads(self._device.dump())
            state = cbor2.dumps({**kept, "counter": 0, "keys": b""})
            self._device = HopConcentrator(self.title, Key(key, key_alg, epoch), state)

    def boot(self) -> None:
        """Power comes back."""
        self._device = HopConcentrator(self.title, self._device.key, self._device.dump())

    # --- for whoever attacks it, as of a meter ------------------------------------------------------

    def seal_with_other_key(self, counter: int, payload: bytes) -> bytes:
        """A frame of somebody with another key."""
        return self._device.impostor(self.title + self.made_key).seal(payload, counter)

    def is_sealing_as(self, sent: Sent) -> bool:
        """Whether a frame is of the epoch that it seals in now."""
        return sent.epoch == self.epoch

    def seal_again(self, counter: int, payload: bytes) -> bytes:
        """What whoever cloned it seals, with a counter of its choice."""
        return self._device.seal(payload, counter)

    def seal_otherwise(self, counter: int, payload: bytes) -> bytes:
        """A frame under its own key that is not of its scheme and algorithm."""
        scheme, alg = ("mac", 4) if counter % 2 else ("ccm", 21 - ALG)
        return self._device.seal_as(scheme, alg, payload)
