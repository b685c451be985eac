"""Runs the cells: load, fault, recovery, truth; and the table of what was measured."""

import itertools
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from threading import Event, Thread

import pytest
from django.db import DatabaseError, connections

from ami_headend.health import heartbeats
from tests.flows import site as sites
from tests.flows.load import REFUSALS, Poster, Probe, assert_nothing_lost
from tests.flows.site import Site
from tests.flows.stack import Stack
from tests.rack import services, told
from tests.rack.cells import CELLS, NAMES, Cell
from tests.rack.hosts import Host
from tests.rack.load import Load
from tests.rack.rack import Rack, RackError
from tests.rack.told import Operator

Say = Callable[[str], object]
REFUSED = (*REFUSALS, 502, 504)  # the last two by the proxy
_POSTERS, _METERS = 2, 4
_BEFORE_S, _LEAST_S, _AFTER_S = 3.0, 6.0, 2.0


class RackStack(Stack):
    """The rack as concentrators and administrators see it."""

    def __init__(self, rack: Rack) -> None:
        super().__init__(services.WEB_PORT, rack.environ(None), rack.folder)
        self.rack = rack

        self.entrance = rack.field

    @property
    def base_url(self) -> str:
        return f"http://{self.entrance.address}:{self.port}"

    def manage(self, *words: str, timeout_s: float = 120) -> object:  # type: ignore[override]
        return self.rack.manage(*words, timeout_s=timeout_s, check=False)


class At(RackStack):
    """The same without the proxy, at one web host."""

    def __init__(self, rack: Rack, entrance: Host) -> None:
        super().__init__(rack)
        self.entrance = entrance


@dataclass
class Measured:
    """What one cell gave; seconds, None where nothing was to be measured."""

    name: str
    primary_s: float | None = None
    untaken_s: float = 0.0
    unverified_s: float = 0.0
    back_s: float = 0.0
    whole_s: float = 0.0
    frames: int = 0
    acts: str = ""
    answers: Counter[str] = field(default_factory=Counter)
    failure: str = ""
    skipped: str = ""
    since_s: float = 0.0  # when the fault began, by the monotonic clock

    def row(self) -> list[str]:
        promoted = "" if self.primary_s is None else f"{self.primary_s:.1f}"
        spans = [promoted, *(f"{span:.1f}" for span in (self.untaken_s, self.unverified_s, self.back_s, self.whole_s))]
        answers = ", ".join(f"{name} {count}" for name, count in sorted(self.answers.items()) if name != "202")
        return [self.name, *spans, str(self.frames), self.acts, answers, self.failure or self.skipped or "holds"]


class Watch(Thread):
    """Probes one after the other, and the times at which each was begun and verified."""

    def __init__(self, site: Site) -> None:
        super().__init__(name="watch")
        self.site, self.ended = site, Event()
        self.verified: list[tuple[float, float]] = [(time.monotonic(), time.monotonic())]

    def run(self) -> None:
        while not self.ended.is_set():
            probe, begun = Probe(self.site), time.monotonic()
            while not (verified := probe.step()) and not self.ended.wait(0.1):
                pass  # it is tried again
            if verified:
                self.verified.append((begun, time.monotonic()))
            self.ended.wait(0.2)

    def has_verified_since(self, begun: float) -> bool:
        """Whether a probe that was begun after that time is verified."""
        return self.verified[-1][0] > begun


def longest(times: Sequence[float], since: float) -> float:
    """The longest span between two events of which the later one came after a time."""
    return max((later - earlier for earlier, later in itertools.pairwise(times) if later > since), default=0)


