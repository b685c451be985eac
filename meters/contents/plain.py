"""Content ``plain``: a SenML pack with values of registers (docs/frame.md section 6). Pure."""

import re
from collections.abc import Sequence
from decimal import Context, Decimal

import cbor2

from meters.contents.lines import Catalogue, Content, RegisterRow
from meters.readings.senml import SenMLError, SenmlRecord, parse_pack
from meters.registry.interval_lengths import Lengths
from meters.values import PayloadError, PayloadRefusal, PayloadTimes, Value, iso

NAME_PREFIX = "urn:dev:mac:"
_EXACT = Context(prec=1300)  # more digits than any number that senml accepts
_SHAPES = 8  # shapes, tried one after the other
_SHAPES_LOOKED_AT = 200
_SHAPE_MAXIMUM = 2**24 - 1  # a number of up to three octets is always within it
_SHAPE_RECORDS = 23  # the most that the head of an array encodes in one octet
_new_value = tuple.__new__  # a third of the time of Value(...)
_from_bytes = int.from_bytes


def _has_shape(row: RegisterRow) -> bool:
    return not row.scaler and row.minimum <= 0 and row.maximum >= _SHAPE_MAXIMUM


def _number(maximum: int) -> bytes:
    """An unsigned integer of up to four octets in CBOR that is no higher than ``maximum``; or else a lower bound."""
    highest = re.escape(bytes((min((maximum + 1 >> 24) - 1, 255),)))
    return rb"([\x00-\x17]|\x18.|\x19..|\x1a[\x00-" + highest + rb"]...)"


class PackShape:
    """The octets of packs with certain registers, in deterministic encoding.

    {bver: 26, bt, n, u, v}, then {n, u, v}, time in four octets, values unsigned in up to four. A
    shape reads the same values as the general reader, and leaves to it every pack that differs in an octet, is off the
    grid, or outside the times or bounds.
    """

    __slots__ = ("_has_interval", "_match", "_registers")

    def __init__(self, registers: Sequence[tuple[str, RegisterRow]]) -> None:
        records = [
            re.escape(b"\x00" + cbor2.dumps(name) + b"\x01" + cbor2.dumps(row.unit) + b"\x02") + _number(row.maximum)
            for name, row in registers
        ]
        head = (
            re.escape(bytes((0x80 + len(records),)) + b"\xa5\x20\x18\x1a\x22\x1a") + rb"([\x10-\xff]...)"
        )  # from 2^28 on
        self._match = re.compile(head + b"\xa3".join(records), re.DOTALL).fullmatch
        self._registers = [(row.id, row.is_interval, row.is_event) for _, row in registers]
        self._has_interval = any(row.is_interval for _, row in registers)

    def matches(self, payload: bytes) -> bool:
        return self._match(payload) is not None

    def values(
        self, payload: bytes, interval_minutes: int, period: PayloadTimes, lengths: Lengths | None = None
    ) -> list[Value] | None:
        """Return the values of a pack of this shape; None for any other pack, and for one to reject."""
        match = self._match(payload)
        if match is None:
            return None
        time, *numbers = match.groups()
        time_s = _from_bytes(time, "big")
        earliest_s, latest_s = period
        if self._has_interval:
            if lengths is not None:
                interval_minutes = lengths.at(time_s)
            latest_s -= interval_minutes * 60
            if time_s % (interval_minutes * 60):
                return None
        if not earliest_s <= time_s <= latest_s:
            return None
        values = []
        for (register_id, is_interval, is_event), number in zip(self._registers, numbers):  # noqa: B905 - costs a third
            steps = number[0] if len(number) == 1 else _from_bytes(number[1:], "big")
            minutes = interval_minutes if is_interval else 0
            values.append(_new_value(Value, (time_s, register_id, steps, minutes, is_event, False)))
        return values


