"""The replay window: which invocation counters of a key were taken. Pure.

It stores the highest counter, the gaps below it, and a floor. Gaps are runs (first, last) of counters between floor
and highest that have not come yet; each of these counters can still be taken once, in any order. If there are too
many runs, the oldest is dropped and the floor rises above it. Counters below the floor are refused, because it is no
longer known whether they were taken.
"""

from bisect import bisect_left
from enum import Enum


class Take(Enum):
    """The result of taking a counter."""

    TAKEN = "taken"
    SEEN = "seen"
    TOO_OLD = "too old"
    CLOSED = "closed"  # its session is no longer stored


class CounterSet:
    """The counters taken under one key. ``gaps`` are disjoint ascending runs (first, last), both included.

    At most ``max_gap_runs`` runs are kept.
    """

    __slots__ = ("floor", "gaps", "gaps_changed", "highest", "max_gap_runs")

    def __init__(
        self, max_gap_runs: int, highest: int = -1, floor: int = 0, gaps: list[tuple[int, int]] | None = None
    ) -> None:
        self.max_gap_runs = max_gap_runs
        self.highest = highest
        self.floor = floor
        self.gaps = gaps or []
        self.gaps_changed = False

    def look(self, counter: int) -> Take:
        """Return what ``take`` would for a counter (0..2^40-1), without taking it."""
        if counter > self.highest or self._gap_of(counter) is not None:
            return Take.TAKEN
        return Take.TOO_OLD if counter < self.floor else Take.SEEN

    def take(self, counter: int) -> Take:
        """Take a counter (0..2^40-1) if it is free."""
        if counter > self.highest:
            if counter > self.highest + 1:
                self._replace(len(self.gaps), len(self.gaps), [(self.highest + 1, counter - 1)])
            self.highest = counter
            return Take.TAKEN
        index = self._gap_of(counter)
        if index is None:
            return Take.TOO_OLD if counter < self.floor else Take.SEEN
        first, last = self.gaps[index]
        rest = [run for run in ((first, counter - 1), (counter + 1, last)) if run[0] <= run[1]]
        self._replace(index, index + 1, rest)
        return Take.TAKEN

    def use_up(self) -> None:
        """Drop all gaps: no counter up to the highest can be taken any more."""
        self.gaps, self.gaps_changed = [], True
        self.floor = self.highest + 1

    def _gap_of(self, counter: int) -> int | None:
        index = bisect_left(self.gaps, counter, key=lambda run: run[1])
        return index if index < len(self.gaps) and self.gaps[index][0] <= counter else None

    def _replace(self, start: int, stop: int, runs: list[tuple[int, int]]) -> None:
        self.gaps[start:stop] = runs
        self.gaps_changed = True
        excess = len(self.gaps) - self.max_gap_runs
        if excess > 0:
            self.floor = self.gaps[excess - 1][1] + 1
            del self.gaps[:excess]


def parse_gaps(text: str) -> list[tuple[int, int]]:
    """Parse runs from PostgreSQL's text of an int8multirange in canonical form, such as ``{[3,5),[9,10)}``."""
    if text == "{}":
        return []
    runs = []
    for run in text[2:-2].split("),["):
        first, end = run.split(",")
        runs.append((int(first), int(end) - 1))
    return runs


def format_gaps(gaps: list[tuple[int, int]]) -> str:
    """Return runs as PostgreSQL's text of an int8multirange; inverse of parse_gaps."""
    return "{" + ",".join(f"[{first},{last + 1})" for first, last in gaps) + "}"
