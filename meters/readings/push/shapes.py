"""Notifications of one form, read by comparing octets: what most frames of a fleet are. Pure.

A shape is learned from a notification that the general reader has read. It gives the same values, and leaves every
notification that differs in an octet which is no value, or is out of time or of bounds, to the general reader. It saves
nine tenths of the time of reading (``make bench`` has the part dlms).
"""

import struct
from collections.abc import Callable, Iterable, Sequence
from itertools import repeat
from operator import mul
from typing import Any, Literal, NamedTuple

from keyvault.schemes.dlms.axdr import Leaf, leaves_of
from keyvault.schemes.dlms.notification import DATE_TIME_OCTETS
from meters.contents.lines import RegisterRow
from meters.readings.push.clocks import ClockError, unix_second
from meters.readings.push.definition import Definition, Kind, Role
from meters.readings.push.profiles import ContentError, Notification, PushValue, parse_notification, read
from meters.readings.push.skeleton import OBIS_OCTETS, is_pushlist, pushlist_leaves
from meters.registry.interval_lengths import Lengths
from meters.values import PayloadTimes, Value

_NUMBERS = {0x05: "i", 0x06: "I", 0x0F: "b", 0x10: "h", 0x11: "B", 0x12: "H", 0x14: "q", 0x15: "Q"}
_NAMING = (Role.SYSTEM_TITLE, Role.DEVICE_ID)  # what names the meter is compared with each
_INVOKE_ID = (1, 5)
_KINDS = (Kind.OBIS, Kind.POSITIONAL, Kind.PUSHLIST)
_CLOCKS_KEPT = 256
_ENDS_CODE = 0xFF  # six octets that end so are an OBIS code, and the form another one
_ZEROS, _FALSES = repeat(0), repeat(False)
_LITTLE: Literal["little"] = "little"  # takes a sixth less time than big
_from_bytes = int.from_bytes


class _Row(tuple[Any, ...]):
    """Before a named tuple among the bases of a class, it has C make the instances, each of its fields in a row."""

    __slots__ = ()
    __new__ = tuple.__new__


class _ReadValue(_Row, Value):
    """A value that takes half the time of Value(...) to make, of all its fields in a row."""

    __slots__ = ()

    def __getnewargs__(self) -> tuple[Any, ...]:
        return (tuple(self),)


class _Column(NamedTuple):
    """What a number becomes: steps of a register; ``bounds`` are of the number, where its type does not keep them."""

    register_id: int
    steps: int  # of one of the number
    bounds: tuple[int, int] | None
    is_event: bool
    is_interval: bool


