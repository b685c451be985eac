"""The write path of readings: from a payload to exact values, and values into the table by COPY."""

import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Context, Decimal
from enum import StrEnum
from typing import Any, NamedTuple

import cbor2
from django.db import connection

from keyvault.sql import cursor, fetch_rows, int_array
from meters.lengths import Lengths
from meters.obis import RegisterKind
from meters.senml import Record, SenMLError, parse_pack

_NAME_PREFIX = "urn:dev:mac:"
_PG_EPOCH_S = 946_684_800  # PostgreSQL counts microseconds from 2000-01-01
_COPY_HEAD = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
_COPY_TAIL = b"\xff\xff"
# Six fields, each with its length: the primary key first, so that rows sort like the index by their octets
_COPY_ROW = struct.Struct("!hiqiiihiqiqih")
_EXACT = Context(prec=1300)  # more digits than any number of a pack that senml lets through
_COPY_READINGS = """COPY meters_reading
    (captured_at, meter_id, register_id, value, uplink_id, interval_minutes) FROM STDIN (FORMAT BINARY)"""


_new_value = tuple.__new__  # a third of the time of Value(...)
_from_bytes = int.from_bytes
_SHAPES = 8  # of packs, tried one after the other
_SHAPES_LOOKED_AT = 200
_SHAPE_MAXIMUM = 2**24 - 1  # what a number of up to three octets may say passes without a look
_SHAPE_RECORDS = 23  # as many as the head of an array says in one octet


class PayloadRefusal(StrEnum):
    """Why an authentic payload is refused."""

    PAYLOAD_INVALID = "payload_invalid"
    IDENTITY_MISMATCH = "identity_mismatch"
    TOO_OLD = "too_old"
    UNKNOWN_REGISTER = "unknown_register"
    REGISTRY_MISMATCH = "registry_mismatch"
    IMPLAUSIBLE = "implausible"
    CLOCK_SKEW = "clock_skew"


class PayloadError(ValueError):
    """An authentic frame whose payload is refused; ``reason`` says why. The meter's mistake, or a cloned key.

    But unknown_register, registry_mismatch, implausible and clock_skew may be ours: the catalogue, the registered
    interval length, the bounds or our clock. Of the last three ``values`` holds what the payload says; of
    registry_mismatch where all of it could be read in the register's steps.
    """

    def __init__(self, reason: PayloadRefusal, detail: str, values: "list[Value] | None" = None) -> None:
        super().__init__(detail)
        self.reason = reason
        self.values = values


class _MismatchError(Exception):
    """A record does not fit its register or the registered length; ``value`` is what it says where only its time does
    not fit.
    """

    def __init__(self, detail: str, value: "Value | None" = None) -> None:
        super().__init__(detail)
        self.value = value


class RegisterRow(NamedTuple):
    """A register as workers keep it in memory; ``minimum`` and ``maximum`` bound its values, in its steps."""

    id: int
    unit: str
    scaler: int
    is_interval: bool
    is_event: bool
    minimum: int
    maximum: int


class Value(NamedTuple):
    """One value of one register at one time: whole Unix seconds, steps of the register's resolution.

    ``interval_minutes`` is 0 but for interval registers; an event becomes a meter event, not a reading.
    """

    captured_s: int
    register_id: int
    value: int
    interval_minutes: int
    is_event: bool


class Period(NamedTuple):
    """Which times a payload may name, in Unix seconds: from retention's start to now plus the skew allowed.

    An interval has to be over by ``latest_s``.
    """

    earliest_s: int
    latest_s: int


