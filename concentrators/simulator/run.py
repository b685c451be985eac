"""Plays a run: meters measure and concentrators post, until the head-end has everything. No Django."""

import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from concentrators.simulator.concentrator import Options, SimulatedConcentrator
from concentrators.simulator.link_store import LinkStore
from concentrators.simulator.obedience import Faults
from concentrators.simulator.plan import Plan
from concentrators.simulator.production import Production
from concentrators.simulator.spool import Spool

_STRETCH_FRAMES = 3_000
_BACKLOG_FRAMES = 60_000
# In real time an endless run posts a few frames a second: so that its watchers see attackers come,
# they come more often than in the stretch that is caught up with first.
_LIVE_EAGERNESS = 5.0


class RunProgress(NamedTuple):
    """The progress of a run, with what earlier processes did of it."""

    ticks: int
    handed_over: int
    posted: int
    repeats: int


class Run:
    """One run with its ``spool``. ``stop`` ends measuring, and the rest is posted; ``give_up`` ends everything at once.

    ``speed`` is a factor of real time, None as fast as possible; simulated time never passes the present.
    """

    def __init__(
        self,
        plan: Plan,
        production: Production,
        spool: Spool,
        tokens: list[str],
        options: Options,
        speed: float | None = None,
    ) -> None:
        self.stop, self.give_up = threading.Event(), threading.Event()
        self._draining = threading.Event()
        self._plan, self._production, self._spool, self._speed = plan, production, spool, speed
        links = LinkStore(spool) if plan.hold_keys else None
        self._concentrators = [
            SimulatedConcentrator(
                number, spool, token, options, self._draining, self.give_up, Faults(plan.seed, plan.faults), links
            )
            for number, token in enumerate(tokens)
        ]
        self._handed_over_before, self._posted_before = spool.progress()
        self._began_at, self._began_clock_s = time.monotonic(), production.clock_s

    def standing(self) -> RunProgress:
        posted = sum(concentrator.posted_frames for concentrator in self._concentrators)
        repeats = sum(concentrator.repeats for concentrator in self._concentrators)
        handed_over = self._handed_over_before + self._production.frames
        return RunProgress(self._production.tick, handed_over, self._posted_before + posted, repeats)

    def play(self, look: Callable[[RunProgress], None]) -> bool:
        """Run to the end; True if everything was posted. ``look`` is called often with the progress.

        Raises the exception that ended a concentrator early.
        """
        for concentrator in self._concentrators:
            concentrator.start()
        try:
            while self._measure() and not self._is_over():
                look(self.standing())
            if not self._is_over():
                self._production.finish()
                self._draining.set()
            while any(concentrator.is_alive() for concentrator in self._concentrators) and not self._is_over():
                look(self.standing())
                self.give_up.wait(0.1)
        finally:
            complete = self._draining.is_set() and not self._is_over()
            self.give_up.set()
            for concentrator in self._concentrators:
                concentrator.join()
        for concentrator in self._concentrators:
            if concentrator.error is not None:
                raise concentrator.error
        look(self.standing())
        return complete

    def _is_over(self) -> bool:
        return self.give_up.is_set() or any(concentrator.error for concentrator in self._concentrators)

    def _measure(self) -> bool:
        """Measure one stretch, or wait a moment; False if there is nothing more to measure."""
        done, last = self._production.tick, self._plan.ticks
        if self.stop.is_set() or (last is not None and done >= last):
            return False
        if not self._production.is_ready():
            self.stop.wait(0.1)
            return True
        self._production.obey(time.time())
        clock_s = self._clock_s()
        passed = int(clock_s - self._plan.start_s) // (self._plan.tick_minutes * 60)
        ready = (passed if last is None else min(passed, last)) - done
        if ready <= 0:
            self._spool.release_due(clock_s)
            self.stop.wait(0.2)
        elif self._spool.backlog() > _BACKLOG_FRAMES:
            self.stop.wait(0.02)
        else:
            stretch = max(1, _STRETCH_FRAMES // max(1, self._frames_per_tick()))
            live = last is None and ready == 1
            self._production.advance(min(ready, stretch), _LIVE_EAGERNESS if live else 1.0)
        return True

    def _frames_per_tick(self) -> int:
        tick, lengths = self._plan.tick_minutes, self._plan.interval_minutes
        return int(len(self._plan.meters) * sum(tick / minutes for minutes in lengths) / len(lengths))

    def _clock_s(self) -> float:
        now_s = time.time()
        if self._speed is None:
            return now_s
        return min(now_s, self._began_clock_s + (time.monotonic() - self._began_at) * self._speed)
