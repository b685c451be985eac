"""The write path of readings: from a payload to exact values, and values into the table by COPY."""

import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Context, Decimal
from enum import StrEnum
from typing import Any, NamedTuple

import cbor2
from django.db import connection

from keyvault.sql import cursor, fetch_rows, int_array
from meters.lengths import Lengths
from meters.obis import RegisterKind
from meters.senml import SenMLError, parse_pack

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
_NUMBER = rb"([\x00-\x17]|\x18.|\x19..|\x1a....)"  # an unsigned integer of up to four octets in CBOR
_SHAPES = 8  # of packs, tried one after the other
_SHAPES_LOOKED_AT = 200
_SHAPE_RECORDS = 23  # as many as the head of an array says in one octet


class PayloadRefusal(StrEnum):
    """Why an authentic payload is refused."""

    PAYLOAD_INVALID = "payload_invalid"
    IDENTITY_MISMATCH = "identity_mismatch"
    CLOCK_SKEW = "clock_skew"
    TOO_OLD = "too_old"


class PayloadError(ValueError):
    """An authentic frame whose payload is refused; ``reason`` says why. The meter's mistake, or a cloned key."""

    def __init__(self, reason: PayloadRefusal, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class RegisterRow(NamedTuple):
    """A register as workers keep it in memory: it never changes."""

    id: int
    unit: str
    scaler: int
    is_interval: bool
    is_event: bool


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
    """Which times a payload may name, in Unix seconds: from retention's start to now plus the skew allowed."""

    earliest_s: int
    latest_s: int


class Registers:
    """The register table by OBIS code, kept per process: a register never changes.

    Read again, once a batch at most, where a code is not known: it may have been added since.
    """

    def __init__(self) -> None:
        self._rows: dict[str, RegisterRow] = {}
        self._may_read = True
        self.shapes: list[PackShape] = []  # of the packs that came so far
        self._looked_at: set[tuple[str, ...]] = set()

    def begin_batch(self) -> None:
        self._may_read = True

    def _rows_of(self) -> list[tuple[Any, ...]]:
        return fetch_rows(
            "SELECT obis_code, id, unit, scaler, kind = %s, kind = %s FROM meters_register",
            RegisterKind.INTERVAL.value,
            RegisterKind.EVENT.value,
        )

    def _read(self) -> None:
        self._rows = {row[0]: RegisterRow(*row[1:]) for row in self._rows_of()}
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

    def learn(self, names: Sequence[str], payload: bytes) -> None:
        """Keep the shape of a good pack with those records, if it has one: the next such pack is read by it."""
        looked_at = tuple(names)
        if looked_at in self._looked_at or len(self._looked_at) >= _SHAPES_LOOKED_AT or len(self.shapes) >= _SHAPES:
            return
        self._looked_at.add(looked_at)
        rows = [self._rows.get(name) for name in names]
        if len(rows) <= _SHAPE_RECORDS and all(row is not None and not row.scaler for row in rows):
            shape = PackShape([(name, row) for name, row in zip(names, rows, strict=True) if row is not None])
            if shape.matches(payload):
                self.shapes.append(shape)


class PackShape:
    """The octets of the packs of certain registers, as deterministic encoding gives them.

    {bver: 26, bt, n, u, v}, then {n, u, v}, time in four octets, values unsigned in up to four. What a shape
    reads, the general way reads alike; it leaves to it whatever differs in one octet, is off the grid or out of time.
    """

    __slots__ = ("_has_interval", "_match", "_registers")

    def __init__(self, registers: Sequence[tuple[str, RegisterRow]]) -> None:
        records = [
            re.escape(b"\x00" + cbor2.dumps(name) + b"\x01" + cbor2.dumps(row.unit) + b"\x02") + _NUMBER
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
        if not earliest_s <= time_s <= latest_s or (self._has_interval and time_s % (interval_minutes * 60)):
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

    Raises PayloadError: payload_invalid (not SenML, unknown register, wrong unit, a value finer than the
    register, an interval off its grid, two values at one place), identity_mismatch (another meter's
    name), clock_skew (after ``period``), too_old (before it).
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
        raise PayloadError(PayloadRefusal.PAYLOAD_INVALID, str(error)) from None
    values = []
    for name, unit, value, time_s in records:
        register = registers.get(name)
        if register is None:
            register = _resolve(name, system_title, registers)
        if unit != register.unit:
            raise PayloadError(
                PayloadRefusal.PAYLOAD_INVALID, f"{name} is in {unit!r}; the register counts {register.unit!r}"
            )
        steps = value if type(value) is int and not register.scaler else _steps(value, register, name)
        length = 0
        if register.is_interval:
            length = interval_minutes if lengths is None else lengths.at(time_s)
            if time_s % (length * 60):
                raise PayloadError(
                    PayloadRefusal.PAYLOAD_INVALID, f"{name} begins at {time_s}, no multiple of {length} minutes"
                )
        values.append(_new_value(Value, (time_s, register.id, steps, length, register.is_event)))
    _check_times(values, period)
    registers.learn([record.name for record in records], payload)
    return values


def _check_times(values: list[Value], period: Period) -> None:
    times = {value.captured_s for value in values}
    if max(times) > period.latest_s:
        raise PayloadError(PayloadRefusal.CLOCK_SKEW, f"the meter's time {max(times)} is ahead of ours")
    if min(times) < period.earliest_s:
        raise PayloadError(PayloadRefusal.TOO_OLD, f"the time {min(times)} is before what is kept")
    if len(values) > 1 and len({(value.captured_s, value.register_id) for value in values}) < len(values):
        raise PayloadError(PayloadRefusal.PAYLOAD_INVALID, "two values of one register at one time")


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
           ORDER BY 1, 2, 3
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


def standing_values(rows: Iterable[tuple[int, Value]]) -> dict[tuple[int, int, int], Standing]:
    """What stands where values want to go, by (meter id, register id, Unix second); one query for each table."""
    readings: list[tuple[int, int, int]] = []
    events: list[tuple[int, int, int]] = []
    for meter_id, value in rows:
        (events if value.is_event else readings).append((meter_id, value.register_id, value.captured_s))
    standing: dict[tuple[int, int, int], Standing] = {}
    for table, keys in (("meters_reading", readings), ("meters_meterevent", events)):
        if keys:
            found = fetch_rows(
                f"""SELECT n.meter_id, n.register_id, n.captured_s, r.value, r.uplink_id
                    FROM unnest(%s::int[], %s::smallint[], %s::bigint[]) AS n(meter_id, register_id, captured_s)
                    JOIN {table} r ON r.captured_at = to_timestamp(n.captured_s)
                         AND r.meter_id = n.meter_id AND r.register_id = n.register_id""",
                *(int_array(column) for column in zip(*keys, strict=True)),
            )
            standing.update({row[:3]: row[3:] for row in found})
    return standing


def _resolve(name: str, system_title: bytes, registers: Registers) -> RegisterRow:
    """The register of a name with the meter's own base name before it; or the reason why there is none."""
    if name.startswith(_NAME_PREFIX):
        own = f"{_NAME_PREFIX}{system_title.hex()}:"
        if not name.startswith(own):
            raise PayloadError(PayloadRefusal.IDENTITY_MISMATCH, f"the pack names another meter: {name[:80]!r}")
        name = name[len(own) :]
    register = registers.get(name)
    if register is None:
        raise PayloadError(PayloadRefusal.PAYLOAD_INVALID, f"no register {name[:80]!r} is known; add it if it is right")
    return register


def _steps(value: int | Decimal, register: RegisterRow, name: str) -> int:
    """A value in steps of 10^scaler units, exactly."""
    steps = Decimal(value).scaleb(-register.scaler, _EXACT)
    if steps != steps.to_integral_value() or not -(2**63) <= steps < 2**63:
        raise PayloadError(
            PayloadRefusal.PAYLOAD_INVALID, f"{name}: {value} is no whole number of steps of 1e{register.scaler}"
        )
    return int(steps)