class Shape:
    """The octets of the notifications of one form, and what their numbers are.

    Numbers go through ``map`` alone, column by column: that takes half the time of a loop.
    """

    __slots__ = (
        "_are_events", "_are_intervals", "_bounds", "_clock", "_interval_ends", "_is_checked", "_mask", "_near_codes",
        "_pattern", "_register_ids", "_rules", "_seconds", "_steps", "_thinning", "_unpack",
    )  # fmt: skip

    def __init__(
        self,
        mask: bytes,
        payload: bytes,
        clock_at: int,
        form: str,
        columns: Sequence[_Column],
        definition: Definition,
        near_codes: Sequence[int],
    ) -> None:
        """``near_codes`` are where octets lie that, if they were ff, would make OBIS codes of texts."""
        self._near_codes = near_codes
        self._mask = _from_bytes(mask, _LITTLE)
        self._pattern = _from_bytes(payload, _LITTLE) & self._mask
        self._clock = slice(clock_at, clock_at + DATE_TIME_OCTETS)
        self._unpack = struct.Struct(form).unpack
        self._register_ids = [one.register_id for one in columns]
        steps = [one.steps for one in columns]
        self._steps = None if set(steps) == {1} else steps  # None: numbers are steps as they are
        are_events = [one.is_event for one in columns]
        self._are_events = are_events if any(are_events) else _FALSES
        self._are_intervals = [one.is_interval for one in columns]
        self._bounds = [(place, *one.bounds) for place, one in enumerate(columns) if one.bounds]
        self._is_checked = bool(self._bounds or near_codes)
        self._rules = definition.clock
        self._thinning = (definition.thin_s, definition.push_s) if definition.thin_s else None
        # Whether times of interval registers are their ends; None: none is of intervals.
        self._interval_ends = bool(definition.interval_ends) if any(self._are_intervals) else None
        self._seconds: dict[bytes, tuple[int, Iterable[int]]] = {}  # of date-times of late, and that for each number

    def values(
        self, payload: bytes, interval_minutes: int, period: PayloadTimes, lengths: Lengths | None = None
    ) -> list[Value] | None:
        """The values of a notification of this shape; None of any other, or of one for the general reader to refuse.

        ``interval_minutes`` and ``lengths`` as for a Reader.
        """
        if _from_bytes(payload, _LITTLE) & self._mask != self._pattern:
            return None
        clock, numbers = payload[self._clock], self._unpack(payload)
        if self._is_checked and not self._is_right(payload, numbers):
            return None
        found = self._seconds.get(clock)
        if found is None and (found := self._second(clock)) is None:
            return None
        at_s, times = found
        if not period.earliest_s <= at_s <= period.latest_s:
            return None
        if self._thinning is not None and at_s % self._thinning[0] >= self._thinning[1]:
            return []
        lengths_of: Iterable[int] = _ZEROS
        if self._interval_ends is not None:
            minutes = interval_minutes if lengths is None else lengths.at(at_s - self._interval_ends)
            begins_s = at_s - 60 * minutes * self._interval_ends
            if not minutes or begins_s % (60 * minutes):
                return None
            if not period.earliest_s <= begins_s <= period.latest_s - 60 * minutes:
                return None
            times = [begins_s if is_interval else at_s for is_interval in self._are_intervals]
            lengths_of = [minutes if is_interval else 0 for is_interval in self._are_intervals]
        steps = numbers if self._steps is None else map(mul, numbers, self._steps)
        rows = zip(times, self._register_ids, steps, lengths_of, self._are_events, _FALSES)  # noqa: B905 - repeats have no end
        return list(map(_ReadValue, rows))

    def _is_right(self, payload: bytes, numbers: Sequence[int]) -> bool:
        """Whether all numbers are within the bounds of their registers, and no text has become an OBIS code."""
        if any(payload[at] == _ENDS_CODE for at in self._near_codes):
            return False
        return all(lowest <= numbers[place] <= highest for place, lowest, highest in self._bounds)

    def _second(self, clock: bytes) -> tuple[int, Iterable[int]] | None:
        try:
            at_s = unix_second(clock, self._rules)
        except ClockError:
            return None
        if len(self._seconds) >= _CLOCKS_KEPT:
            self._seconds.clear()
        found = self._seconds[clock] = at_s, repeat(at_s)
        return found


def learn(
    payload: bytes, definition: Definition, title: bytes, register_of: Callable[[str], RegisterRow | None]
) -> Shape | None:
    """The shape of a notification that was read; None where its form is not one for octets to be compared."""
    columns = (*definition.by_place.values(), *definition.by_obis.values())
    if definition.kind not in _KINDS or any(one.role in _NAMING for one in columns):
        return None
    notification = parse_notification(payload)
    if notification.data is None:
        return None
    body = notification.data.body
    body_at = 5 + len(notification.data.date_time_head) + len(notification.data.date_time)
    leaves = leaves_of(payload, body_at)
    listed = pushlist_leaves(body) if is_pushlist(body) else 0  # the list is of the form, as it stands
    leaves = [leaf._replace(is_constant=True) for leaf in leaves[:listed]] + leaves[listed:]
    six = [leaf for leaf in leaves if leaf.octets == OBIS_OCTETS and leaf.is_string and not leaf.is_constant]
    said = read(notification, definition, title)
    if not said:
        return None
    clock_at = _clock_at(payload, notification, leaves, definition, title)
    places = _places(payload, said, leaves, definition, title)
    if clock_at is None or places is None or len({one.obis for one in said}) < len(said):
        return None
    found = [_column(one, leaf, definition, register_of(one.obis)) for one, leaf in zip(said, places, strict=True)]
    if any(one is None for one in found):
        return None
    mask = bytearray(b"\xff" * len(payload))
    blank = [_INVOKE_ID, (clock_at, clock_at + DATE_TIME_OCTETS)]
    if notification.data.date_time:
        blank.append((body_at - DATE_TIME_OCTETS, body_at))
    blank += [(leaf.start, leaf.end) for leaf in leaves if not leaf.is_constant]
    for start, end in blank:
        mask[start:end] = bytes(end - start)
    order = sorted(range(len(said)), key=lambda number: places[number].start)
    fields = [(places[number].start, _NUMBERS[places[number].tag], places[number].octets) for number in order]
    in_order = [one for number in order if (one := found[number]) is not None]
    near_codes = [leaf.end - 1 for leaf in six]
    return Shape(bytes(mask), payload, clock_at, _form(fields, len(payload)), in_order, definition, near_codes)


