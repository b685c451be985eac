"""Meters for tests as the head-end knows them, with the keys that only the meters know: they seal what is posted."""

import itertools
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import ClassVar

from django.utils import timezone

from concentrators import tasks
from concentrators.ingest import reception, verification
from concentrators.models import Assignment, Concentrator, FailureTally, IntegrityFailure, Uplink
from keyvault.cose.kdf import uplink_key
from keyvault.cose.sealing import DirectionCipher
from keyvault.cose.structures import encode_sequence, make_kid
from keyvault.device_keys import key_rows, provisioning
from keyvault.device_keys.provisioning import NewKey
from keyvault.models import DeviceKey, InvocationCounter, KeyState
from meters.models import Meter, Reading, Register
from tests.builders import senml_payload
from tests.factories import MeterFactory

ENERGY = "1-0:1.8.0"
INTERVAL = "1-0:1.29.0"
HALF_HOUR_S = 1800
NOW = timezone.now().replace(minute=0, second=0, microsecond=0)
START_S = int(NOW.timestamp()) - 86_400  # a multiple of half an hour; intervals of tests begin here
START = datetime.fromtimestamp(START_S, UTC)
WINDOW = NOW - timedelta(days=1200), NOW + timedelta(days=100)

_registers: dict[str, int] = {}


@dataclass
class Device:
    """A meter row and the key of one epoch; ``seal`` counts on unless a counter is given."""

    meter: Meter
    key: bytes = field(repr=False)
    epoch: int = 1
    alg: int = 10
    counters: "itertools.count[int]" = field(default_factory=itertools.count, repr=False)

    @property
    def title(self) -> bytes:
        return bytes(self.meter.system_title)

    @property
    def kid(self) -> bytes:
        return make_kid(self.title, self.epoch)

    def seal(self, payload: bytes, counter: int | None = None) -> bytes:
        cipher = DirectionCipher(uplink_key(self.key, self.title, self.epoch, self.alg), self.alg)
        return cipher.seal(self.kid, next(self.counters) if counter is None else counter, payload)

    def frame(self, interval: int, wh: int = 100, counter: int | None = None) -> bytes:
        """A frame of both usual registers for the interval with that number after START."""
        return self.seal(usual(interval, wh), counter)

    model: ClassVar[type] = Reading  # what its values become

    def told(self, interval: int, value: int) -> int:
        """What a value says that is stored for an interval."""
        return value

    def row(self) -> DeviceKey:
        return DeviceKey.objects.get(system_title=self.title, epoch=self.epoch)

    def counter(self) -> InvocationCounter:
        return InvocationCounter.objects.get(key__system_title=self.title, key__epoch=self.epoch)

    def next_epoch(self, epoch: int, alg: int = 10) -> "Device":
        """The same meter with a key of another epoch, which takes the place of this one as the active key."""
        key_rows.set_key_state([self.row().pk], KeyState.RETIRING)
        key = secrets.token_bytes(32)
        provisioning.provision_stored([NewKey(self.title, epoch, key, alg)])
        return Device(self.meter, key, epoch, alg)


def usual(interval: int, wh: int = 100) -> bytes:
    """The payload of an interval: the register at its start and the energy of it."""
    return senml_payload({ENERGY: 10_000 + interval, INTERVAL: wh}, START_S + interval * HALF_HOUR_S)


def commission(count: int, concentrator: Concentrator | None, alg: int = 10) -> list[Device]:
    """Meters with keys of epoch 1, assigned to the concentrator for ever."""
    meters = MeterFactory.create_batch(count)
    devices = [Device(meter, secrets.token_bytes(32), alg=alg) for meter in meters]
    provisioning.provision_stored([NewKey(device.title, 1, device.key, alg) for device in devices])
    if concentrator is not None:
        Assignment.objects.bulk_create(
            [Assignment(meter=m, concentrator=concentrator, valid_from=NOW - timedelta(days=4000)) for m in meters]
        )
    return devices


def post(concentrator: Concentrator, frames: Sequence[bytes], received_at: datetime = NOW) -> Uplink:
    """Receive an uplink, as yet unverified."""
    receipt = reception.receive(concentrator.pk, encode_sequence(list(frames)), received_at, tasks.enqueue)
    return Uplink.objects.get(pk=receipt.uplink_id)


def verified(concentrator: Concentrator, frames: Sequence[bytes], received_at: datetime = NOW) -> Uplink:
    """Receive and verify an uplink; its verdicts must add up, and so must evidence and tally."""
    uplink = post(concentrator, frames, received_at)
    verification.verify(uplink.pk)
    uplink.refresh_from_db()
    assert uplink.verified_at is not None
    assert uplink.accepted + uplink.duplicate + uplink.rejected == uplink.frames == len(frames)
    assert sum(uplink.failures.values()) == uplink.rejected
    return uplink


def outcome(uplink: Uplink) -> dict[str, int]:
    """Verdicts by name, zeros left out."""
    counted = {"accepted": uplink.accepted, "duplicate": uplink.duplicate, **uplink.failures}
    return {name: count for name, count in counted.items() if count}


def judged(concentrator: Concentrator, frames: Sequence[bytes], received_at: datetime = NOW) -> dict[str, int]:
    """What becomes of frames in an uplink of their own."""
    return outcome(verified(concentrator, frames, received_at))


def evidence(uplink: Uplink) -> list[IntegrityFailure]:
    return list(IntegrityFailure.objects.filter(uplink=uplink).order_by("frame_index"))


def tallies(concentrator: Concentrator) -> dict[str, int]:
    """Failures of a concentrator by kind, over all hours."""
    found: dict[str, int] = {}
    for row in FailureTally.objects.filter(concentrator=concentrator):
        found[row.kind] = found.get(row.kind, 0) + row.failures
    return found


def register_id(obis_code: str) -> int:
    if obis_code not in _registers:
        _registers[obis_code] = Register.objects.get(obis_code=obis_code).pk
    return _registers[obis_code]


def readings_of(device: Device, obis_code: str = INTERVAL) -> dict[int, int]:
    """Values of one register by the number of the interval after START."""
    rows = device.model.objects.filter(meter=device.meter, register_id=register_id(obis_code))  # type: ignore[attr-defined]
    values = {
        (int(at.timestamp()) - START_S) // HALF_HOUR_S: value for at, value in rows.values_list("captured_at", "value")
    }
    return {interval: device.told(interval, value) for interval, value in values.items()}
