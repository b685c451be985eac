"""Cumulative registers compared with intervals, a day of many meters at a time; ``register_check`` decides.

What is to be compared is learnt from the feed: its lots say which transaction stored or corrected what, so that whoever
stores readings does nothing for it. A register's reading marks the day that it ends, and whatever is stored or
corrected later than that day, or about when it is compared, marks it again. A marked day is compared once it is over,
in one transaction with its results: safe to stop at any instruction.
"""

import logging
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from django.conf import settings
from django.db import transaction

from ami_headend.core import locks
from ami_headend.core.sql import execute, fetch_rows, int_array
from ami_headend.core.text import counted
from concentrators.feed import lots
from concentrators.feed.packed import Columns, unpack
from concentrators.feed.rows import Change
from concentrators.models import FeedHead, RegisterDifference
from meters.readings import register_check
from meters.readings import register_check_facts as facts
from meters.readings.partitions import NotStoredError, require_stored
from meters.readings.register_check import Comparison, Pair

logger = logging.getLogger(__name__)

_LOTS = 100  # that one transaction looks at
_METERS = 1_000  # of one day that one transaction compares
SETTLES = timedelta(hours=1)  # after a day's end, so that nearly everything is there when it is compared
# A lot says when it was stored by the database's clock, and is committed later; a day is compared by a worker's clock.
# So what was stored shortly before may come after the comparison.
_COMMITS_WITHIN = timedelta(minutes=15)
_DAY = timedelta(days=1)
_DAY_S = 86_400
_OURS = [Change.FLAGGED.value, Change.CLEARED.value]


class Found(NamedTuple):
    """A comparison of a meter's interval register."""

    meter_id: int
    pair: Pair
    comparison: Comparison


class Standing(NamedTuple):
    """A difference that is stored and open: its id, meter, interval register, span (Unix seconds), and its numbers."""

    id: int
    meter_id: int
    register_id: int
    start_s: int
    end_s: int
    numbers: tuple[int, int, int]


class Changes(NamedTuple):
    """Differences to store, and those that hold no longer."""

    found: list[Found]
    cleared: list[Standing]


def follow() -> int:
    """Mark days by what the feed has told since the last time; return how many lots were looked at.

    Lots that are no longer kept are passed over: ``recheck`` marks days that were missed.
    """
    pairs = facts.pairs()
    intervals = pa.array([pair.interval_id for pair in pairs], pa.int16())
    registers = pa.array(facts.counter_ids(pairs), pa.int16())
    seen = 0
    while True:
        with transaction.atomic():
            locks.take(locks.REGISTER_CHECKS)
            head = FeedHead.objects.get()
            told = fetch_rows(
                """SELECT position, readings, stored_at, reading_rows FROM concentrators_feedlot
                   WHERE position > %s AND position <= %s AND readings > 0 AND change <> ALL(%s)
                   ORDER BY position LIMIT %s""",
                head.checked,
                head.position,
                _OURS,
                _LOTS,
            )
            marks: set[tuple[int, int]] = set()
            for _, rows, stored_at, packed in told:
                if packed is not None:
                    marks |= _marks(unpack(bytes(packed), rows), stored_at, intervals, registers)
            _mark(marks)
            FeedHead.objects.update(checked=told[-1][0] if len(told) == _LOTS else head.position)
        seen += len(told)
        if len(told) < _LOTS:
            return seen


def check(now: datetime) -> int:
    """Compare marked days that are over, the oldest first; return how many days of meters.

    Days whose readings are not in the database are not compared: their marks go, and a warning says so.
    """
    last = (now - SETTLES).astimezone(UTC).date() - _DAY
    pairs = facts.pairs()
    checked = 0
    while True:
        with transaction.atomic():
            locks.take(locks.REGISTER_CHECKS)
            marked = fetch_rows(
                """DELETE FROM concentrators_uncheckedday WHERE (day, meter_id) IN (
                       SELECT day, meter_id FROM concentrators_uncheckedday
                       WHERE day = (SELECT min(day) FROM concentrators_uncheckedday) AND day <= %s
                       ORDER BY meter_id LIMIT %s)
                   RETURNING day, meter_id""",
                last,
                _METERS,
            )
            if not marked:
                return checked
            day = marked[0][0]
            try:
                require_stored(_midnight(day), _midnight(day + _DAY))
            except NotStoredError as error:
                logger.warning("marks of %s for %s are dropped: %s", counted(len(marked), "meter"), day, error)
                continue
            _check_day(pairs, day, [meter_id for _, meter_id in marked], now)
        checked += len(marked)


