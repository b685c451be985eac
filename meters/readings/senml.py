"""SenML packs in CBOR (RFC 8428 section 6, RFC 9100 versions): exact values at absolute times. Pure."""

import os
from decimal import Context, Decimal, DecimalException
from functools import partial
from typing import Any, NamedTuple, NoReturn

import cbor2

# Labels of RFC 8428 section 6, table 4.
BVER, BN, BT, BU, BV, BS = -1, -2, -3, -4, -5, -6
N, U, V, VS, VB, S, T, UT, VD = 0, 1, 2, 3, 4, 5, 6, 7, 8

SECONDARY_UNITS_VERSION = 26  # 10 + 2^4 (RFC 9100 section 3): the pack uses units of RFC 8798
_VERSIONS = (10, SECONDARY_UNITS_VERSION)
# Those primary units (RFC 8428 section 12.1, RFC 8798 section 2) that a meter can use.
_PRIMARY_UNITS = frozenset({"W", "V", "A", "Hz", "J", "VA", "VAs", "var", "vars", "/", "%", "s", "Cel", "count"})
_ABSOLUTE_FROM = 1 << 28  # smaller times are relative to now (RFC 8428 section 4.5.3)
_ABSOLUTE_UNTIL = 1 << 38
# Those units of RFC 8798 section 3 that an electricity meter could mean.
_SECONDARY_UNITS = frozenset(
    ("ms", "min", "h", "MHz", "kW", "kVA", "kvar", "Ah", "Wh", "kWh", "varh", "kvarh", "VAh", "kVAh", "mV", "mA", "dBm")
)
_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1
_MAX_RECORDS = 256
_NOT_NUMBERS = frozenset({VS, VB, VD, S, BS})
# Enough digits to add any two numbers that _exact accepts without rounding.
_SUM = Context(prec=1200)


class SenMLError(ValueError):
    """The payload is not a SenML pack that this head-end accepts. It was authentic, so it is the meter's mistake."""


class DataRecord(NamedTuple):
    """A record with data instead of a number: base fields applied, ``time_s`` in whole Unix seconds."""

    name: str
    unit: str
    data: bytes
    time_s: int


class SenmlRecord(NamedTuple):
    """One resolved record: base fields applied, ``time_s`` in whole Unix seconds, ``value`` exact."""

    name: str
    unit: str
    value: int | Decimal
    time_s: int


def _refuse_tag(*_: object) -> NoReturn:
    raise SenMLError("the pack contains a CBOR tag other than 4 (decimal fraction)")


# A pack needs no tag but 4; some that cbor2 knows are costly or build objects (regex, shared references).
_TAGS = (0, 1, 2, 3, 5, 25, 28, 29, 30, 35, 36, 37, 52, 54, 100, 256, 258, 260, 261, 1004, 43000, 55799)
_loads = partial(
    cbor2.loads,
    allow_duplicate_keys=False,
    max_depth=5,
    semantic_decoders=dict.fromkeys(_TAGS, _refuse_tag),
    tag_hook=_refuse_tag,
)
# cbor2.loads ignores everything after the first item. So the payload is put between the head of an array and octets
# that nobody can guess: it must end exactly before those, or it was not one item.
_GUARD = os.urandom(16)
_GUARD_ITEM = b"\x50" + _GUARD
_new_record = tuple.__new__  # half the time of Record(...)


def parse_pack(payload: bytes) -> list[SenmlRecord]:
    """Return the records of a pack, resolved (RFC 8428 section 4.6).

    SenMLError for anything but one CBOR item of that form; for relative, fractional or missing times; for values that
    are not numbers, not finite or outside int64; and for unknown labels that must be understood.
    """
    base: dict[int, Any] = {}
    return [_resolve(record, base) for record in _records(payload)]


def parse_data_pack(payload: bytes) -> list[SenmlRecord | DataRecord]:
    """Do the same with a pack whose records may have data (label vd) instead of a number."""
    base: dict[int, Any] = {}
    return [_resolve_data(record, base) for record in _records(payload)]


def _records(payload: bytes) -> list[Any]:
    """Return the records of a pack, unresolved."""
    try:
        pack, guard = _loads(b"\x82" + payload + _GUARD_ITEM)
    except SenMLError:
        raise
    except (cbor2.CBORError, DecimalException, ValueError, TypeError, RecursionError, OverflowError) as error:
        cause = error.__cause__
        raise SenMLError(str(cause) if isinstance(cause, SenMLError) else f"not a CBOR item: {error}"[:200]) from None
    if guard != _GUARD:
        raise SenMLError("octets follow the pack")
    if type(pack) is not list or not 1 <= len(pack) <= _MAX_RECORDS:
        raise SenMLError(f"the pack is not an array of 1 to {_MAX_RECORDS} records")
    return pack