class Matrix:
    """The rack, the watch over it, and what the cells gave."""

    def __init__(self, rack: Rack, say: Say, operator: Operator) -> None:
        self.rack, self.say, self.operator = rack, say, operator
        self.stack = RackStack(rack)

    def is_whole(self) -> bool:
        """Whether every host does its part."""
        with suppress(DatabaseError, OSError):
            connections.close_all()
            living = {one.name for one in heartbeats.living()}
            names = {name.rpartition("@")[2] for name in living if not name.startswith("beat@")}
            return (
                {host.name for host in self.rack.workers} <= names
                and any(name.startswith("beat@") for name in living)
                and (self.rack.is_asynchronous() if self.rack.standby_may_lag else self.rack.is_replicated())
                and all(self.rack.ready(host) == 200 for host in self.rack.webs)
            )
        return False

    def wait_whole(self) -> float:
        return self.rack.wait("every host does its part again", self.is_whole, 180)

    @contextmanager
    def loaded(self, found: Measured) -> Iterator[Watch]:
        """Concentrators that post while the block runs, and the watch; at the end the truth is compared."""
        posters = [Poster(sites.found(self.stack, _METERS), REFUSED, 0.3) for _ in range(_POSTERS)]
        watch, load = Watch(sites.found(self.stack, 1)), Load(self.rack, self.stack.base_url)
        try:
            with load.running(posters):
                watch.start()
                self.rack.wait("the first uplink is verified", lambda: len(watch.verified) > 1, 60)
                time.sleep(_BEFORE_S)
                yield watch
                time.sleep(_AFTER_S)
        finally:
            watch.ended.set()
            watch.join()
        taken = sorted(at for poster in posters for at in poster.taken_s)
        found.untaken_s = longest([*taken, time.monotonic()], found.since_s)
        assert_nothing_lost(posters, 120 * self.rack.patience)
        load.assert_true(120 * self.rack.patience)
        found.frames = load.frames + sum(poster.intervals * len(poster.site.devices) for poster in posters)
        found.acts = load.told()
        found.answers = sum((poster.answers for poster in posters), Counter())
        self.assert_clean()

    def run(self, cell: Cell) -> Measured:
        """One cell, from a whole rack to a whole rack."""
        self.wait_whole()
        self.operator.begin()
        found = Measured(cell.name)
        with self.loaded(found) as watch:
            self._fail(cell, watch, found)
        return found

    def _fail(self, cell: Cell, watch: Watch, found: Measured) -> None:
        """The fault, and the wait until it is over."""
        began, before = time.monotonic(), self.rack.primary()
        found.since_s = began
        with cell.fault(self.rack):
            if cell.promotes:
                self._wait_promoted(before)
                found.primary_s = time.monotonic() - began
            if cell.heals:
                since = time.monotonic()
                self.rack.wait("an uplink is verified while it lasts", lambda: watch.has_verified_since(since), 120)
            self._assert_told(cell)
            time.sleep(max(0.0, began + _LEAST_S * self.rack.patience - time.monotonic()))
        ended = time.monotonic()
        self.rack.wait("an uplink is verified after it", lambda: watch.has_verified_since(ended), 120)
        found.unverified_s = longest([at for _, at in watch.verified], began)
        found.back_s = watch.verified[-1][1] - ended
        self.wait_whole()
        found.whole_s = time.monotonic() - ended
        self.assert_over(*cell.components, *cell.conditions)

    def _wait_promoted(self, before: Host) -> None:
        self.rack.wait("another host is primary", lambda: bool({*self.rack.leaders()} - {before.name}), 90)

    def _assert_told(self, cell: Cell) -> None:
        for name in cell.unready:
            self.rack.wait(f"{name} is not ready", partial(self.is_unready, self.rack.hosts[name]), 60)
        if cell.found:
            self.rack.wait(f"doctor finds the {cell.found}", partial(self.finds, cell.found), 90)
        self.assert_told(cell.components, cell.conditions)

    def assert_told(self, components: Sequence[str], conditions: Sequence[str] = ()) -> None:
        """Components that are not well are told by doctor, by an alert and by a metric, conditions by an alert."""
        for name in components:
            self.rack.wait(f"doctor finds the {name}", partial(self.finds, name), 90)
        for name in (*components, *conditions):
            self.rack.wait(f"the operator is told of {name}", partial(self.operator.is_told, name), 120)
        for name in components:
            self.rack.wait(f"a metric says that {name} is not well", partial(self.is_down, name), 60)

    def assert_over(self, *names: str) -> None:
        """The end of each is told, too."""
        for name in names:
            over = partial(self.operator.is_told_of_the_end, name)
            self.rack.wait(f"the operator is told that {name} is well", over, 120)

    def is_down(self, component: str) -> bool:
        return self.operator.figure("ami_headend_component_up", component=component) == 0

    def is_ready(self, host: Host) -> bool:
        return self.rack.ready(host) == 200

    def is_unready(self, host: Host) -> bool:
        return self.rack.ready(host) == 503

    def finds(self, name: str) -> bool:
        said = self.rack.manage("doctor", check=False).stdout
        return any(line.split()[0] == "FAIL" and name in line for line in said.splitlines() if line.strip())

    def journals(self) -> list[str]:
        """The key journals of all hosts, as arguments of a command."""
        return [word for folder in self.rack.journals for word in ("--journal", str(folder))]

    def assert_clean(self) -> None:
        """Audit chain and key journal verify, and doctor finds nothing."""
        self.rack.manage("audit", "verify", *self.journals())
        self.rack.manage("journal", "verify", *self.journals())
        said: list[str] = []

        def is_well() -> bool:
            done = self.rack.manage("doctor", check=False)
            said[:] = [done.stdout + done.stderr]
            return done.returncode == 0

        try:
            self.rack.wait("doctor finds nothing", is_well, 120)
        except RackError as error:
            raise RackError(f"{error}\n{''.join(said)}") from None


def run(rack: Rack, only: Sequence[str], say: Say) -> int:
    """Run the chosen cells, print the table; 0 if all hold."""
    with told.operator(rack) as operator:
        return _run(Matrix(rack, say, operator), only)


def _run(matrix: Matrix, only: Sequence[str]) -> int:
    from tests.rack import disk, promotion, upgrade  # noqa: PLC0415 - they need this module

    ways: dict[str, Callable[[], Measured]] = {cell.name: partial(matrix.run, cell) for cell in CELLS}
    ways[disk.NAME] = partial(disk.run, matrix, matrix.say)
    ways[promotion.NAME] = partial(promotion.run, matrix, matrix.say)
    ways[upgrade.NAME] = partial(upgrade.run, matrix, matrix.say)
    results = []
    for name, way in ways.items():
        if only and not any(text in name for text in only):
            continue
        matrix.say(f"{name}: {NAMES[name]}")
        try:
            found = way()
        except (Exception, pytest.fail.Exception) as error:  # noqa: BLE001 - whatever a cell ends with, it has failed
            traceback.print_exc()
            found = Measured(name, failure=f"FAILS: {repr(error).splitlines()[0][:80]}")
        results.append(found)
        matrix.say(" | ".join(found.row()))
    print(table(results), flush=True)
    return any(found.failure for found in results)


def table(results: Sequence[Measured]) -> str:
    """The results as a table of Markdown."""
    head = ["cell; seconds", "new primary", "no 202", "nothing verified", "verified after its end"]
    head += ["whole after its end", "frames", "acts, pushes", "other answers", ""]
    lines = [head, ["---"] * len(head), *(found.row() for found in results)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def hold(rack: Rack, say: Say) -> int:
    """Leave the rack running until Ctrl-C."""
    say(f"concentrators post to http://{rack.field.address}:{services.WEB_PORT}; Ctrl-C ends everything")
    for host in rack.hosts.values():
        say(f"{host.name} {host.address}, logs in {host.folder}")
    Event().wait()
    return 0
