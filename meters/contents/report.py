"""Content ``report``: readings of one meter, as its concentrator read them, or sums over many (docs/schemes.md). Pure.

A report is a SenML pack whose base name names the meter; sums are an array that begins with "sums".
"""

import re
from binascii import unhexlify
from typing import NamedTuple

import cbor2

from meters.contents.events import named_registers
from meters.contents.lines import Catalogue, Content
from meters.contents.plain import NAME_PREFIX, PlainReader, read_pack
from meters.registry.interval_lengths import LONGEST_MINUTES, Lengths
from meters.values import LAST_S, PayloadError, PayloadRefusal, PayloadTimes, Value, iso

_NAMED = re.compile(NAME_PREFIX.encode() + rb"([0-9a-f]{16}):")
_NAME_OCTETS = len(NAME_PREFIX) + 17  # of a base name: a title in hex, and a colon
_NAMED_HEAD = b"\xa6\x20\x18\x1a\x21\x78" + bytes((_NAME_OCTETS,)) + NAME_PREFIX.encode()
_USUAL = re.compile(b"." + re.escape(_NAMED_HEAD) + rb"([0-9a-f]{16}):", re.DOTALL)
_PLAIN_HEAD = b"\xa5\x20\x18\x1a"
_SUMS = "sums"
_SUMS_HEAD = re.compile(rb"(?:[\x81-\x97]|\x98.|\x99..)\x64sums", re.DOTALL)
_SUM_MAX = 2**63 - 1
_METERS_MAX = 2**31 - 1


class ReportedSum(NamedTuple):
    """The sum of an interval register over its meters that a concentrator reports.

    ``value`` is in the register's steps, 0 to 2^63 - 1, over ``meters`` meters.
    """

    register_id: int
    minutes: int
    start_s: int
    value: int
    meters: int


def named_meter(payload: bytes) -> bytes | None:
    """Return the system title (8 octets) that a report names first; None if it names none, and for sums.

    Reads only these octets; when the report is read, every record is compared with the title.
    """
    found = _USUAL.match(payload) or (None if is_sums(payload) else _NAMED.search(payload))
    return None if found is None else unhexlify(found[1])


def is_sums(payload: bytes) -> bool:
    """Return whether a payload is sums, by its first octets."""
    return _SUMS_HEAD.match(payload) is not None


def sum_intervals(payload: bytes) -> set[tuple[int, int]]:
    """Return the intervals that sums are of: minutes, and start in Unix seconds. None where a payload is no valid sums.

    When the sums are read, that says what is wrong with the payload.
    """
    if not is_sums(payload):
        return set()
    try:
        return {(minutes, start_s) for _, minutes, start_s, _, _ in _rows(payload)}
    except PayloadError:
        return set()


class ReportReader:
    """Reads the reports about one meter, by its system title.

    The usual report is the pack of the meter with a base name: it is read by the shape of such packs.
    """

    def __init__(self, registers: Catalogue) -> None:
        self._registers = registers
        self.own = PlainReader(registers)  # reads such packs

    def read(
        self,
        payload: bytes,
        system_title: bytes,
        interval_minutes: int,
        period: PayloadTimes,
        lengths: Lengths | None = None,
        serial_number: str | None = None,
    ) -> list[Value]:
        """Return the readings of a report; PayloadError as in Reader. Each record names the meter.

        An event is algorithm_mismatch: only the meter itself may answer commands.
        """
        own = _without_name(payload, system_title)
        if own is not None:
            values = self.own.by_shape(own, interval_minutes, period, lengths)
            if values is not None:
                return values
        for record, register in named_registers(payload, system_title, self._registers):
            if not record.name.startswith(NAME_PREFIX):
                raise _invalid(f"the base name names no meter: {record.name[:80]!r}")
            if register is not None and register.is_event:
                detail = f"{record.name[:80]} is an event, which comes in the meter's own frames alone"
                raise PayloadError(PayloadRefusal.ALGORITHM_MISMATCH, detail)
        records, values = read_pack(payload, system_title, interval_minutes, self._registers, period, lengths)
        if own is not None:  # there is no event, nor will there be in a pack of this shape
            self.own.learn([record.name[_NAME_OCTETS:] for record in records], own)
        return values