def recheck(start: date, end: date, meter_ids: Collection[int] | None = None) -> int:
    """Mark the days [start, end) of meters (None: those that have readings of a register then); return how many."""
    pairs = facts.pairs()
    marked = 0
    while start < end:
        day = (start - date(1970, 1, 1)).days
        those = (
            facts.meters_with_registers(pairs, _midnight(start), _midnight(start + _DAY))
            if meter_ids is None
            else meter_ids
        )
        _mark({(day, meter_id) for meter_id in those})
        marked += len(those)
        start += _DAY
    return marked


def changes(standing: Sequence[Standing], judged: Sequence[Found]) -> Changes:
    """Decide what to store. An open difference is cleared where its span was judged again, or another one across it."""
    differing = {_place(one): one for one in judged if one.comparison.differs}
    known = {(one.meter_id, one.register_id, one.start_s, one.end_s): one for one in standing}
    spans: defaultdict[tuple[int, int], list[Comparison]] = defaultdict(list)
    for one in judged:
        spans[one.meter_id, one.pair.interval_id].append(one.comparison)
    return Changes(
        [one for place, one in differing.items() if place not in known or known[place].numbers != _numbers(one)],
        [
            one
            for place, one in known.items()
            if place not in differing
            and any(span.start_s < one.end_s and one.start_s < span.end_s for span in spans[place[:2]])
        ],
    )


def _place(found: Found) -> tuple[int, int, int, int]:
    return found.meter_id, found.pair.interval_id, found.comparison.start_s, found.comparison.end_s


def _numbers(found: Found) -> tuple[int, int, int]:
    return found.comparison.scaler, found.comparison.advance, found.comparison.interval_sum


def _marks(columns: Columns, stored_at: datetime, intervals: pa.Array, registers: pa.Array) -> set[tuple[int, int]]:
    """Return (day since 1970, meter) of the days that a lot's rows ask to compare."""
    seconds = pc.divide(columns.captured_us, 1_000_000)
    ends = pc.is_in(columns.register_id, value_set=registers)
    paired = pc.or_(ends, pc.is_in(columns.register_id, value_set=intervals))
    day = pc.divide(seconds, _DAY_S)
    # Days before this one may have been compared before the lot was committed.
    settled = int((stored_at + _COMMITS_WITHIN - SETTLES).timestamp()) // _DAY_S
    marks: set[tuple[int, int]] = set()
    for chosen, days in (
        (ends, pc.divide(pc.subtract(seconds, 1), _DAY_S)),
        (pc.and_(paired, pc.less(day, settled)), day),
    ):
        table = pa.table({"day": days, "meter": columns.meter_id}).filter(chosen)
        unique = table.group_by(["day", "meter"]).aggregate([])
        marks.update(zip(unique["day"].to_pylist(), unique["meter"].to_pylist(), strict=True))
    return marks


def _mark(marks: Collection[tuple[int, int]]) -> None:
    if marks:
        execute(
            """INSERT INTO concentrators_uncheckedday (day, meter_id)
               SELECT date '1970-01-01' + n.day, n.meter_id FROM unnest(%s::int[], %s::int[]) AS n(day, meter_id)
               ORDER BY 1, 2 ON CONFLICT DO NOTHING""",
            int_array(day for day, _ in marks),
            int_array(meter_id for _, meter_id in marks),
        )


def _check_day(pairs: Sequence[Pair], day: date, meter_ids: Sequence[int], now: datetime) -> None:
    """Compare a day of some meters and store what differs: a fixed number of queries."""
    judged = _judged(pairs, day, meter_ids)
    decided = changes(_standing(day, meter_ids), judged)
    if decided.found or decided.cleared:
        _store(decided, now)
        _tell(decided)


