"""Meters that push DLMS frames, with their key sets, for tests of the whole verification."""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from concentrators.models import Assignment, Concentrator
from keyvault.audit.chain import Actor
from keyvault.device_keys import provisioning
from keyvault.device_keys.provisioning import NewKey
from keyvault.models import KeyState
from keyvault.schemes.dlms.gcm import GcmCipher
from keyvault.schemes.dlms.security import algorithm_of
from meters.models import Meter, PushProfile
from meters.readings import push_profiles
from meters.readings.push_profiles import ProfileWish
from tests.concentrators.fleet import NOW
from tests.factories import MeterFactory

SCHEME_OF = {0x30: "dlms", 0x10: "dlms in clear", 0x20: "dlms without tag"}
IN_FRAME = {"kind": "obis", "clock": {"from": "apdu"}}


def scheme_of(control: int) -> str:
    return SCHEME_OF[control & 0x30]


@dataclass
class DlmsDevice:
    """A meter of a title with GUEK || GAK of its epoch 1."""

    meter: Meter
    keys: bytes = field(repr=False)
    control: int = 0x30

    @property
    def title(self) -> bytes:
        return bytes(self.meter.system_title)

    def frame(self, apdu: bytes, counter: int) -> bytes:
        """A general-glo-ciphering APDU."""
        said = GcmCipher(self.keys, self.control).seal(self.title, counter, apdu)
        return b"\xdb\x08" + self.title + b"\x82" + len(said).to_bytes(2, "big") + said


def meter_of(title: bytes, concentrator: Concentrator) -> Meter:
    meter = MeterFactory.create(system_title=title)
    Assignment.objects.create(meter=meter, concentrator=concentrator, valid_from=NOW - timedelta(days=4000))
    return meter


def key_set(
    title: bytes, octets: bytes, control: int = 0x30, epoch: int = 1, state: KeyState = KeyState.ACTIVE, *,
    is_general: bool = False,
) -> None:  # fmt: skip
    """Put GUEK || GAK of a title into the vault."""
    new = NewKey(title, epoch, octets, algorithm_of(control, is_general=is_general), scheme_of(control))
    if state is KeyState.PENDING:
        provisioning.provision_pending([new], {})
    else:
        provisioning.provision_stored([new])


def dlms_meter(title: bytes, octets: bytes, concentrator: Concentrator, control: int = 0x30) -> DlmsDevice:
    key_set(title, octets, control)
    return DlmsDevice(meter_of(title, concentrator), octets, control)


def profile(
    sample: bytes, title: bytes, definition: dict[str, Any] | None = None, name: str = "of a test", prefix: int = 3
) -> PushProfile:
    """Register a push profile by a sample of a meter, for all meters of its manufacturer."""
    wish = ProfileWish(name, title[:prefix], definition or IN_FRAME, sample, title)
    return push_profiles.add(wish, Actor("tests", "tests"))
