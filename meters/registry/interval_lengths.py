"""Which interval length a meter measures in at which time. No Django.

A length begins and ends at a multiple of both the old length and the new one, so that no interval is cut or overlaps
another.
"""

import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

LONGEST_MINUTES = 1440
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class LengthSpan(NamedTuple):
    """A length in minutes that is valid from ``start`` up to ``end``; None is an open end."""

    start: datetime | None
    end: datetime | None
    minutes: int


class Lengths(NamedTuple):
    """The lengths of a meter whose length changed, or may have changed; most meters need none.

    ``ended`` has (Unix second of its end, minutes), oldest first; ``newest`` is valid after them. ``announced`` has
    (Unix second of its start, minutes) of changes that the meter was told and has not confirmed yet.
    """

    ended: Sequence[tuple[int, int]]
    newest: int
    announced: Sequence[tuple[int, int]] = ()

    def at(self, start_s: int) -> int:
        """Return the length in minutes of the interval that starts at a Unix second.

        If an authentic interval is off the grid of the valid length, but on that of an announced one, the meter uses
        the new length already, though its answer has not arrived.
        """
        minutes = self.newest
        for end_s, before in self.ended:
            if start_s < end_s:
                minutes = before
                break
        if start_s % (minutes * 60):
            for from_s, told in self.announced:
                if start_s >= from_s and start_s % (told * 60) == 0:
                    return told
        return minutes


def common_boundary(at: datetime, *lengths_minutes: int) -> datetime:
    """Return the first instant from ``at`` on at which an interval of each length begins.

    OverflowError if that is after the year 9999.
    """
    step = timedelta(minutes=math.lcm(*lengths_minutes))
    return _EPOCH - (_EPOCH - at) // step * step


def corrected(spans: Sequence[LengthSpan], wanted: LengthSpan) -> list[LengthSpan]:
    """Replace the length in a part of consecutive spans that are open at both ends; return the spans.

    Neighbours of equal length are joined.
    """
    pieces = [
        LengthSpan(one.start, _earlier(one.end, wanted.start), one.minutes) for one in spans if wanted.start is not None
    ]
    pieces += [wanted]
    pieces += [
        LengthSpan(_later(one.start, wanted.end), one.end, one.minutes) for one in spans if wanted.end is not None
    ]
    joined: list[LengthSpan] = []
    for one in pieces:
        if one.start is not None and one.end is not None and one.start >= one.end:
            continue
        if joined and joined[-1].minutes == one.minutes:
            joined[-1] = joined[-1]._replace(end=one.end)
        else:
            joined.append(one)
    return joined


def _earlier(end: datetime | None, limit: datetime | None) -> datetime | None:
    return min((one for one in (end, limit) if one is not None), default=None)


def _later(start: datetime | None, limit: datetime | None) -> datetime | None:
    return max((one for one in (start, limit) if one is not None), default=None)
