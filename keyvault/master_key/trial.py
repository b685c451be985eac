"""Tries whether the master key belongs to this database: some stored keys are opened."""

from collections.abc import Iterator
from typing import NamedTuple

from keyvault import master_key
from keyvault.device_keys.key_rows import purpose_of
from keyvault.master_key import MasterKeyError, Purpose, UnwrapError
from keyvault.models import AgreementKey, DeviceKey


class Trial(NamedTuple):
    """The number of stored keys that were tried, and why some did not open."""

    tried: int
    refusals: list[str]


def try_stored_keys(each: int = 5) -> Trial:
    """Open the oldest and the newest wrapped keys: after half a rotation only one of them would open.

    MasterKeyError if the master key cannot be used at all.
    """
    rows = list(_some(each))
    if not rows:
        return Trial(0, [])
    keys = master_key.current()
    refusals = []
    for wrapped, purpose, owner, epoch in rows:
        try:
            keys.unwrap(wrapped, purpose, owner, epoch)
        except (MasterKeyError, UnwrapError) as error:
            refusals.append(str(error))
    return Trial(len(rows), refusals)


def _some(each: int) -> Iterator[tuple[bytes, Purpose, bytes, int]]:
    """Return wrapped device and agreement keys as arguments of ``unwrap``."""
    of_devices = DeviceKey.objects.exclude(wrapped=None)
    for row in {row.pk: row for order in ("pk", "-pk") for row in of_devices.order_by(order)[:each]}.values():
        yield (
            bytes(row.wrapped or b""),
            purpose_of(row.epoch, row.source, row.scheme),
            bytes(row.system_title),
            row.epoch,
        )
    of_head_end = AgreementKey.objects.all()
    for key in {row.pk: row for order in ("pk", "-pk") for row in of_head_end.order_by(order)[:each]}.values():
        yield bytes(key.wrapped), Purpose.AGREEMENT_KEY, key.name.encode(), key.version


def check_any_opens() -> None:
    """MasterKeyError if the master key opens none of the stored keys; a single damaged key is not enough."""
    tried, refusals = try_stored_keys(2)
    if tried and len(refusals) == tried:
        raise MasterKeyError(f"the master key opens none of the {tried} stored keys that were tried: {refusals[0]}")
