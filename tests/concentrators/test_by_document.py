"""A meter written from docs/frame.md alone, with nothing of the project's code in it, beside the head-end."""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import cbor2
import pytest
from cryptography.exceptions import InvalidTag
from django.utils import timezone

from concentrators.commands import downlink, queue
from concentrators.commands.queue import CommandRequest
from concentrators.models import Command, CommandKind, Concentrator
from keyvault.device_keys import provisioning
from keyvault.device_keys.provisioning import NewKey
from meters import models
from tests.concentrators.commands.test_downlink import state
from tests.concentrators.fleet import commission, judged
from tests.keyvault import by_document

pytestmark = pytest.mark.django_db
LIMIT_S = 600  # section 10, set clock
DONE, REFUSED, LATE = 0, 1, 2


@dataclass
class Meter:
    """Sections 1, 4, 6 and 10. ``keys`` holds key and alg by epoch, ``last`` the last command of each kind of key."""

    title: bytes
    keys: dict[int, tuple[bytes, int]] = field(repr=False)
    clock_s: int = 0
    running_s: int = 0
    epoch: int = 1
    counter: int = 0
    last: dict[bool, tuple[int, int, int, int, int]] = field(
        default_factory=dict
    )  # epoch, counter, number, said, second
    sealed_s: dict[int, int] = field(default_factory=dict)  # running time by counter

    def seal(self, payload: bytes) -> bytes:
        key, alg = self.keys[self.epoch]
        octets = by_document.seal(key, alg, self.title, self.epoch, self.counter, payload)
        self.sealed_s[self.counter] = self.running_s
        self.counter += 1
        return octets

    def obey(self, octets: bytes) -> bytes | None:
        """The answer to a command, sealed; None where it is dropped."""
        frame = by_document.take_apart(octets)
        epoch, counter = int.from_bytes(frame.kid[8:], "big"), int.from_bytes(frame.counter, "big")
        if frame.kid[:8] != self.title or epoch not in self.keys or frame.alg != self.keys[epoch][1] + 20:
            return None
        try:
            fields = cbor2.loads(by_document.open_(self.keys[epoch][0], octets))
        except InvalidTag:
            return None
        last = self.last.get(epoch == 0)
        if last is None or epoch > last[0] or counter > last[1]:
            for old in [one for one in self.keys if 0 < one < epoch]:
                del self.keys[old]
            last = epoch, counter, fields[1], *self._do(epoch, fields)
            self.last[epoch == 0] = last
        elif counter < last[1]:
            return None
        record = {0: f"0-0:96.13.{last[3]}", 1: "count", 2: last[2], 6: last[4]}
        return self.seal(cbor2.dumps([record]))

    def _do(self, epoch: int, fields: list[Any]) -> tuple[int, int]:
        match fields:
            case [1, int(), int(new), bytes(key), int(alg)] if epoch == 0:
                if new > self.epoch:
                    self.keys = {0: self.keys[0], self.epoch: self.keys[self.epoch], new: (key, alg)}
                    self.epoch, self.counter, self.sealed_s = new, 0, {}
            case [2, int()] if epoch:
                pass
            case [4, int(), int(time_s), *heard] if epoch and len(heard) <= 1:
                sealed_s = self.sealed_s.get(heard[0] - 1) if heard and epoch == self.epoch else None
                if sealed_s is None or self.running_s - sealed_s > LIMIT_S:
                    return LATE, time_s
                self.clock_s = time_s
            case _:
                return REFUSED, self.clock_s
        self.clock_s += 1  # so that no two answers have one second
        return DONE, self.clock_s


@pytest.fixture
def meter(concentrator: Concentrator) -> Meter:
    (device,) = commission(1, concentrator)
    transfer_key = bytes(range(32))
    provisioning.provision_stored([NewKey(device.title, 0, transfer_key)])
    return Meter(device.title, {0: (transfer_key, 10), 1: (device.key, 10)}, int(timezone.now().timestamp()))


def fetched(concentrator: Concentrator, command: Command, after_s: int = 60) -> bytes:
    [offer] = downlink.offer(concentrator.pk, 1, timezone.now() + timedelta(seconds=after_s))
    assert offer.number == command.pk
    return offer.octets


def given(meter: Meter, kind: CommandKind) -> Command:
    [command] = queue.enqueue([CommandRequest(_row(meter), kind, {})], "tester", timezone.now())
    return command


def _row(meter: Meter) -> models.Meter:
    return models.Meter.objects.get(system_title=meter.title)


def test_keys_of_other_algorithms_and_commands_under_each(concentrator: Concentrator, meter: Meter) -> None:
    for epoch, alg in ((2, 11), (3, 11), (4, 10)):
        [command] = queue.enqueue_keys([_row(meter)], "tester", timezone.now(), alg)
        octets = fetched(concentrator, command)
        answer, again = meter.obey(octets), meter.obey(octets)
        assert answer is not None
        assert again is not None
        assert (meter.epoch, meter.keys[epoch][1]) == (epoch, alg)
        assert judged(concentrator, [answer, again], timezone.now()) == {"accepted": 2}
        assert state(command) == "done"
        reading = given(meter, CommandKind.READ_NOW)
        answer = meter.obey(fetched(concentrator, reading))
        assert answer is not None
        assert set(meter.keys) == {0, epoch}
        assert judged(concentrator, [answer], timezone.now()) == {"accepted": 1}
        assert state(reading) == "done"


@pytest.mark.parametrize("wrong_s", [-86_400, 86_400])
def test_a_clock_that_is_wrong_is_set_and_not_by_a_command_that_somebody_held(
    concentrator: Concentrator, meter: Meter, wrong_s: int
) -> None:
    meter.clock_s += wrong_s
    command = given(meter, CommandKind.SET_CLOCK)
    late = meter.obey(fetched(concentrator, command))
    assert late is not None
    assert judged(concentrator, [late], timezone.now()) == {"accepted": 1}
    held = fetched(concentrator, command, 70)
    before = meter.clock_s
    meter.running_s += LIMIT_S + 1
    late = meter.obey(held)
    assert late is not None
    assert meter.clock_s == before
    assert judged(concentrator, [late], timezone.now()) == {"accepted": 1}
    done = meter.obey(fetched(concentrator, command, 80))
    assert done is not None
    assert abs(meter.clock_s - timezone.now().timestamp()) < 100
    assert judged(concentrator, [done], timezone.now()) == {"accepted": 1}
    command.refresh_from_db()
    assert (command.state, command.late_answers) == ("done", 2)
