"""How a simulated meter masks its values and payloads. No Django."""

from collections.abc import Sequence
from typing import Any

import cbor2
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from concentrators.simulator.packs import records_in
from keyvault.masking.masks import MASKED_OCTETS, VALUE_MAX, Cell, mask_key, masked
from meters.readings.obis import LOAD_PROFILE
from meters.readings.senml import BT, VD, N, T, U, V

_SUFFIX = " + masked"


def does_mask(scheme: str) -> bool:
    """Whether meters of a scheme mask their values."""
    return scheme.endswith(_SUFFIX)


class Masks:
    """A meter's mask keys (32 octets each), one for each authority, and the minutes of its intervals."""

    def __init__(self, pair: bytes, authorities: Sequence[bytes], system_title: bytes, minutes: int) -> None:
        private = X25519PrivateKey.from_private_bytes(pair)
        own = private.public_key().public_bytes_raw()
        self._keys = [mask_key(private, public, system_title, own, public) for public in authorities]
        self._title, self._minutes = system_title, minutes

    def __reduce__(self) -> str:
        raise TypeError("mask keys are never pickled")

    def value(self, start_s: int, steps: int) -> int:
        """The masked value of an interval of the load profile."""
        return masked(steps, self._keys, self._title, Cell(LOAD_PROFILE, start_s, self._minutes))

    def payload(self, plain: bytes) -> bytes:
        """Return a pack with only the load profile values of a plain pack, masked.

        Anything else is returned unchanged, because these meters misbehave on purpose.
        """
        records = records_in(plain)
        base = {label: field for label, field in records[0].items() if label < 0} if records else {}
        said = [record for record in records if _is_interval(record)]
        if not said:
            return plain
        packed: list[dict[int, Any]] = []
        for record in said:
            value = self.value(base.get(BT, 0) + record.get(T, 0), record[V])
            rest = {label: field for label, field in record.items() if label == T}
            head = {} if packed else base
            packed.append({**head, N: record[N], U: record[U], **rest, VD: value.to_bytes(MASKED_OCTETS, "big")})
        return cbor2.dumps(packed)


def _is_interval(record: dict[int, Any]) -> bool:
    value = record.get(V)
    return record.get(N) == LOAD_PROFILE and type(value) is int and 0 <= value <= VALUE_MAX