def _form(fields: Sequence[tuple[int, str, int]], length: int) -> str:
    """A format of the struct module that takes the fields (start, format, octets) out of so many octets."""
    parts, at = [">"], 0
    for start, form, octets in fields:
        parts.append(f"{start - at}x{form}")
        at = start + octets
    return "".join(parts) + f"{length - at}x"


def _column(one: PushValue, leaf: Leaf, definition: Definition, register: RegisterRow | None) -> _Column | None:
    """What the numbers of a leaf become; None where that takes more than a multiplication."""
    if register is None or one.scaler < register.scaler:
        return None
    steps = definition.factor(one.units[0]) * 10 ** (one.scaler - register.scaler)
    minimum, maximum = max(register.minimum, -(2**63)), min(register.maximum, 2**63 - 1)
    lowest, highest = -(-minimum // steps), maximum // steps
    bits = 8 * leaf.octets
    least, most = (0, 2**bits - 1) if _NUMBERS[leaf.tag].isupper() else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    bounds = None if lowest <= least and most <= highest else (lowest, highest)
    return _Column(register.id, steps, bounds, register.is_event, register.is_interval)


def _places(
    payload: bytes, said: Sequence[PushValue], leaves: Sequence[Leaf], definition: Definition, title: bytes
) -> list[Leaf] | None:
    """The leaf that each value comes from: the general reader tells, when that leaf alone is another."""
    found: list[Leaf | None] = [None] * len(said)
    for leaf in leaves:
        if leaf.is_constant or leaf.tag not in _NUMBERS:
            continue
        changed = _read_changed(payload, leaf.end - 1, definition, title)
        if changed is None or len(changed) != len(said):
            return None
        for number, (before, after) in enumerate(zip(said, changed, strict=True)):
            if before != after:
                if found[number] is not None or before.at_s != after.at_s:
                    return None
                found[number] = leaf
    places = [leaf for leaf in found if leaf is not None]
    return places if len(places) == len(said) else None


def _clock_at(
    payload: bytes, notification: Notification, leaves: Sequence[Leaf], definition: Definition, title: bytes
) -> int | None:
    """Where the date-time begins that the values have their time from."""
    if notification.data is not None and definition.clock_from == "apdu":
        return 5 + len(notification.data.date_time_head)
    before = read(notification, definition, title)
    for leaf in leaves:
        if leaf.is_string and leaf.octets == DATE_TIME_OCTETS:
            changed = _read_changed(payload, leaf.start + 7, definition, title)  # its second
            if changed and before and changed[0].at_s != before[0].at_s:
                return leaf.start
    return None


def _read_changed(payload: bytes, at: int, definition: Definition, title: bytes) -> list[PushValue] | None:
    """What a notification says where one bit of it is another; None where it is refused."""
    changed = payload[:at] + bytes((payload[at] ^ 1,)) + payload[at + 1 :]
    try:
        return read(parse_notification(changed), definition, title)
    except ContentError:
        return None