class Registers:
    """The register table by OBIS code, kept per process for as long as their generation stands.

    Read again, once a batch at most, where a code is not known: it may have been added since.
    """

    def __init__(self) -> None:
        self._rows: dict[str, RegisterRow] = {}
        self._codes: dict[int, str] = {}
        self._generation: int | None = None
        self._may_read = True
        self.shapes: list[PackShape] = []  # of the packs that came so far
        self._looked_at: set[tuple[str, ...]] = set()

    def begin_batch(self, generation: int | None) -> None:
        """What was read under another generation is forgotten: bounds may have changed since."""
        self._may_read = True
        if generation is None or generation != self._generation:
            self._generation, self._rows, self._codes = generation, {}, {}
            self.shapes, self._looked_at = [], set()

    def _rows_of(self) -> list[tuple[Any, ...]]:
        return fetch_rows(
            """SELECT obis_code, id, unit, scaler, kind = %s, kind = %s, coalesce(minimum, -9223372036854775808),
                      coalesce(maximum, 9223372036854775807) FROM meters_register""",
            RegisterKind.INTERVAL.value,
            RegisterKind.EVENT.value,
        )

    def _read(self) -> None:
        self._rows = {row[0]: RegisterRow(*row[1:]) for row in self._rows_of()}
        self._codes = {row.id: code for code, row in self._rows.items()}
        self.shapes, self._looked_at = [], set()

    def get(self, obis_code: str) -> RegisterRow | None:
        row = self._rows.get(obis_code)
        if row is None and self._may_read:
            self._may_read = False
            self._read()
            row = self._rows.get(obis_code)
        return row

    def id_of(self, obis_code: str) -> int | None:
        row = self._rows.get(obis_code)
        return None if row is None else row.id

    def code_of(self, register_id: int) -> str:
        """The OBIS code of a register that a value names."""
        return self._codes.get(register_id) or f"register {register_id}"

    def learn(self, names: Sequence[str], payload: bytes) -> None:
        """Keep the shape of a good pack with those records, if it has one: the next such pack is read by it."""
        looked_at = tuple(names)
        if looked_at in self._looked_at or len(self._looked_at) >= _SHAPES_LOOKED_AT or len(self.shapes) >= _SHAPES:
            return
        self._looked_at.add(looked_at)
        rows = [self._rows.get(name) for name in names]
        if len({*names}) == len(rows) <= _SHAPE_RECORDS and all(row is not None and _has_shape(row) for row in rows):
            shape = PackShape([(name, row) for name, row in zip(names, rows, strict=True) if row is not None])
            if shape.matches(payload):
                self.shapes.append(shape)


def _has_shape(row: RegisterRow) -> bool:
    return not row.scaler and row.minimum <= 0 and row.maximum >= _SHAPE_MAXIMUM


def _number(maximum: int) -> bytes:
    """An unsigned integer of up to four octets in CBOR that is no higher than ``maximum``; or else a lower bound."""
    highest = re.escape(bytes((min((maximum + 1 >> 24) - 1, 255),)))
    return rb"([\x00-\x17]|\x18.|\x19..|\x1a[\x00-" + highest + rb"]...)"


