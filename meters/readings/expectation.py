"""Which intervals are expected of a meter, and for which assignment an interval counts. Pure.

This is the one rule. Gaps, completeness, totals, profiles and alerts follow it, and
``concentrators/totals/expected.py`` repeats it in SQL for many meters at a time (a test compares the two):

- Intervals begin at multiples of their length since 1970, UTC, whatever the viewer's zone. An interval belongs to the
  period, and so to the one day, in which it *begins*.
- An interval is expected if for the whole of it the meter measured in that length, was in service, and hung at a place
  (if it ever did), and if it has ended. An exchange is an instant: the interval that it cuts is expected of neither
  meter.
- An interval counts for the earliest assignment that overlaps it: the one at its start or, if there was none, the
  first that began within it. So the first partial interval of a new meter counts.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from meters.registry.interval_lengths import common_boundary

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class ExpectedPeriod(NamedTuple):
    """Expected intervals of one length of a meter: the start of the first, and the end of the last."""

    meter_id: int
    start: datetime
    end: datetime
    interval_minutes: int

    @property
    def intervals(self) -> int:
        return (self.end - self.start) // timedelta(minutes=self.interval_minutes)

    def starts(self, start: datetime, end: datetime) -> list[datetime]:
        """Return the starts of its intervals that begin in [start, end)."""
        part = self.part(start, end)
        step = timedelta(minutes=self.interval_minutes)
        return [part.start + n * step for n in range(max(0, part.intervals))]

    def part(self, start: datetime, end: datetime) -> "ExpectedPeriod":
        """Return its intervals that begin in [start, end), perhaps none."""
        first = common_boundary(max(self.start, start), self.interval_minutes)
        last = min(self.end, common_boundary(end, self.interval_minutes))
        return self._replace(start=first, end=max(first, last))


class Terms(NamedTuple):
    """The terms of a meter: when it was in service, when it hung at places, and its interval lengths.

    ``hung`` holds (from, to); it is empty for a meter that never hung anywhere, whose intervals are expected all the
    same. ``lengths`` holds (from, to, minutes). None is an open end.
    """

    meter_id: int
    commissioned_at: datetime
    retired_at: datetime | None
    hung: Sequence[tuple[datetime, datetime | None]]
    lengths: Sequence[tuple[datetime | None, datetime | None, int]]

    def length_at(self, at: datetime) -> int:
        """Return the meter's interval length at an instant, in minutes."""
        for begun, ended, minutes in self.lengths:
            if (begun is None or begun <= at) and (ended is None or at < ended):
                return minutes
        return self.lengths[-1][2]


def expected(terms: Terms, start: datetime, end: datetime, over_by: datetime) -> Iterator[ExpectedPeriod]:
    """Yield the expected intervals of a meter that begin in [start, end) and have ended at an instant."""
    end = min(end, over_by)
    if start >= end:
        return
    for hung_from, hung_to in terms.hung or [(terms.commissioned_at, None)]:
        for begun, ended, minutes in terms.lengths:
            first = max(at for at in (start, terms.commissioned_at, hung_from, begun) if at is not None)
            whole_by = min(at for at in (terms.retired_at, hung_to, ended, over_by) if at is not None)
            if first >= min(end, whole_by):  # none, and the next boundary may exceed the range of times
                continue
            step = timedelta(minutes=minutes)
            period = ExpectedPeriod(
                terms.meter_id,
                common_boundary(first, minutes),
                min(_EPOCH + (whole_by - _EPOCH) // step * step, common_boundary(end, minutes)),
                minutes,
            )
            if period.start < period.end:
                yield period


def assignment_of(assignments: Sequence[tuple[int, int, int | None]], start_s: int, end_s: int) -> int | None:
    """Return who counts the interval [start_s, end_s): ``assignments`` are (whom, from, to) in Unix seconds,
    in order.
    """
    for whom, from_s, to_s in assignments:
        if to_s is None or start_s < to_s:
            return whom if from_s < end_s else None
    return None
