"""SenML packs in CBOR (RFC 8428 section 6, RFC 9100 versions): exact values at absolute times. Pure."""

import os
from decimal import Decimal
from functools import partial
from typing import Any, NamedTuple, NoReturn

import cbor2

# Labels of RFC 8428 section 6, table 4.
BVER, BN, BT, BU, BV, BS = -1, -2, -3, -4, -5, -6
N, U, V, VS, VB, S, T, UT, VD = 0, 1, 2, 3, 4, 5, 6, 7, 8

SECONDARY_UNITS_VERSION = 26  # 10 + 2^4 (RFC 9100 section 3): the pack uses units of RFC 8798
_VERSIONS = (10, SECONDARY_UNITS_VERSION)
_PRIMARY_UNITS = frozenset({"W", "V", "A", "Hz", "J", "VA", "var", "/", "%", "s", "Cel", "count", "vah", "varh", "Ah"})
_ABSOLUTE_FROM = 1 << 28  # below it a time is relative to now (RFC 8428 section 4.5.3)
_INT64 = range(-(2**63), 2**63)
_MAX_RECORDS = 256
_SIMPLE_LABELS = frozenset({BVER, BN, BT, N, U, V, T})


class SenMLError(ValueError):
    """The payload is not a SenML pack this head-end takes. It was authentic: the meter's mistake."""


class Record(NamedTuple):
    """One resolved record: base fields applied, ``time_s`` in whole Unix seconds, ``value`` exact."""

    name: str
    unit: str
    value: int | Decimal
    time_s: int


def _refuse_tag(*_: object) -> NoReturn:
    raise SenMLError("a CBOR tag other than 4 (decimal fraction) stands in the pack")


# A pack has no use for tags but 4; some that cbor2 knows are costly or build objects (regex, shared references).
_TAGS = (0, 1, 2, 3, 5, 25, 28, 29, 30, 35, 36, 37, 52, 54, 100, 256, 258, 260, 261, 1004, 43000, 55799)
_loads = partial(
    cbor2.loads,
    allow_duplicate_keys=False,
    max_depth=5,
    semantic_decoders=dict.fromkeys(_TAGS, _refuse_tag),
    tag_hook=_refuse_tag,
)
# cbor2.loads ignores what follows the first item. Between an array's head and octets nobody can guess,
# the payload must end exactly where the guess begins, or it was not one item.
_GUARD = os.urandom(16)
_GUARD_ITEM = b"\x50" + _GUARD


def parse_pack(payload: bytes) -> list[Record]:
    """The records of a pack, resolved (RFC 8428 section 4.6).

    Raises SenMLError for anything else than one CBOR item of that form, for relative, fractional or
    missing times, values that are not numbers, not finite or outside int64, and labels that must be
    understood but are not.
    """
    try:
        pack, guard = _loads(b"\x82" + payload + _GUARD_ITEM)
    except SenMLError:
        raise
    except (cbor2.CBORError, ValueError, TypeError, RecursionError, OverflowError) as error:
        cause = error.__cause__
        raise SenMLError(str(cause) if isinstance(cause, SenMLError) else f"not a CBOR item: {error}"[:200]) from None
    if guard != _GUARD:
        raise SenMLError("octets follow the pack")
    if type(pack) is not list or not 1 <= len(pack) <= _MAX_RECORDS:
        raise SenMLError(f"the pack is not an array of 1 to {_MAX_RECORDS} records")
    base: dict[int, Any] = {}
    return [_resolve(record, base) for record in pack]


def _resolve(record: Any, base: dict[int, Any]) -> Record:
    if type(record) is not dict:
        raise SenMLError("a record is not a map")
    if not _SIMPLE_LABELS.issuperset(record):
        _check_labels(record)
    for label in (BVER, BN, BT, BU, BV):
        if label in record:
            base[label] = record[label]
    version = base.get(BVER, 10)
    if version not in _VERSIONS:
        raise SenMLError(f"SenML version {version!r} is not one of {_VERSIONS}")
    name = record.get(N, "")
    if BN in base:
        name = _text(base[BN], "base name") + _text(name, "name")
    unit = record.get(U)
    if unit is None:
        unit = base.get(BU)
    if type(name) is not str or type(unit) is not str:
        raise SenMLError("a record needs a name and a unit, as text")
    if version != SECONDARY_UNITS_VERSION and unit not in _PRIMARY_UNITS:
        raise SenMLError(f"unit {unit!r} is a secondary unit: the pack needs version {SECONDARY_UNITS_VERSION}")
    value = record.get(V)
    if type(value) is not int or BV in base:
        value = _exact(value, "value") + (_exact(base[BV], "base value") if BV in base else 0)
    time_s = base.get(BT, 0)
    if type(time_s) is not int or T in record:
        time_s = _exact(time_s, "base time") + _exact(record.get(T, 0), "time")
        if time_s != int(time_s):
            raise SenMLError(f"time {time_s} is not a whole second")
        time_s = int(time_s)
    if not _ABSOLUTE_FROM <= time_s < 1 << 38:
        raise SenMLError(f"time {time_s} is relative, missing or past the year 10000")
    if value not in _INT64 if type(value) is int else not -(2**63) <= value < 2**63:
        raise SenMLError("a value does not fit into 64 bits")
    return Record(name, unit, value, time_s)


def _check_labels(record: dict[Any, Any]) -> None:
    """Other labels: those of sums and non-numbers are refused, those that must be understood too."""
    for label in record:
        if label in (VS, VB, VD, S, BS):
            raise SenMLError(f"label {label} (text, boolean, data or sum) stands where meters send numbers")
        if type(label) is str and label.endswith("_"):
            raise SenMLError(f"label {label!r} must be understood (RFC 8428 section 4.4), and is not")


def _text(value: Any, what: str) -> str:
    if type(value) is not str:
        raise SenMLError(f"the {what} is not text")
    return value


def _exact(value: Any, what: str) -> int | Decimal:
    """A CBOR number as an exact one: float and decimal fraction are exact decimals; NaN and infinity are refused."""
    if type(value) is int:
        return value
    if type(value) is float:
        value = Decimal(value)
    if type(value) is Decimal and value.is_finite() and -400 < (value.adjusted()) < 40:
        return int(value) if value == value.to_integral_value() else value
    if type(value) is Decimal and value == 0:
        return 0
    raise SenMLError(f"the {what} is missing or not a finite number")
