"""The parts of a benchmark run, each in paired rounds: one, the other, one, the other."""

import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from ami_headend.local import embedded
from bench import fleet as fleets
from bench import floor, measure, million, stack
from bench import pages as page_bench
from bench.floor import Floor
from bench.measure import SystemRun
from bench.pages import Asked, PageResults
from bench.site import Site, journal_of, made, use_database
from bench.stack import Stack
from keyvault.schemes.table import USUAL

if TYPE_CHECKING:
    from bench.dlms import DlmsResults
    from bench.feed import FeedResults
    from bench.schemes import SchemeResults

MAX_LATENCY_UPLINKS = 400

Progress = Callable[[str], None]


@dataclass
class Results:
    """Every figure of every round. Rates are frames a second."""

    floor: list[float] = field(default_factory=list)
    system: dict[int, list[SystemRun]] = field(default_factory=lambda: defaultdict(list))
    paced: dict[int, SystemRun] = field(default_factory=dict)
    of_floor: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    rowwise: list[float] = field(default_factory=list)
    over_rowwise: list[float] = field(default_factory=list)
    growth: dict[str, list[tuple[float, float]]] = field(default_factory=lambda: defaultdict(list))
    growth_runs: dict[str, list[SystemRun]] = field(default_factory=lambda: defaultdict(list))
    rewrap: list[tuple[float, float]] = field(default_factory=list)  # keys a second: bare loop, rotation
    pages: PageResults | None = None
    schemes: "SchemeResults | None" = None
    dlms: "DlmsResults | None" = None
    feed: "FeedResults | None" = None


@dataclass
class Bench:
    """What all parts share: sizes, services, sealing processes, and the output of progress."""

    folder: Path
    env: dict[str, str]
    executor: ProcessPoolExecutor
    say: Progress
    results: Results = field(default_factory=Results)
    _sites: int = 0

    @contextmanager
    def site(self, concentrators: int, meters_each: int, kinds: Sequence[str] = (USUAL,)) -> Iterator[Site]:
        """Give a provisioned site in a database of its own, with that many concentrators of each kind of keys."""
        self._sites += 1
        number = concentrators * len(kinds)
        self.say(f"provisioning {number * meters_each:,} meters of {number} concentrators")
        with made(self.executor, f"bench_{self._sites}", concentrators, meters_each, kinds) as site:
            yield site

    @contextmanager
    def stack(self, site: Site, *, rowwise: bool = False) -> Iterator[Stack]:
        """Run web, worker and schedule on a site, or only the web with the row-by-row view."""
        number = int(site.name.rpartition("_")[2])
        env = {
            **self.env,
            "DATABASE_URL": self.database_url(site.name, embedded.WORKING_ROLE),
            "REDIS_URL": embedded.redis_url(Path(self.env["AMI_VAR_DIR"]), number),
            "KEY_JOURNAL_DIR": os.fspath(journal_of(site.name)),
        }
        if rowwise:
            env["DJANGO_SETTINGS_MODULE"] = "bench.rowwise.settings"
        name = f"{site.name}-rowwise" if rowwise else site.name
        with stack.running(self.folder / name, env, web_only=rowwise) as running:
            yield running

    def database_url(self, name: str, role: str = embedded.OWNER) -> str:
        url = urlsplit(embedded.database_url(Path(self.env["AMI_VAR_DIR"]), role))
        return url._replace(path=f"/{quote(name)}").geturl()

    def seal(self, site: Site, frames: int) -> list[list[bytes]]:
        """Seal the site's next frames: whole intervals of all its meters, at least one."""
        intervals = max(1, round(frames / site.fleet.size))
        return fleets.seal(self.executor, site.fleet, site.next_interval, intervals)

    def warm(self, site: Site, running: Stack) -> None:
        """Warm up caches, prepared statements and connections: every worker meets every meter."""
        frames = self.seal(site, 1)
        for _ in range(3):
            site.use()
            site.reset()
            measure.system(site, running, frames, min(1000, len(frames[0])))
        site.reset()


@dataclass(frozen=True)
class Sizes:
    """The amounts to measure."""

    rounds: int
    frames: int
    sizes: list[int]
    rowwise_frames: int
    warm_rounds: int


def against_floor(bench: Bench, site: Site, running: Stack, sizes: Sizes, *, with_system: bool) -> None:
    """Measure floor and system in turn, on the same frames and a fresh database each time."""
    frames = bench.seal(site, sizes.frames)
    site.use()
    with floor.started(bench.database_url(site.name), *site.floor_rows()) as bare:
        _floor(site, bare, frames)
        for number in range(1, sizes.rounds + 1):
            for size in sizes.sizes if with_system else [floor.BATCH]:
                floor_rate = _floor(site, bare, frames)
                bench.results.floor.append(floor_rate)
                if not with_system:
                    bench.say(f"round {number}: floor {floor_rate:,.0f} frames/s")
                    continue
                site.reset()
                run = measure.system(site, running, frames, size)
                bench.results.system[size].append(run)
                bench.results.of_floor[size].append(run.rate / floor_rate)
                bench.say(
                    f"round {number}, {size:,} frames an uplink: floor {floor_rate:,.0f}, system {run.rate:,.0f} "
                    f"frames/s, ratio {run.rate / floor_rate:.2f}"
                )