class PackShape:
    """The octets of the packs of certain registers, as deterministic encoding gives them.

    {bver: 26, bt, n, u, v}, then {n, u, v}, time in four octets, values unsigned in up to four. What a shape
    reads, the general way reads alike; it leaves to it whatever differs in one octet, is off the grid, out of time or
    out of bounds.
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

    def values(self, payload: bytes, interval_minutes: int, period: Period) -> list[Value] | None:
        """The values of a pack of this shape; None where it is none, or one for the general way to refuse."""
        match = self._match(payload)
        if match is None:
            return None
        time, *numbers = match.groups()
        time_s = _from_bytes(time, "big")
        earliest_s, latest_s = period
        if self._has_interval:
            latest_s -= interval_minutes * 60
            if time_s % (interval_minutes * 60):
                return None
        if not earliest_s <= time_s <= latest_s:
            return None
        values = []
        for (register_id, is_interval, is_event), number in zip(self._registers, numbers):  # noqa: B905 - costs a third
            steps = number[0] if len(number) == 1 else _from_bytes(number[1:], "big")
            minutes = interval_minutes if is_interval else 0
            values.append(_new_value(Value, (time_s, register_id, steps, minutes, is_event)))
        return values


def interpret(
    payload: bytes,
    system_title: bytes,
    interval_minutes: int,
    registers: Registers,
    period: Period,
    lengths: Lengths | None = None,
) -> list[Value]:
    """The values of an authentic payload of the meter with that system title, all or none.

    ``lengths`` tells which interval length held when, where it was not ``interval_minutes`` always.

    Raises PayloadError; of several reasons for the first of these: payload_invalid (not SenML), identity_mismatch
    (another meter's name), payload_invalid (two values at one place, an interval that begins on no whole minute),
    too_old (before ``period``), unknown_register, registry_mismatch (another unit, a value finer than the register, an
    interval off its grid), implausible (outside the register's bounds), clock_skew (after ``period``, or an interval
    that is not over by its end).
    """
    if lengths is None:
        for shape in registers.shapes:
            values = shape.values(payload, interval_minutes, period)
            if values is not None:
                return values
    return _interpret(payload, system_title, interval_minutes, registers, period, lengths)


def _interpret(
    payload: bytes,
    system_title: bytes,
    interval_minutes: int,
    registers: Registers,
    period: Period,
    lengths: Lengths | None,
) -> list[Value]:
    """The values of a pack in any form that SenML allows, or the reason why it is refused."""
    try:
        records = parse_pack(payload)
    except SenMLError as error:
        raise _invalid(str(error)) from None
    values, unknown, mismatch, all_read = [], "", "", True
    try:
        for record in records:
            name = record[0]
            register = registers.get(name)
            if register is None:
                register = registers.get(_own_name(name, system_title))
            if register is None:
                unknown = unknown or name
                continue
            try:
                values.append(_value(record, register, interval_minutes, lengths))
            except _MismatchError as error:
                mismatch = mismatch or str(error)
                if error.value is None:
                    all_read = False
                else:
                    values.append(error.value)
        values = _once(values, registers)
    except PayloadError:
        for name, *_ in records:  # whose frame it is goes before what it says
            _own_name(name, system_title)
        raise
    earliest_s = min(record.time_s for record in records)
    if earliest_s < period.earliest_s:
        raise PayloadError(PayloadRefusal.TOO_OLD, f"the time {iso(earliest_s)} is before what is kept")
    if unknown:
        raise PayloadError(PayloadRefusal.UNKNOWN_REGISTER, f"no register {unknown[:80]!r} is known")
    if mismatch:
        raise PayloadError(PayloadRefusal.REGISTRY_MISMATCH, mismatch, values if all_read else None)
    _check_bounds(values, registers)
    _check_over(values, period, registers)
    registers.learn([record.name for record in records], payload)
    return values


def _value(record: Record, register: RegisterRow, interval_minutes: int, lengths: Lengths | None) -> Value:
    """What a record says of a register, in its steps.

    _MismatchError where that does not fit what is registered; PayloadError where no entry could make it fit.
    """
    name, unit, value, time_s = record
    if unit != register.unit:
        raise _MismatchError(f"{name} is in {unit!r}; the register counts {register.unit!r}")
    steps = value if type(value) is int and not register.scaler else _steps(value, register, name)
    length = 0
    if register.is_interval:
        length = interval_minutes if lengths is None else lengths.at(time_s)
        if time_s % (length * 60):
            detail = f"{name} begins at {iso(time_s)}, no multiple of {length} minutes"
            if time_s % 60:  # a length is in whole minutes: no other one would let it begin there
                raise _invalid(detail)
            raise _MismatchError(detail, Value(time_s, register.id, steps, length, register.is_event))
    return _new_value(Value, (time_s, register.id, steps, length, register.is_event))


def _check_bounds(values: list[Value], registers: Registers) -> None:
    for value in values:
        code = registers.code_of(value.register_id)
        register = registers.get(code)
        if register is not None and not register.minimum <= value.value <= register.maximum:
            steps_of = f" in steps of 1e{register.scaler}" if register.scaler else ""
            detail = f"{code} says {value.value}{steps_of}; the register takes {register.minimum} to {register.maximum}"
            raise PayloadError(PayloadRefusal.IMPLAUSIBLE, detail, values)


def _once(values: list[Value], registers: Registers) -> list[Value]:
    """The values, each event once; PayloadError where a register says two things, or one thing twice, at one time.

    A log may hold several events of one second: there an event is what its value says.
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


def _check_over(values: list[Value], period: Period, registers: Registers) -> None:
    """Nothing lies ahead of ours, and every interval is over."""
    for value in values:
        end_s = value.captured_s + value.interval_minutes * 60
        if end_s > period.latest_s:
            code, start = registers.code_of(value.register_id), iso(value.captured_s)
            if value.captured_s > period.latest_s:
                detail = f"the time {start} of {code} is ahead of ours, {iso(period.latest_s)} at most"
            else:
                detail = f"the interval of {code} from {start} ends at {iso(end_s)}, {iso(period.latest_s)} at most"
            raise PayloadError(PayloadRefusal.CLOCK_SKEW, detail, values)


def iso(unix_s: int) -> str:
    """A Unix second as reasons tell it, in UTC (RFC 3339), or as a number where no calendar goes so far."""
    try:
        return f"{datetime.fromtimestamp(0, UTC) + timedelta(seconds=unix_s):%Y-%m-%dT%H:%M:%SZ}"
    except OverflowError:
        return f"Unix second {unix_s}"


def _invalid(detail: str) -> PayloadError:
    return PayloadError(PayloadRefusal.PAYLOAD_INVALID, detail)


# A value to be stored: the meter's id, the value, and the uplink that brought it.
NewValue = tuple[int, Value, int]


def copy_readings(rows: Sequence[NewValue]) -> None:
    """Store readings by one binary COPY in the current transaction.

    IntegrityError where one stands already; every time must lie in a partition. In the order of the
    primary key: two transactions that meet in the index wait for each other, and never in a circle.
    """
    pack = _COPY_ROW.pack
    body = [
        pack(
            6,
            8,
            (captured_s - _PG_EPOCH_S) * 1_000_000,
            4,
            meter_id,
            2,
            register_id,
            8,
            steps,
            8,
            uplink_id,
            2,
            minutes,
        )
        for meter_id, (captured_s, register_id, steps, minutes, _), uplink_id in rows
    ]
    body.sort()
    with connection.wrap_database_errors, cursor() as batch, batch.copy(_COPY_READINGS) as copy:
        copy.write(_COPY_HEAD + b"".join(body) + _COPY_TAIL)


def insert_events(rows: Sequence[NewValue], received_at: Mapping[int, datetime]) -> None:
    """Store meter events, ``received_at`` by uplink; IntegrityError where one stands already."""
    fetch_rows(
        """INSERT INTO meters_meterevent (meter_id, register_id, captured_at, value, uplink_id, received_at)
           SELECT meter_id, register_id, to_timestamp(captured_s), value, uplink_id, received_at
           FROM unnest(%s::int[], %s::smallint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::timestamptz[])
                AS n(meter_id, register_id, captured_s, value, uplink_id, received_at)
           ORDER BY 1, 2, 3, 4
           RETURNING 1""",
        int_array(meter_id for meter_id, _, _ in rows),
        int_array(value.register_id for _, value, _ in rows),
        int_array(value.captured_s for _, value, _ in rows),
        int_array(value.value for _, value, _ in rows),
        int_array(uplink_id for _, _, uplink_id in rows),
        [received_at[uplink_id] for _, _, uplink_id in rows],
    )


# A value that stands already, and the id of the uplink that brought it.
Standing = tuple[int, int]
# Where a value goes: meter id, register id, Unix second; and of an event what it says, which makes it this one.
Spot = tuple[int, int, int, int | None]


def spot(meter_id: int, value: Value) -> Spot:
    """Where a value goes: there is room for one reading, and for each event of a second."""
    return meter_id, value.register_id, value.captured_s, value.value if value.is_event else None


def standing_values(rows: Iterable[tuple[int, Value]]) -> dict[Spot, Standing]:
    """What stands where values want to go; one query for each table."""
    readings: list[Spot] = []
    events: list[Spot] = []
    for meter_id, value in rows:
        (events if value.is_event else readings).append(spot(meter_id, value))
    standing: dict[Spot, Standing] = {}
    if readings:
        found = fetch_rows(
            """SELECT n.meter_id, n.register_id, n.captured_s, r.value, r.uplink_id
               FROM unnest(%s::int[], %s::smallint[], %s::bigint[]) AS n(meter_id, register_id, captured_s)
               JOIN meters_reading r ON r.captured_at = to_timestamp(n.captured_s)
                    AND r.meter_id = n.meter_id AND r.register_id = n.register_id""",
            *(int_array(column) for column in list(zip(*readings, strict=True))[:3]),
        )
        standing.update({(*row[:3], None): row[3:] for row in found})
    if events:
        found = fetch_rows(
            """SELECT n.meter_id, n.register_id, n.captured_s, n.value, e.value, e.uplink_id
               FROM unnest(%s::int[], %s::smallint[], %s::bigint[], %s::bigint[])
                    AS n(meter_id, register_id, captured_s, value)
               JOIN meters_meterevent e ON e.captured_at = to_timestamp(n.captured_s)
                    AND e.meter_id = n.meter_id AND e.register_id = n.register_id AND e.value = n.value""",
            *(int_array(column) for column in zip(*events, strict=True)),
        )
        standing.update({row[:4]: row[4:] for row in found})
    return standing


def _own_name(name: str, system_title: bytes) -> str:
    """A name without the meter's own base name before it; PayloadError where it is another meter's."""
    if not name.startswith(_NAME_PREFIX):
        return name
    own = f"{_NAME_PREFIX}{system_title.hex()}:"
    if not name.startswith(own):
        raise PayloadError(PayloadRefusal.IDENTITY_MISMATCH, f"the pack names another meter: {name[:80]!r}")
    return name[len(own) :]


def _steps(value: int | Decimal, register: RegisterRow, name: str) -> int:
    """A value in steps of 10^scaler units, exactly; _MismatchError where it is no whole number of them."""
    steps = Decimal(value).scaleb(-register.scaler, _EXACT)
    if steps != steps.to_integral_value() or not -(2**63) <= steps < 2**63:
        raise _MismatchError(f"{name}: {value} is no whole number of steps of 1e{register.scaler}")
    return int(steps)