def _resolve_data(record: Any, base: dict[int, Any]) -> SenmlRecord | DataRecord:
    if type(record) is not dict or VD not in record:
        return _resolve(record, base)
    rest = dict(record)
    data = rest.pop(VD)
    if type(data) is not bytes:
        raise SenMLError("a record's data is no byte string")
    if V in record or BV in record or BV in base:
        raise SenMLError("a record says data and a number")
    name, unit, _, time_s = _resolve({**rest, V: 0}, base)
    return DataRecord(name, unit, data, time_s)


def _resolve(record: Any, base: dict[int, Any]) -> SenmlRecord:
    """Resolve one record with the base fields so far, which it may change (RFC 8428 section 4.6)."""
    _take_base(record, base)
    name, unit = record.get(N, ""), record.get(U) if U in record else base.get(BU)
    if BN in base or type(name) is not str:
        name = _text(base.get(BN, ""), "base name") + _text(name, "name")
    if not name or unit is None:
        raise SenMLError("a record needs a name and a unit")
    _check_unit(unit, base[BVER])
    value = _sum(base.get(BV, 0), record.get(V), "value")
    time_s = _sum(base.get(BT, 0), record.get(T, 0), "time")
    if type(time_s) is not int:
        raise SenMLError("a time is not a whole second")
    if not _ABSOLUTE_FROM <= time_s < _ABSOLUTE_UNTIL:
        raise SenMLError(f"time {time_s} is relative, missing or past the year 10000")
    if not _INT64_MIN <= value <= _INT64_MAX:
        raise SenMLError("a value does not fit into 64 bits")
    return _new_record(SenmlRecord, (name, unit, value, time_s))


def _take_base(record: Any, base: dict[int, Any]) -> None:
    """Check the labels of a record and move its base fields into ``base``; the first record sets the version."""
    if type(record) is not dict:
        raise SenMLError("a record is not a map")
    is_first = not base
    if BVER in record and not is_first and record[BVER] != base[BVER]:
        raise SenMLError("the records of a pack differ in version")
    for label, field in record.items():
        if type(label) is not int:
            _check_label(label)
        elif label in _NOT_NUMBERS:
            raise SenMLError(f"label {label} (text, boolean, data or sum) is used where meters send numbers")
        elif label < 0:
            base[label] = field
    if is_first:
        version = base.setdefault(BVER, 10)
        if type(version) is not int or version not in _VERSIONS:
            raise SenMLError(f"SenML version {_shown(version)} is not one of {_VERSIONS}")


def _check_label(label: Any) -> None:
    """Check a label that is not an integer: unknown text is ignored, unless it must be understood."""
    if type(label) is not str:
        raise SenMLError("a label is neither an integer nor text")
    if label.endswith("_"):
        raise SenMLError(f"label {_shown(label)} must be understood (RFC 8428 section 4.4) but is unknown")


def _check_unit(unit: Any, version: int) -> None:
    if type(unit) is not str:
        raise SenMLError("the unit is not text")
    if version == SECONDARY_UNITS_VERSION or unit in _PRIMARY_UNITS:
        return
    if unit in _SECONDARY_UNITS:
        raise SenMLError(
            f"unit {_shown(unit)} is a secondary unit: the pack needs base version {SECONDARY_UNITS_VERSION}"
        )
    raise SenMLError(f"unit {_shown(unit)} belongs to no register here")


def _text(value: Any, what: str) -> str:
    if type(value) is not str:
        raise SenMLError(f"the {what} is not text")
    return value


def _exact(value: Any, what: str) -> int | Decimal:
    """Turn a CBOR number into an exact one: floats and decimal fractions become decimals; NaN and infinity are
    refused.
    """
    if type(value) is int:
        return value
    if type(value) is float:
        value = Decimal(value)
    if type(value) is Decimal and value.is_finite():
        if not value:
            return 0
        if -400 < value.adjusted() < 40:  # covers all values of meters, and is cheap to add
            return int(value) if value == value.to_integral_value() else value
    raise SenMLError(f"the {what} is missing or not a finite number of a sensible size")


def _sum(base: Any, value: Any, what: str) -> int | Decimal:
    """Return the exact sum of two CBOR numbers, as an integer if it is whole."""
    if type(base) is int and type(value) is int:
        return base + value
    exact_base, exact = _exact(base, f"base {what}"), _exact(value, what)
    if type(exact_base) is int and type(exact) is int:
        return exact_base + exact
    return _exact(_SUM.add(Decimal(exact_base), Decimal(exact)), "sum")


def _shown(value: Any) -> str:
    """Return a short, printable form of what a meter sent."""
    return ascii(value)[:40]
