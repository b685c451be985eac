"""The master key's rotation: brought to its end, and old versions destroyed."""

from contextlib import suppress

from keyvault import backups, master_key
from keyvault.master_key import rewrap, versions
from keyvault.master_key.rewrap import RotationError
from keyvault.master_key.versions import DestroyError
from tests.stateful.headend import ACTOR, clock, real_now


def finish_rotation() -> None:
    """Whatever rotation of the master key is under way, or was stopped, comes to its end."""
    with suppress(RotationError):
        rewrap.resume(ACTOR)
    rotation = rewrap.current()
    while rotation is not None and rewrap.rewrap_batch(rotation.pk):
        pass


def rotate_twice(batches: int) -> None:
    """A rotation to its end, and another one, of which some secrets have their turn."""
    finish_rotation()
    rewrap.begin(100, ACTOR)
    finish_rotation()
    rotation = rewrap.begin(1, ACTOR)
    for _ in range(batches):
        rewrap.rewrap_batch(rotation.pk)


def destroy_what_may_be() -> None:
    """Somebody destroys all versions but the newest: those that are needed yet will stay."""
    for old in master_key.provider().versions():
        with suppress(DestroyError):
            versions.destroy(old.number, ACTOR, real_now())


def forget_backups() -> None:
    """No backup is kept any more."""
    for backup in backups.retained():
        backups.forget(backup, ACTOR, clock.now, "gone")