def at_half_load(bench: Bench, site: Site, running: Stack, sizes: Sizes) -> None:
    """Measure from post to verdict at half the highest rate, so that queues do not dominate."""
    frames = bench.seal(site, sizes.frames)
    for size, runs in bench.results.system.items():
        few = [block[: size * max(1, MAX_LATENCY_UPLINKS // len(frames))] for block in frames]
        site.use()
        site.reset()
        pace = median(run.rate for run in runs) / 2 / size
        bench.results.paced[size] = measure.system(site, running, few, size, per_second=pace)
        bench.say(f"latency at {pace:.0f} uplinks/s of {size:,} frames")


def against_rowwise(bench: Bench, site: Site, running: Stack, sizes: Sizes, size: int = 1000) -> None:
    """Measure the system and the same job row by row, in turn."""
    frames = bench.seal(site, sizes.frames)
    few = [frame for turn in zip(*frames, strict=True) for frame in turn][: sizes.rowwise_frames]
    with bench.stack(site, rowwise=True) as slow:
        for number in range(sizes.rounds + 1):
            site.use()
            site.reset()
            slow_rate = measure.rowwise(site, slow, few, _json_body)
            if number == 0:
                continue  # warming up
            site.reset()
            rate = measure.system(site, running, frames, min(size, len(frames[0]))).rate
            bench.results.rowwise.append(slow_rate)
            bench.results.over_rowwise.append(rate / slow_rate)
            bench.say(f"round {number}: row by row {slow_rate:,.0f}, system {rate:,.0f}, {rate / slow_rate:,.0f} times")


def growth(bench: Bench, base: Site, base_stack: Stack, sizes: Sizes, meters: list[int], readings: list[int]) -> None:
    """Measure the base and a grown site in turn, in uplinks of 1,000 frames: more meters, then more stored readings."""
    base_frames = bench.seal(base, sizes.frames)
    for number in meters:
        concentrators = max(10, number // 1000)
        with (
            bench.site(concentrators, max(1, number // concentrators)) as site,
            bench.stack(site) as running,
        ):
            pairs = _Pairs(bench, base, base_stack, base_frames, site, running, sizes)
            if site.fleet.size > base.fleet.size:
                pairs.of_all(f"{number:,} meters, each once")
                pairs.of_the_base_load(f"{number:,} meters, the base's load")
            else:
                pairs.of_all(f"{number:,} meters")
    for number in readings:
        with bench.site(len(base.fleet.titles), len(base.fleet.titles[0])) as site:
            bench.say(f"loading {number:,} readings")
            site.preload(number)
            with bench.stack(site) as running:
                _Pairs(bench, base, base_stack, base_frames, site, running, sizes).of_all(f"{number:,} readings")


@dataclass(frozen=True)
class _Pairs:
    """The base and a grown site in turn. The grown one continues from interval to interval and is never emptied."""

    bench: Bench
    base: Site
    base_stack: Stack
    base_frames: list[list[bytes]]
    site: Site
    running: Stack
    sizes: Sizes

    def of_all(self, what: str) -> None:
        """Let all concentrators post. Warm-up rounds come first: each halves the meters that a worker has yet
        to meet.
        """
        for _ in range(self.sizes.warm_rounds):
            self._measured(self.site)
        for _ in range(self.sizes.rounds):
            self._told(what, *self._measured(self.site))

    def of_the_base_load(self, what: str) -> None:
        """Let other concentrators post in each round, as many as the base has; all were met before."""
        number, first_interval = len(self.base.tokens), self.site.next_interval
        for first in range(0, min(self.sizes.rounds * number, len(self.site.tokens) - number + 1), number):
            self._told(what, *self._measured(self.site.part(first, first + number, first_interval)))

    def _measured(self, part: Site) -> tuple[SystemRun, SystemRun]:
        """Measure the base, then the grown site or a part of it with the next intervals of its meters."""
        frames = self.bench.seal(part, self.sizes.frames)
        after = part.next_interval + len(frames[0]) // len(part.fleet.titles[0])
        self.site.next_interval = max(self.site.next_interval, after)
        self.base.use()
        self.base.reset()
        before = measure.system(self.base, self.base_stack, self.base_frames, min(1000, len(self.base_frames[0])))
        return before, measure.system(part, self.running, frames, min(1000, len(frames[0])))

    def _told(self, what: str, before: SystemRun, grown: SystemRun) -> None:
        pairs = self.bench.results.growth[what]
        pairs.append((before.rate, grown.rate))
        self.bench.results.growth_runs[what].append(grown)
        self.bench.say(
            f"round {len(pairs)}, {what}: base {before.rate:,.0f}, grown {grown.rate:,.0f} frames/s, "
            f"ratio {grown.rate / before.rate:.2f}"
        )


def pages(bench: Bench, meters: int, asked: Asked) -> None:
    """Measure every page of a head-end with this many meters, its downloads, and users beside ingest."""
    name = million.ready(meters, bench.say)
    env = {
        **bench.env,
        "DATABASE_URL": bench.database_url(name, embedded.WORKING_ROLE),
        "REDIS_URL": embedded.redis_url(Path(bench.env["AMI_VAR_DIR"]), 60),
    }
    use_database(name)
    with stack.running(bench.folder / name, env) as running:
        bench.results.pages = page_bench.measure(running, asked, bench.executor, bench.say)


def _floor(site: Site, bare: Floor, frames: list[list[bytes]]) -> float:
    site.use()
    site.reset()
    return sum(map(len, frames)) / bare.run(frames)


def _json_body(frame: bytes) -> bytes:
    return json.dumps({"frame": frame.hex()}).encode()
