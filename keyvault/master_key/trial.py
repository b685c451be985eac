"""Whether the master key is the one that the stored keys are wrapped under: some of them are opened."""

from typing import NamedTuple

from keyvault import master_key
from keyvault.device_keys.provisioning import purpose_of
from keyvault.master_key import MasterKeyError, UnwrapError
from keyvault.models import DeviceKey


class Trial(NamedTuple):
    """How many stored keys were tried, and why those did not open that did not."""

    tried: int
    refusals: list[str]


def try_stored_keys(each: int = 5) -> Trial:
    """Opens the oldest and the newest wrapped keys, which a rotation by halves would tell apart.

    Raises MasterKeyError where the master key cannot be used at all.
    """
    wrapped = DeviceKey.objects.exclude(wrapped=None)
    rows = {row.pk: row for order in ("pk", "-pk") for row in wrapped.order_by(order)[:each]}
    if not rows:
        return Trial(0, [])
    keys = master_key.current()
    refusals = []
    for row in rows.values():
        try:
            keys.unwrap(bytes(row.wrapped or b""), purpose_of(row.epoch), bytes(row.system_title), row.epoch)
        except (MasterKeyError, UnwrapError) as error:
            refusals.append(str(error))
    return Trial(len(rows), refusals)


def check_any_opens() -> None:
    """MasterKeyError where the master key opens nothing of what is stored; one damaged key is not as much."""
    tried, refusals = try_stored_keys(2)
    if tried and len(refusals) == tried:
        raise MasterKeyError(f"the master key opens none of the {tried} stored keys that were tried: {refusals[0]}")
