"""DLMS meters of the head-end under test: their key sets, which come from elsewhere, and their push profile."""

from hashlib import sha256

from concentrators.simulator.notifications import forms
from keyvault.device_keys import epochs, provisioning
from keyvault.device_keys.provisioning import NewKey
from keyvault.models import DeviceKey
from keyvault.schemes.table import algorithm_for
from meters.models import Meter
from meters.readings import push_profiles
from meters.readings.push_profiles import ProfileWish
from tests.stateful.enrolling import Enrolling
from tests.stateful.faults import Fault
from tests.stateful.field import HonestMeter, Made
from tests.stateful.ground import ACTOR, clock

DLMS = "dlms"
NEXT_EPOCH = 2


class Pushing(Enrolling):
    """What operators do with DLMS meters. These take no command, so that other rules leave them alone."""

    def commission_pusher(self, number: int, concentrator: int) -> HonestMeter:
        """A DLMS meter with its first key set; it has the next one, too, which the head-end does not know yet."""
        title = (0x0024_BEFF_FED0_0001 + number).to_bytes(8, "big")
        row = Meter.objects.create(system_title=title, serial_number=f"pusher {number}", commissioned_at=clock.now)
        first, following, no_key_of_ours = (sha256(title + bytes((n,))).digest() for n in range(3))
        alg = algorithm_for(DLMS)
        provisioning.provision_stored([NewKey(title, 1, first, alg, DLMS)])
        if not self.pushers:
            form = forms(title, clock.now_s)[0]
            push_profiles.add(ProfileWish(form.name, title[:3], form.definition, form.sample, title), ACTOR)
        made = Made(first, no_key_of_ours, alg, alg, DLMS, next_key=following)
        self.pushers.append(self.take_in(row, made, concentrator))
        self.meters.pop()
        self.truth.by_title.add(title)
        self.learn({(None, "active")})
        return self.pushers[-1]

    def bring_next_set(self, meter: HonestMeter, fault: Fault | None = None) -> None:
        """The meter's own system hands over its next key set, unless it has."""
        if (meter.title, NEXT_EPOCH) not in self.truth.keys:
            entry = NewKey(meter.title, NEXT_EPOCH, meter.made.next_key, meter.made.alg, DLMS)
            self.faults.run(lambda: provisioning.provision_pending([entry], {}), fault)
            self.learn({(None, "pending")})

    def compromise_set(self, meter: HonestMeter, epoch: int) -> None:
        """Somebody else knows a key set of a meter."""
        epochs.compromise([DeviceKey.objects.get(system_title=meter.title, epoch=epoch).pk], ACTOR)
        self.learn({(before, "compromised") for before in ("pending", "active", "retiring", "retired")})
