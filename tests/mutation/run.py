"""Mutants in chunks: each chunk is made of one form by one seed, and what a run has done is in a file to go on from.

A chunk that fails names itself: ``python -m tests.mutation --again NAME`` makes the same mutants once more.
"""

import ctypes
import json
import multiprocessing
import os
import resource
import signal
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any, NamedTuple

from tests.mutation import forms
from tests.mutation.operators import mutated, restructured

CHUNK = 5_000  # mutants
SLOWEST_S = 0.25  # of CPU, for one mutant: the slowest known takes a few milliseconds
PEAK_OCTETS = 4 << 20  # of memory, for one mutant: as in tests/meters/push/test_bounds.py
HANGS_AFTER_S = 300  # of CPU, for a whole chunk: a run that is paused, or beside much else, is no hang
MORE_MEMORY_OCTETS = 1 << 30  # that a process may take beyond what it has at its beginning
_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
_MEASURED = 25  # mutants of each chunk whose memory is counted exactly


class Chunk(NamedTuple):
    """Which mutants: those of a form, by a seed and a number."""

    seed: int
    form: str
    number: int

    def __str__(self) -> str:
        return f"{self.seed}/{self.form}/{self.number}"


class Judged(NamedTuple):
    """What came of a chunk: mutants by their outcome, CPU seconds, and the most that one of them took."""

    chunk: Chunk
    outcomes: Counter[str]
    cpu_s: float
    slowest_s: float
    peak_octets: int
    failed: str = ""


table = cache(forms.table)


def mutants(chunk: Chunk) -> Iterator[bytes]:
    form, chance = table()[chunk.form], Random(str(chunk))
    for number in range(CHUNK):
        sample = chance.choice(form.samples)
        if form.is_cbor and number % 2:
            yield restructured(sample, chance)
        else:
            yield form.rewrap(mutated(sample, form.samples, chance))


def judge(chunk: Chunk) -> Judged:
    """Judge all mutants of a chunk; the first that breaks a rule ends it, and is said in ``failed``."""
    judge_, outcomes = table()[chunk.form].judge, Counter[str]()
    began, slowest, peak = time.process_time(), 0.0, 0
    for number, mutant in enumerate(mutants(chunk)):
        before = time.perf_counter()
        try:
            if number < _MEASURED:
                outcome, octets = _measured(judge_, mutant)
                assert octets < PEAK_OCTETS, f"it took {octets} octets of memory"
                peak = max(peak, octets)
            else:
                outcome = judge_(mutant)
            took = time.perf_counter() - before
            if took > slowest:
                slowest = max(slowest, _cpu_s(judge_, mutant, took))
                assert slowest < SLOWEST_S, f"it took {slowest:.3f} s"
        except Exception as error:  # noqa: BLE001 - whatever it is: it is told with its mutant
            failed = f"{chunk} mutant {number}: {type(error).__name__}: {error}: {mutant.hex()}"
            return Judged(chunk, outcomes, time.process_time() - began, slowest, peak, failed)
        outcomes[outcome] += 1
    return Judged(chunk, outcomes, time.process_time() - began, slowest, peak)


def _measured(judge_: Callable[[bytes], str], mutant: bytes) -> tuple[str, int]:
    tracemalloc.start()
    try:
        return judge_(mutant), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def _cpu_s(judge_: Callable[[bytes], str], mutant: bytes, took: float) -> float:
    """What a mutant took that seemed slow: measured again, as others may have had the processor."""
    if took < SLOWEST_S / 100:
        return took
    before = time.thread_time()
    judge_(mutant)
    return min(took, time.thread_time() - before)


def _limit() -> None:
    """Of a process that judges: memory ends, a chunk that hangs is told, and none outlives the run."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * os.sysconf("SC_PAGE_SIZE") + MORE_MEMORY_OCTETS
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    signal.signal(signal.SIGPROF, _hangs)


def _hangs(signum: int, frame: FrameType | None) -> None:
    raise TimeoutError(f"a chunk is not done after {HANGS_AFTER_S} s of CPU")


def _judge_in_time(chunk: Chunk) -> Judged:
    signal.setitimer(signal.ITIMER_PROF, HANGS_AFTER_S)
    try:
        return judge(chunk)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


class Progress:
    """What has been judged, over all runs: kept in a file, or in memory alone."""

    def __init__(self, path: Path | None, seed: int) -> None:
        self.path = path
        self.said: dict[str, Any] = {"seed": seed, "rounds": 0, "cpu_s": 0.0, "slowest_s": {}, "forms": {}}
        if path is not None and path.exists():
            self.said = json.loads(path.read_text())

    @property
    def mutants(self) -> int:
        return sum(sum(outcomes.values()) for outcomes in self.said["forms"].values())

    def add(self, judged: Judged) -> None:
        form, forms_, slowest = judged.chunk.form, self.said["forms"], self.said["slowest_s"]
        forms_[form] = dict(Counter(forms_.get(form, {})) + judged.outcomes)
        slowest[form] = round(max(slowest.get(form, 0.0), judged.slowest_s), 6)
        self.said["cpu_s"] += judged.cpu_s

    def keep(self) -> None:
        self.said["rounds"] += 1
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            new = self.path.with_suffix(".new")
            new.write_text(json.dumps(self.said, indent=1))
            new.replace(self.path)


def run(progress: Progress, wanted: int, processes: int, told: Callable[[str], object] = print) -> list[str]:
    """Judge rounds of one chunk a form until so many mutants are judged; give what failed. A round is kept whole."""
    last = progress.mutants + wanted
    spawned = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=spawned, initializer=_limit) as pool:
        while progress.mutants < last:
            round_ = progress.said["rounds"]
            began = time.monotonic()
            chunks = [Chunk(progress.said["seed"], form, round_) for form in table()]
            failed = []
            for judged in pool.map(_judge_in_time, chunks):
                progress.add(judged)
                failed += [judged.failed] if judged.failed else []
            progress.keep()
            if failed:
                return failed
            if round_ % 10 == 0:
                speed = len(chunks) * CHUNK / (time.monotonic() - began)
                told(f"{progress.mutants:,} mutants, {speed:,.0f} a second in {processes} processes")
    return []