def _judged(pairs: Sequence[Pair], day: date, meter_ids: Sequence[int]) -> list[Found]:
    """Return the comparisons of all spans that overlap the day. Three queries."""
    start_s, end_s = (int(_midnight(one).timestamp()) for one in (day, day + _DAY))
    around = timedelta(days=settings.REGISTER_CHECK_DAYS)
    readings = facts.register_readings(pairs, meter_ids, _midnight(day) - around, _midnight(day + _DAY) + around)
    lengths = facts.lengths(readings)
    windows = {
        meter_id: window
        for meter_id, by_register in readings.items()
        if (window := _window(by_register.values(), start_s, end_s, 60 * lengths[meter_id])) is not None
    }
    if not windows:
        return []
    first_s, last_s = min(first for first, _ in windows.values()), max(last for _, last in windows.values())
    intervals = facts.intervals(pairs, windows, _instant(first_s), _instant(last_s))
    found: list[Found] = []
    for meter_id, (first_s, last_s) in windows.items():
        within = {
            register_id: {at: value for at, value in values.items() if first_s <= at <= last_s}
            for register_id, values in readings[meter_id].items()
        }
        for pair in pairs:
            compared = register_check.compare(pair, within, intervals[meter_id, pair.interval_id])
            found += (Found(meter_id, pair, one) for one in compared if one.start_s < end_s and start_s < one.end_s)
    return found


def _window(by_register: Iterable[Collection[int]], start_s: int, end_s: int, length_s: int) -> tuple[int, int] | None:
    """Return the first and last reading of the spans that overlap a day, preferably at ends of intervals."""
    times = sorted({at for values in by_register for at in values})
    times = [at for at in times if at % length_s == 0] or times
    first = max((at for at in times if at <= start_s), default=times[0])
    last = min((at for at in times if at >= end_s), default=times[-1])
    return (first, last) if first < last else None


def _standing(day: date, meter_ids: Sequence[int]) -> list[Standing]:
    rows = fetch_rows(
        """SELECT id, meter_id, register_id, extract(epoch FROM span_start)::bigint,
                  extract(epoch FROM span_end)::bigint, scaler, advance, interval_sum
           FROM concentrators_registerdifference
           WHERE meter_id = ANY(%s::int[]) AND cleared_at IS NULL AND span_start < %s AND span_end > %s""",
        int_array(meter_ids),
        _midnight(day + _DAY),
        _midnight(day),
    )
    return [Standing._make((*row[:5], (row[5], int(row[6]), int(row[7])))) for row in rows]


def _store(decided: Changes, now: datetime) -> None:
    RegisterDifference.objects.filter(pk__in=[one.id for one in decided.cleared]).update(cleared_at=now)
    RegisterDifference.objects.bulk_create(
        [
            RegisterDifference(
                meter_id=one.meter_id,
                register_id=one.pair.interval_id,
                span_start=_instant(one.comparison.start_s),
                span_end=_instant(one.comparison.end_s),
                unit=one.pair.unit,
                scaler=one.comparison.scaler,
                advance=one.comparison.advance,
                interval_sum=one.comparison.interval_sum,
                found_at=now,
            )
            for one in decided.found
        ],
        update_conflicts=True,
        unique_fields=["meter", "register", "span_start", "span_end"],
        update_fields=["unit", "scaler", "advance", "interval_sum", "found_at", "cleared_at"],
    )


def _tell(decided: Changes) -> None:
    """Tell the intervals of the spans again: those of differences that hold no longer, then those of new ones."""
    cleared = [(one.meter_id, one.register_id, one.start_s, one.end_s) for one in decided.cleared]
    for change, spans in ((Change.CLEARED, cleared), (Change.FLAGGED, [_place(one) for one in decided.found])):
        if spans:
            lots.add_again(change, facts.stored(spans))


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def _instant(at_s: int) -> datetime:
    return datetime.fromtimestamp(at_s, UTC)