class PlainReader:
    """Reads SenML packs by a catalogue: usual packs by the shape of an earlier one, all others in full.

    A shape and the general reader read the same values (docs/adr/0014).
    """

    def __init__(self, registers: Catalogue) -> None:
        self._registers = registers
        self._looked_at: set[tuple[str, ...]] = set()
        self.shapes: list[PackShape] = []  # of earlier packs

    def read(
        self,
        payload: bytes,
        system_title: bytes,
        interval_minutes: int,
        period: PayloadTimes,
        lengths: Lengths | None = None,
        serial_number: str | None = None,
    ) -> list[Value]:
        """Return the values of a pack; PayloadError as in Reader."""
        values = self.by_shape(payload, interval_minutes, period, lengths)
        if values is not None:
            return values
        records, values = read_pack(payload, system_title, interval_minutes, self._registers, period, lengths)
        self.learn([record.name for record in records], payload)
        return values

    def by_shape(
        self, payload: bytes, interval_minutes: int, period: PayloadTimes, lengths: Lengths | None = None
    ) -> list[Value] | None:
        """Return the values of a good pack of a known shape; None for any other."""
        for shape in self.shapes:
            values = shape.values(payload, interval_minutes, period, lengths)
            if values is not None:
                return values
        return None

    def learn(self, names: Sequence[str], payload: bytes) -> None:
        """Learn the shape of a good pack with those records, if it has one, for the next such pack."""
        looked_at = tuple(names)
        if looked_at in self._looked_at or len(self._looked_at) >= _SHAPES_LOOKED_AT or len(self.shapes) >= _SHAPES:
            return
        self._looked_at.add(looked_at)
        rows = [self._registers.get(name) for name in names]
        if len({*names}) == len(rows) <= _SHAPE_RECORDS and all(row is not None and _has_shape(row) for row in rows):
            shape = PackShape([(name, row) for name, row in zip(names, rows, strict=True) if row is not None])
            if shape.matches(payload):
                self.shapes.append(shape)


class _MismatchError(Exception):
    """A record that does not fit its register or the registered length.

    ``value`` is its value if only the time does not fit.
    """

    def __init__(self, detail: str, value: Value | None = None) -> None:
        super().__init__(detail)
        self.value = value


PLAIN = Content("plain", PlainReader, reference="SenML in CBOR, RFC 8428 section 6")


def read_pack(
    payload: bytes,
    system_title: bytes,
    interval_minutes: int,
    registers: Catalogue,
    period: PayloadTimes,
    lengths: Lengths | None,
) -> tuple[list[SenmlRecord], list[Value]]:
    """Return the records and values of a pack in any form that SenML allows; PayloadError."""
    try:
        records = parse_pack(payload)
    except SenMLError as error:
        raise _invalid(str(error)) from None
    return records, read_records(records, system_title, interval_minutes, registers, period, lengths)


def read_records(
    records: Sequence[SenmlRecord],
    system_title: bytes,
    interval_minutes: int,
    registers: Catalogue,
    period: PayloadTimes,
    lengths: Lengths | None,
    *,
    masked: bool = False,
) -> list[Value]:
    """Return the values of records; PayloadError. ``masked`` values are in steps, and have no bounds."""
    values, unknown, mismatch, all_read = [], "", "", True
    try:
        for record in records:
            name = record[0]
            register = register_of(name, system_title, registers)
            if register is None:
                unknown = unknown or name
                continue
            try:
                values.append(_value(record, register, interval_minutes, lengths, masked=masked))
            except _MismatchError as error:
                mismatch = mismatch or str(error)
                if error.value is None:
                    all_read = False
                else:
                    values.append(error.value)
        values = once(values, registers)
    except PayloadError:
        for name, *_ in records:  # the meter is checked before the values
            _own_name(name, system_title)
        raise
    earliest_s = min(record.time_s for record in records)
    if earliest_s < period.earliest_s:
        raise PayloadError(PayloadRefusal.TOO_OLD, f"the time {iso(earliest_s)} is before what is kept")
    if unknown:
        raise PayloadError(PayloadRefusal.UNKNOWN_REGISTER, f"no register {unknown[:80]!r} is known")
    if mismatch:
        raise PayloadError(PayloadRefusal.REGISTRY_MISMATCH, mismatch, values if all_read else None)
    if not masked:
        check_bounds(values, registers)
    check_over(values, period, registers)
    return values