def _without_name(payload: bytes, system_title: bytes) -> bytes | None:
    """Return the usual report, {bver: 26, bn, ...}, without its base name; None for any other."""
    named = _NAMED_HEAD + system_title.hex().encode() + b":"
    if not payload.startswith(named, 1):
        return None
    return payload[:1] + _PLAIN_HEAD + payload[1 + len(named) :]


REPORT = Content("report", ReportReader, reference="SenML in CBOR, RFC 8428 section 6")


def read_sums(payload: bytes, registers: Catalogue, period: PayloadTimes) -> list[ReportedSum]:
    """Return all sums of an authentic payload, in their order, or none.

    PayloadError names the first of these reasons: payload_invalid (not the one encoding, a number out of
    range, two sums of one place), too_old, unknown_register, registry_mismatch (a register of no intervals),
    clock_skew (an interval that is not over).
    """
    rows = _rows(payload)
    places = {row[:3] for row in rows}
    if len(places) < len(rows):
        raise _invalid("two sums of one register and start")
    earliest_s = min(start_s for _, _, start_s, _, _ in rows)
    if earliest_s < period.earliest_s:
        raise PayloadError(PayloadRefusal.TOO_OLD, f"the time {iso(earliest_s)} is before what is kept")
    found = []
    for code, *numbers in rows:
        register = registers.get(code)
        if register is None:
            raise PayloadError(PayloadRefusal.UNKNOWN_REGISTER, f"no register {code[:80]!r} is known")
        if not register.is_interval:
            raise PayloadError(PayloadRefusal.REGISTRY_MISMATCH, f"{code} is no register of intervals")
        found.append(ReportedSum(register.id, *numbers))
    for one in found:
        if one.start_s + 60 * one.minutes > period.latest_s:
            detail = f"the interval from {iso(one.start_s)} is not over; it is {iso(period.latest_s)} at most"
            raise PayloadError(PayloadRefusal.CLOCK_SKEW, detail)
    return found


def _rows(payload: bytes) -> list[tuple[str, int, int, int, int]]:
    try:
        array = cbor2.loads(payload, max_depth=3)
        is_deterministic = cbor2.dumps(array, canonical=True) == payload
    except (cbor2.CBORError, ValueError, TypeError, RecursionError, OverflowError) as error:
        raise _invalid(f"not a CBOR item: {error}"[:200]) from None
    if not is_deterministic or type(array) is not list or len(array) < 2 or array[0] != _SUMS:
        raise _invalid('sums are ["sums", [obis code, minutes, start, sum, meters], ...] in deterministic encoding')
    return [_row(item) for item in array[1:]]


def _row(item: object) -> tuple[str, int, int, int, int]:
    if type(item) is not list or list(map(type, item)) != [str, int, int, int, int]:
        raise _invalid("a sum is [obis code, minutes, start, sum, meters]")
    code, minutes, start_s, value, meters = item
    if not 1 <= minutes <= LONGEST_MINUTES:
        raise _invalid(f"an interval has 1 to {LONGEST_MINUTES} minutes, not {minutes}")
    if not 0 <= start_s < LAST_S or start_s % (60 * minutes):
        raise _invalid(f"an interval of {minutes} minutes begins at a multiple of its length, not at {start_s}")
    if not 0 <= value <= _SUM_MAX or not 0 <= meters <= _METERS_MAX:
        raise _invalid(f"a sum is 0 to {_SUM_MAX}, over 0 to {_METERS_MAX} meters")
    return code, minutes, start_s, value, meters


def _invalid(detail: str) -> PayloadError:
    return PayloadError(PayloadRefusal.PAYLOAD_INVALID, detail)
