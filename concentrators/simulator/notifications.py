"""What a simulated DLMS meter pushes: its packs as notifications, and the push profiles that read these. No Django.

A notification is IEC 62056-5-3's data-notification or event-notification; docs/dlms.md, section 3 says what a profile
is. A meter whose form is *by place* leaves out OBIS codes and units, so that only a profile can read it.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from typing import Any, NamedTuple

from concentrators.simulator.packs import (
    ENERGY_REGISTER,
    UNKNOWN_REGISTER,
    base_name,
    event_payload,
    interval_payload,
    one_value,
    records_in,
    register_payload,
)
from meters.readings.obis import FRAUD_LOG, LOAD_PROFILE, STANDARD_LOG, ObisError, parse_obis
from meters.readings.senml import BN, BT, N, T, U, V

_ZONE = timezone(timedelta(minutes=60))
_DEVIATION = (-60).to_bytes(2, "big", signed=True)  # UTC = local + deviation
_NO_DEVIATION = b"\x80\x00"
_NO_CLOCK = b"\xff" * 12
_STRUCTURE, _INT64, _UINT16, _OCTETS = b"\x02", b"\x14", b"\x12", b"\x09"
_UNITS = {"Wh": 30, "varh": 32, "count": 255}
_DEVICE_NAME = "0-0:42.0.0"  # the logical device name: here the system title
_LOGS = (STANDARD_LOG, FRAUD_LOG)
_LOG_CLASS, _ATTRIBUTE = (7).to_bytes(2, "big"), b"\x02"
_NO_DATA = b"\x0f" + bytes(5) + b"\xfe"  # no type of data has that tag
_READING = [ENERGY_REGISTER, LOAD_PROFILE]


class PushForm(NamedTuple):
    """A form of notifications that simulated meters send: its name, the definition of its profile, and a sample."""

    name: str
    definition: dict[str, Any]
    sample: bytes


def notification(pack: bytes, invoke_id: int, *, by_place: bool = False) -> bytes:
    """The notification that says what a SenML pack says; octets that are no pack become one whose data are none.

    ``invoke_id`` counts notifications. The time of a pack is the notification's; one before 1970 is left unspecified.
    """
    records = records_in(pack)
    try:
        return _notification(records, invoke_id & 0xFFFFFF, by_place=by_place)
    except (ValueError, TypeError, KeyError, OverflowError, IndexError):
        return _NO_DATA


def _notification(records: Sequence[dict[int, Any]], invoke_id: int, *, by_place: bool) -> bytes:
    first = records[0]
    at_s = first.get(BT, 0) + first.get(T, 0)
    if first[N] in _LOGS:
        code: bytes = first[V].to_bytes(2, "big")
        head = b"\xc2\x01\x0c" + _clock(at_s, _DEVIATION)
        return head + _LOG_CLASS + _obis(first[N]) + _ATTRIBUTE + _UINT16 + code
    head = b"\x0f" + invoke_id.to_bytes(4, "big")
    is_reading = [one[N] for one in records] == _READING and all(type(one[V]) is int for one in records)
    if by_place and is_reading and BN not in first:
        items = [_octets(_clock(at_s, _NO_DEVIATION)), *(_int64(one[V]) for one in records)]
        return head + b"\x00" + _structure(items)
    items = [] if BN not in first else [_octets(_obis(_DEVICE_NAME)), _octets(_title_in(first[BN]))]
    for one in records:
        items += _named_value(one)
    return head + b"\x0c" + _clock(at_s, _DEVIATION) + _structure(items)


def _named_value(record: dict[int, Any]) -> list[bytes]:
    """OBIS code, value, and scaler with unit."""
    value, scaler = record[V], 0
    if type(value) is float:
        value, scaler = value * 10, -1
        if not value.is_integer():
            raise ValueError("finer than a tenth")
    unit = b"\x02\x02\x0f" + scaler.to_bytes(1, "big", signed=True) + b"\x16" + bytes((_UNITS[record[U]],))
    return [_octets(_obis(record[N])), _int64(int(value)), unit]


def _clock(at_s: int, deviation: bytes) -> bytes:
    """A date-time of 12 octets, an hour ahead of UTC (IEC 62056-6-2)."""
    if at_s < 0:
        return _NO_CLOCK
    at = datetime.fromtimestamp(at_s, _ZONE)
    day = bytes((at.month, at.day, at.isoweekday(), at.hour, at.minute, at.second, 0))
    return at.year.to_bytes(2, "big") + day + deviation + b"\x00"


def _obis(code: str) -> bytes:
    try:
        return bytes(parse_obis(code)) + b"\xff"
    except ObisError:
        raise ValueError(f"{code} is no OBIS code") from None


def _title_in(name: str) -> bytes:
    """The system title (8 octets) in a base name."""
    return bytes.fromhex(name.rstrip(":").rpartition(":")[2])


def _octets(said: bytes) -> bytes:
    return _OCTETS + bytes((len(said),)) + said


def _int64(value: int) -> bytes:
    return _INT64 + value.to_bytes(8, "big", signed=True)


def _structure(items: Sequence[bytes]) -> bytes:
    return _STRUCTURE + bytes((len(items),)) + b"".join(items)


_IN_FRAME: dict[str, Any] = {"kind": "obis", "clock": {"from": "apdu"}, "interval_time": "start"}
_EVENTS: dict[str, Any] = {"columns": [{"obis": log, "scaler": 0, "unit": "count"} for log in _LOGS]}
_BY_PLACE = {
    "kind": "positional",
    "clock": {"from": "body[0]", "zone": "fixed+60"},
    "columns": [
        {"at": 0, "ignore": True},
        *({"at": place, "obis": code, "scaler": 0, "unit": "Wh"} for place, code in enumerate(_READING, 1)),
    ],
    "interval_time": "start",
}


def forms(title: bytes, at_s: int) -> list[PushForm]:
    """The forms whose profiles are there from the start; a meter's title and a Unix second go into their samples.

    Meters that misbehave send some of them: a value that is finer than its register, of another unit, of a register
    that is in no catalogue, or the name of another meter.
    """
    packs: dict[str, tuple[bytes, dict[str, Any]]] = {
        "readings": (interval_payload(at_s, 1, 1), {}),
        "register": (register_payload(at_s, 1), {}),
        "events": (event_payload(at_s, STANDARD_LOG, 1), _EVENTS),
        "named": (
            interval_payload(at_s, 1, 1, base_name(title)),
            {"columns": [{"obis": _DEVICE_NAME, "is": "system_title"}]},
        ),
        "tenths": (one_value(at_s, 0.5), {}),
        "varh": (one_value(at_s, 1, unit="varh"), {}),
        "unknown register": (one_value(at_s, 1, name=UNKNOWN_REGISTER), {}),
    }
    return [PushForm(name, _IN_FRAME | more, notification(pack, 1)) for name, (pack, more) in packs.items()]


def late_form(at_s: int) -> PushForm:
    """The form that a profile is registered for only after meters have sent it: by place."""
    return PushForm("by place", _BY_PLACE, notification(interval_payload(at_s, 1, 1), 1, by_place=True))
