"""What may happen to keys: the master key rotates, versions are destroyed, keys are cut off or replaced."""

from contextlib import suppress

from hypothesis import strategies as st
from hypothesis.stateful import rule

from keyvault import master_key
from keyvault.device_keys import epochs
from keyvault.master_key import rewrap, versions
from keyvault.master_key.rewrap import RotationError
from keyvault.master_key.versions import DestroyError
from keyvault.models import DeviceKey
from tests.stateful.entities import TRANSFER_EPOCH
from tests.stateful.faults import Fault
from tests.stateful.field import HonestMeter
from tests.stateful.headend import ACTOR, real_now
from tests.stateful.rotating import destroy_what_may_be, forget_backups, rotate_twice
from tests.stateful.rules import DEATH, PICK, WORKER, Rules, faults


class KeyRules(Rules):
    """Keys at rest, and those of meters."""

    @rule(
        act=st.sampled_from(("begin", "begin", "batches", "stop", "resume", "destroy")),
        worker=WORKER,
        number=st.integers(1, 6),
        fault=DEATH,
    )
    def master_key_rotates(self, act: str, worker: int, number: int, fault: Fault | None) -> None:
        """A step of a rotation. Whoever destroys an old version too early is told so."""
        rotation = rewrap.current()
        with suppress(RotationError, DestroyError), self.site.workers[worker].at_work():
            match act:
                case "begin":
                    faults.run(lambda: rewrap.begin(number, ACTOR), fault)
                case "stop":
                    rewrap.stop(ACTOR)
                case "resume":
                    rewrap.resume(ACTOR)
                case "destroy":
                    old = master_key.provider().versions()
                    faults.run(lambda: versions.destroy(old[number % len(old)].number, ACTOR, real_now()), fault)
                case _ if rotation is not None:
                    for _ in range(number):
                        if not faults.run(lambda: rewrap.rewrap_batch(rotation.pk), fault):
                            break
        self.site.settle()

    @rule(worker=WORKER, batches=st.integers(0, 3), backups_kept=st.booleans())
    def master_key_rotates_twice_and_old_ones_go(self, worker: int, batches: int, backups_kept: bool) -> None:
        with self.site.workers[worker].at_work():
            if not backups_kept:
                forget_backups()
                self.saved = None
            rotate_twice(batches)
            destroy_what_may_be()
        assert self.saved is None or self.saved.versions <= set(master_key.provider().fresh().versions)
        self.site.settle()

    @rule(worker=WORKER, death_of_import=DEATH, death_of_worker=DEATH)
    def shipment_comes(self, worker: int, death_of_import: Fault | None, death_of_worker: Fault | None) -> None:
        """And frames that wait for keys are verified again."""
        if self.site.unshipped:
            self.site.ship(self.site.unshipped[0], death_of_import)
            if self.keys_of(self.site.unshipped[0]):
                self.site.unshipped.pop()
        self.site.verify_again(self.site.workers[worker], death_of_worker)

    @rule(pick=PICK, older=st.booleans())
    def key_is_compromised(self, pick: int, older: bool) -> None:
        keys = self.keys_of(self.meter(pick))
        if keys:
            epochs.compromise([keys[0 if older else -1].pk], ACTOR)
            self.site.learn({(before, "compromised") for before in ("pending", "active", "retiring", "retired")})

    @rule(pick=PICK, known=st.booleans(), visited=st.booleans(), fault=DEATH)
    def transfer_key_is_replaced(self, pick: int, known: bool, visited: bool, fault: Fault | None) -> None:
        """By a shipment, maybe since somebody else knows it; what is under way was sealed under the old one."""
        meter = self.meter(pick)
        if (meter.title, TRANSFER_EPOCH) in self.site.truth.keys and not self.site.is_enrolling(meter):
            if known:
                self.site.compromise_transfer_key(meter)
            self.site.replace_transfer_key(meter, fault)
            if visited:
                self.site.visit(meter)

    def keys_of(self, meter: HonestMeter) -> list[DeviceKey]:
        return list(DeviceKey.objects.filter(system_title=meter.title, epoch__gt=0).order_by("epoch"))
