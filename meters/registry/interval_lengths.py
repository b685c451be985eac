"""Which interval length a meter measures in at which time. No Django.

A length begins and ends at an instant that is a multiple of both the old length and the new one, so
that no interval is cut and none overlaps another.
"""

import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

LONGEST_MINUTES = 1440
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Lengths(NamedTuple):
    """The lengths of a meter that changed, or may have: what most meters never need.

    ``ended`` holds (Unix second at which it ended, minutes), oldest first; ``newest`` holds after them.
    ``announced`` holds (Unix second from which, minutes) of changes that the meter was told of and has not
    confirmed yet.
    """

    ended: Sequence[tuple[int, int]]
    newest: int
    announced: Sequence[tuple[int, int]] = ()

    def at(self, start_s: int) -> int:
        """The length in minutes of the interval that starts at a Unix second.

        An authentic interval that starts off the grid of the length that holds, but on that of an announced
        one, shows that the meter follows that already, though its answer is still on the way.
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
    """The first instant not before ``at`` at which an interval of each of the lengths begins.

    OverflowError where that is after the year 9999.
    """
    step = timedelta(minutes=math.lcm(*lengths_minutes))
    return _EPOCH - (_EPOCH - at) // step * step