def _value(
    record: SenmlRecord, register: RegisterRow, interval_minutes: int, lengths: Lengths | None, *, masked: bool
) -> Value:
    """Return the value of a record, in steps of its register.

    _MismatchError if it does not fit the registry; PayloadError if it could fit no entry.
    """
    name, unit, value, time_s = record
    if unit != register.unit:
        raise _MismatchError(f"{name} is in {unit!r}; the register counts {register.unit!r}")
    is_steps = masked or not register.scaler
    steps = value if type(value) is int and is_steps else _steps(value, register, name)
    length = 0
    if register.is_interval:
        length = interval_minutes if lengths is None else lengths.at(time_s)
        if time_s % (length * 60):
            detail = f"{name} begins at {iso(time_s)}, no multiple of {length} minutes"
            if time_s % 60:  # lengths are in whole minutes: no interval of any length begins there
                raise _invalid(detail)
            raise _MismatchError(detail, Value(time_s, register.id, steps, length, register.is_event, masked))
    return _new_value(Value, (time_s, register.id, steps, length, register.is_event, masked))


def check_bounds(values: list[Value], registers: Catalogue) -> None:
    for value in values:
        code = registers.code_of(value.register_id)
        register = registers.get(code)
        if register is not None and not register.minimum <= value.value <= register.maximum:
            steps_of = f" in steps of 1e{register.scaler}" if register.scaler else ""
            detail = f"{code} says {value.value}{steps_of}; the register takes {register.minimum} to {register.maximum}"
            raise PayloadError(PayloadRefusal.IMPLAUSIBLE, detail, values)


def once(values: list[Value], registers: Catalogue) -> list[Value]:
    """Return the values, each event once; PayloadError for two values of a register at one time.

    A log may have several events in one second: events differ by their value.
    """
    if len(values) == 1:
        return values
    places = {(value.captured_s, value.register_id, value.value if value.is_event else None) for value in values}
    if len(places) == len(values):
        return values
    seen: set[tuple[int, int]] = set()
    for value in values:
        place = value.captured_s, value.register_id
        if not value.is_event and place in seen:
            code = registers.code_of(value.register_id)
            raise _invalid(f"two values of {code} at {iso(value.captured_s)}")
        seen.add(place)
    return list(dict.fromkeys(values))


def check_over(values: list[Value], period: PayloadTimes, registers: Catalogue) -> None:
    """Check that no time is ahead of our clock, and that every interval is over."""
    for value in values:
        end_s = value.captured_s + value.interval_minutes * 60
        if end_s > period.latest_s:
            code, start = registers.code_of(value.register_id), iso(value.captured_s)
            if value.captured_s > period.latest_s:
                detail = f"the time {start} of {code} is ahead of ours, {iso(period.latest_s)} at most"
            else:
                detail = f"the interval of {code} from {start} ends at {iso(end_s)}, {iso(period.latest_s)} at most"
            raise PayloadError(PayloadRefusal.CLOCK_SKEW, detail, values)


def _invalid(detail: str) -> PayloadError:
    return PayloadError(PayloadRefusal.PAYLOAD_INVALID, detail)


def register_of(name: str, system_title: bytes, registers: Catalogue) -> RegisterRow | None:
    """Return the register that a record names, with or without its meter; PayloadError for another meter."""
    return registers.get(name) or registers.get(_own_name(name, system_title))


def _own_name(name: str, system_title: bytes) -> str:
    """Return a name without the base name of the meter; PayloadError if it names another meter."""
    if not name.startswith(NAME_PREFIX):
        return name
    own = f"{NAME_PREFIX}{system_title.hex()}:"
    if not name.startswith(own):
        raise PayloadError(PayloadRefusal.IDENTITY_MISMATCH, f"the pack names another meter: {name[:80]!r}")
    return name[len(own) :]


def _steps(value: int | Decimal, register: RegisterRow, name: str) -> int:
    """Return a value in steps of 10^scaler units, exactly; _MismatchError if it is no whole number of steps."""
    steps = Decimal(value).scaleb(-register.scaler, _EXACT)
    if steps != steps.to_integral_value() or not -(2**63) <= steps < 2**63:
        raise _MismatchError(f"{name}: {value} is no whole number of steps of 1e{register.scaler}")
    return int(steps)
