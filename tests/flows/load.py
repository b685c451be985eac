"""Load while something fails: concentrators that post until they are answered, a prober, and the truth at the end."""

import secrets
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Protocol

import httpx
from django.db import connections

from tests.flows import site as sites
from tests.flows.site import Site, assert_one_verdict_each, assert_readings, energy, readings_expected

FIRST = -9_000  # intervals before today's: all are over, whatever the clock says, and no register is below zero
REFUSALS = (429, 503)  # what the head-end answers to whoever is to try again


@dataclass
class Poster:
    """A concentrator that posts intervals of its meters; a body that was not answered 202 is posted again."""

    site: Site
    refusals: Sequence[int] = REFUSALS
    pause_s: float = 0.1
    answers: Counter[str] = field(default_factory=Counter)
    uplinks: list[int] = field(default_factory=list)
    taken_s: list[float] = field(default_factory=list)  # when each was answered 202, by the monotonic clock
    intervals: int = 0
    ended: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        while not self.ended.is_set():
            if self._post(FIRST + self.intervals):
                self.intervals += 1
            time.sleep(self.pause_s)

    def post_again(self, first: int) -> None:
        """Post what the meters measured from an interval on once more, as a concentrator that still holds it."""
        for number in range(first, self.intervals):
            self.uplinks.append(self.site.posted(self._frames(FIRST + number, number)))

    def _frames(self, interval: int, counter: int) -> list[bytes]:
        return [one.frame(interval, energy(one, interval), counter=counter) for one in self.site.devices]

    def _post(self, interval: int) -> bool:
        try:
            answer = self.site.post(self._frames(interval, self.intervals), timeout_s=15)
        except httpx.TransportError as error:
            self.answers[type(error).__name__] += 1
            return False
        self.answers[str(answer.status_code)] += 1
        assert answer.status_code in (202, *self.refusals), answer.text
        if answer.status_code == 202:
            self.uplinks.append(int(answer.json()["uplink"]))
            self.taken_s.append(time.monotonic())
        return answer.status_code == 202


class Worker(Protocol):
    """Whatever is at work until it is told to end."""

    ended: threading.Event

    def run(self) -> None: ...


@contextmanager
def posting(workers: Sequence[Worker]) -> Iterator[None]:
    """All of them at work while the block runs; then what ended one of them early is raised."""
    errors: list[BaseException] = []

    def run(worker: Worker) -> None:
        try:
            worker.run()
        except BaseException as error:  # noqa: BLE001 - raised below
            errors.append(error)

    threads = [threading.Thread(target=run, args=[worker]) for worker in workers]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for worker in workers:
            worker.ended.set()
        for thread in threads:
            thread.join()
    if errors:
        raise errors[0]


@dataclass
class Probe:
    """One uplink after the other, each new, posted until it is taken and looked at until it is verified."""

    site: Site
    body: bytes = b""
    uplink: int | None = None

    def step(self) -> bool:
        """Go on where the last step ended; whether the uplink is verified now."""
        with suppress(httpx.TransportError, AssertionError):
            if self.uplink is None:
                self.body = self.body or b"\xd0" + secrets.token_bytes(8)  # the same body would be the same uplink
                answer = self.site.post([self.body], timeout_s=5)
                self.uplink = answer.json()["uplink"] if answer.status_code == 202 else None
            return self.uplink is not None and bool(self.site.status(self.uplink)["verified"])
        return False


def assert_nothing_lost(posters: Sequence[Poster], timeout_s: float = 180) -> None:
    """Every frame was accepted once, and readings and totals are what the meters measured."""
    for poster in posters:
        connections.close_all()
        sites.wait_verified(poster.uplinks, timeout_s)
        intervals = range(FIRST, FIRST + poster.intervals)
        good = len(poster.site.devices) * poster.intervals
        counted = assert_one_verdict_each(poster.uplinks)
        assert counted == {"accepted": good}, f"{counted}, and {good} frames were acknowledged"
        assert_readings(poster.site.devices, readings_expected(poster.site.devices, intervals))
