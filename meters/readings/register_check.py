"""Validation: how far a cumulative register advanced, against the intervals of the same time. Pure; whole numbers only.

A meter that sends both says the same energy twice: 1-0:1.8.0 at two times, and the values of 1-0:1.29.0 between them.
Group C of the OBIS code (IEC 62056-6-1) tells direction and energy, D whether it is a register (8) or the advance in an
interval (29), E the rate. Without the register of all rates, those of its rates are added up.
"""

import itertools
from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from meters.readings.obis import RegisterKind, parse_obis

_REGISTER, _INTERVAL, _ALL_RATES = 8, 29, 0  # groups D, and E
_KILO = {"kWh": "Wh", "kvarh": "varh", "kVAh": "VAh"}  # secondary units (RFC 8798), a thousand of the base unit each
_BEFORE_ALL_S = -(2**63)
_SCALERS = range(-12, 13)  # beyond, a comparison says nothing: one register may not show what the other counts


class Entry(NamedTuple):
    """A register of the catalogue. ``maximum`` is its highest plausible value, in steps."""

    id: int
    obis_code: str
    kind: RegisterKind
    unit: str
    scaler: int
    maximum: int | None


class Counter(NamedTuple):
    """A cumulative register: one step is 10^``scaler`` base units; at ``modulus`` it begins at 0 (None: unknown)."""

    register_id: int
    scaler: int
    modulus: int | None


class Pair(NamedTuple):
    """An interval register with the registers that advance by its values; its ``scaler`` counts base units, ``unit``.

    ``total`` counts all rates, or the interval register's one rate; ``rates`` are those that add up to it.
    """

    interval_id: int
    unit: str
    scaler: int
    total: Counter | None
    rates: tuple[Counter, ...]

    @property
    def counters(self) -> list[Counter]:
        return [*([self.total] if self.total else []), *self.rates]


class Measured(NamedTuple):
    """The value of an interval, in steps of its register; the start is in Unix seconds."""

    start_s: int
    minutes: int
    value: int

    @property
    def end_s(self) -> int:
        return self.start_s + 60 * self.minutes


class Comparison(NamedTuple):
    """The span between two readings of a register, in which no interval is missing; Unix seconds.

    ``advance`` of the register and ``interval_sum`` are in steps of 10^``scaler`` base units, as is ``tolerance``.
    """

    start_s: int
    end_s: int
    scaler: int
    advance: int
    interval_sum: int
    tolerance: int

    @property
    def differs(self) -> bool:
        return abs(self.advance - self.interval_sum) > self.tolerance


def pairs(catalogue: Iterable[Entry]) -> list[Pair]:
    """Return the interval registers that can be compared, each with its cumulative registers."""
    counters: dict[tuple[int, int, int, int], tuple[str, Counter]] = {}
    intervals: dict[tuple[int, int, int, int], tuple[str, int, int]] = {}
    for entry in sorted(catalogue, key=lambda entry: entry.obis_code):
        a, b, c, d, e = parse_obis(entry.obis_code)
        unit, scaler = _base(entry)
        if scaler not in _SCALERS:
            continue
        if entry.kind is RegisterKind.CUMULATIVE and d == _REGISTER:
            counters[a, b, c, e] = unit, Counter(entry.id, scaler, _modulus(entry.maximum))
        elif entry.kind is RegisterKind.INTERVAL and d == _INTERVAL:
            intervals[a, b, c, e] = unit, scaler, entry.id
    found = []
    for (a, b, c, e), (unit, scaler, interval_id) in intervals.items():
        same = {rate: one for (*group, rate), (of, one) in counters.items() if group == [a, b, c] and of == unit}
        total = same.get(e)
        rates = tuple(one for rate, one in same.items() if rate != _ALL_RATES) if e == _ALL_RATES else ()
        if total or rates:
            found.append(Pair(interval_id, unit, scaler, total, rates))
    return found


def compare(
    pair: Pair, readings: Mapping[int, Mapping[int, int]], intervals: Collection[Measured]
) -> Iterator[Comparison]:
    """Yield a comparison for each span that can be judged, in the order of time.

    ``readings`` has for each register (by id) that the meter sent its values by Unix second. The spans lie between
    consecutive readings at the ends of intervals. A span with a missing or an overlapping interval is not judged.
    """
    counters = _sent(pair, readings)
    ordered = sorted(intervals)
    starts = [one.start_s for one in ordered]
    over_by = [*itertools.accumulate((one.end_s for one in ordered), max, initial=_BEFORE_ALL_S)]
    ends = {*starts, *(one.end_s for one in ordered)}
    times = set.intersection(*(set(readings[one.register_id]) for one in counters)) if counters else set()
    cuts = sorted(times & ends)
    steps = [one.scaler for one in counters] + [pair.scaler]
    finest = min(steps)
    tolerance = sum(10 ** (step - finest) for step in steps) - 2
    for start_s, end_s in itertools.pairwise(cuts):
        first = bisect_left(starts, start_s)  # all that begin before are over by over_by[first]
        part = ordered[first : bisect_left(starts, end_s)]
        if over_by[first] > start_s or not _covers(part, start_s, end_s):
            continue
        advance = sum(
            _advance(one, readings[one.register_id][start_s], readings[one.register_id][end_s])
            * 10 ** (one.scaler - finest)
            for one in counters
        )
        interval_sum = sum(one.value for one in part) * 10 ** (pair.scaler - finest)
        yield Comparison(start_s, end_s, finest, advance, interval_sum, tolerance)


def _base(entry: Entry) -> tuple[str, int]:
    """Return the base unit of a register, and its scaler in that unit."""
    base = _KILO.get(entry.unit)
    return (entry.unit, entry.scaler) if base is None else (base, entry.scaler + 3)


def _modulus(maximum: int | None) -> int | None:
    """Return at which number a counter begins again: its highest value tells its digits where it is all nines."""
    if maximum is None or maximum < 9 or set(str(maximum)) != {"9"}:
        return None
    return maximum + 1


def _sent(pair: Pair, readings: Mapping[int, Mapping[int, int]]) -> Sequence[Counter]:
    """Return the registers to compare by: that of all rates, or else the rates that the meter sent."""
    if pair.total and readings.get(pair.total.register_id):
        return [pair.total]
    return [one for one in pair.rates if readings.get(one.register_id)]


def _covers(part: Sequence[Measured], start_s: int, end_s: int) -> bool:
    """Whether intervals follow each other from start to end without a hole or an overlap."""
    at = start_s
    for one in part:
        if one.start_s != at:
            return False
        at = one.end_s
    return at == end_s


def _advance(counter: Counter, before: int, after: int) -> int:
    return after - before + counter.modulus if after < before and counter.modulus else after - before
