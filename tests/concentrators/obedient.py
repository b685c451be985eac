"""A meter's side of the downlink, for tests: it opens what its concentrator brings, by docs/frame.md."""

from dataclasses import dataclass, field
from typing import Any

import cbor2

from keyvault.cose.algorithms import command_algorithm
from keyvault.cose.kdf import downlink_key
from keyvault.cose.sealing import DirectionCipher
from keyvault.cose.structures import parse_frame
from keyvault.device_keys.unwrapping import open_keys
from keyvault.models import DeviceKey
from tests.builders import senml_payload
from tests.concentrators.fleet import Device

DONE, REFUSED, LATE = "0-0:96.13.0", "0-0:96.13.1", "0-0:96.13.2"


@dataclass
class Receiver:
    """Opens commands under the transfer key and the device's key; each of them has its algorithm."""

    device: Device
    transfer_key: bytes = field(repr=False)
    transfer_alg: int = 10

    @classmethod
    def of(cls, device: Device) -> "Receiver":
        """The receiver of a device whose transfer key is in the vault."""
        row = DeviceKey.objects.get(system_title=device.title, epoch=0)
        return cls(device, open_keys([row.pk])[0].octets, row.algorithm)

    def open(self, octets: bytes) -> tuple[int, int, list[Any]]:
        """The epoch, the counter and the fields of a command; TagInvalidError where it is not for this device."""
        frame = parse_frame(octets)
        epoch = int.from_bytes(frame.kid[8:], "big")
        assert frame.kid[:8] == self.device.title
        assert epoch in (0, self.device.epoch)
        key = self.device.key if epoch else self.transfer_key
        alg = command_algorithm(self.device.alg if epoch else self.transfer_alg)
        assert frame.alg == alg
        cipher = DirectionCipher(downlink_key(key, self.device.title, epoch, alg), alg)
        return epoch, frame.counter, cbor2.loads(cipher.open_(frame))

    def renewed(self, octets: bytes) -> Device:
        """The meter with the key that a command brought."""
        epoch, _, fields = self.open(octets)
        assert epoch == 0
        assert fields[0] == 1
        return Device(self.device.meter, fields[3], fields[2], fields[4])


def answer(device: Device, number: int, at_s: int, *, done: bool = True, register: str | None = None) -> bytes:
    """A frame in which the meter answers a command; ``register`` where it is neither done nor refused."""
    return device.seal(senml_payload({register or (DONE if done else REFUSED): number}, at_s, unit="count"))
