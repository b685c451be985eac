"""The SenML packs of simulated meters (RFC 8428, docs/frame.md section 6). No Django."""

from typing import Any

import cbor2

from meters.readings.obis import LOAD_PROFILE
from meters.readings.senml import BN, BT, BVER, SECONDARY_UNITS_VERSION, N, T, U, V

ENERGY_REGISTER = "1-0:1.8.0"
UNKNOWN_REGISTER = "1-0:255.255.255"  # is in no catalogue


def interval_payload(interval_start_s: int, register_wh: int, energy_wh: int, base_name: str | None = None) -> bytes:
    """The SenML pack of one interval: the register at its start and the energy of it, both in Wh."""
    base: dict[int, Any] = {BVER: SECONDARY_UNITS_VERSION, BT: interval_start_s}
    if base_name is not None:
        base[BN] = base_name
    return cbor2.dumps(
        [
            {**base, N: ENERGY_REGISTER, U: "Wh", V: register_wh},
            {N: LOAD_PROFILE, U: "Wh", V: energy_wh},
        ]
    )


def moved_columns(interval_start_s: int, register_wh: int, energy_wh: int) -> bytes:
    """The same as ``interval_payload``, in the other order."""
    base: dict[int, Any] = {BVER: SECONDARY_UNITS_VERSION, BT: interval_start_s}
    first = {**base, N: LOAD_PROFILE, U: "Wh", V: energy_wh}
    return cbor2.dumps([first, {N: ENERGY_REGISTER, U: "Wh", V: register_wh}])


def register_payload(captured_at_s: int, register_wh: int) -> bytes:
    """The SenML pack of the cumulative register alone."""
    return one_value(captured_at_s, register_wh)


def one_value(at_s: int, value: object, name: str = ENERGY_REGISTER, unit: str = "Wh") -> bytes:
    """The SenML pack of one value, which may be none that a meter would send."""
    return cbor2.dumps([{BVER: SECONDARY_UNITS_VERSION, BT: at_s, N: name, U: unit, V: value}])


def event_payload(captured_at_s: int, register: str, code: int) -> bytes:
    """The SenML pack of one event."""
    return cbor2.dumps([{N: register, U: "count", V: code, T: captured_at_s}])


def base_name(system_title: bytes) -> str:
    """The SenML base name of a meter (RFC 9039: urn:dev:mac)."""
    return f"urn:dev:mac:{system_title.hex()}:"


def records_in(payload: bytes) -> list[dict[int, Any]]:
    """The records of a pack, by their labels; none where the octets are no pack, as of meters that misbehave."""
    try:
        records = cbor2.loads(payload)
        is_whole = cbor2.dumps(records) == payload
    except (cbor2.CBORError, ValueError, TypeError):
        return []
    if not is_whole or type(records) is not list or not all(type(record) is dict for record in records):
        return []
    return records
