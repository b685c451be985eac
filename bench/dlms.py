"""DLMS meters in turn with meters of ccm; and opening and decoding alone, beside a bare loop of another library."""

import json
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from bench.fleet import INTERVAL_S, REGISTERS
from bench.parts import Bench, Sizes
from bench.scheme_keys import DEFINITION, DLMS, MIXED_WITH_DLMS
from bench.scheme_meters import SECURITY_CONTROL, DlmsMeter
from bench.schemes import SchemeRuns, in_pairs
from keyvault.schemes.dlms.apdu import parse_dlms
from keyvault.schemes.dlms.gcm import GcmCipher
from keyvault.schemes.table import USUAL
from meters.contents.lines import Catalogue, PushProfileRow, RegisterRow
from meters.contents.push import PushReader
from meters.readings.obis import STANDARD_REGISTERS
from meters.readings.push.definition import parse_definition
from meters.readings.push.profiles import parse_notification
from meters.readings.push.skeleton import digest
from meters.values import LAST_S, PayloadTimes

FRAMES_GOAL, READINGS_GOAL = 0.4, 1.5  # of ccm
LIBRARY_GOAL = 20  # opening and decoding the same frames, of a bare loop
_LOOP = Path(__file__).with_name("dlms_library_loop.py")
_LOOP_FRAMES = 1000
_LOOP_METERS = 100  # push at the same time
_LOOP_PASSES = 5  # the fastest counts


class LibraryError(Exception):
    """The loop of the other library failed."""


@dataclass
class DlmsResults:
    """Runs of notifications of ten values and of a mixed fleet.

    ``opening`` and ``library`` are frames a second of CPU that one process opens and decodes: ours, and dlms-cosem.
    """

    runs: dict[str, SchemeRuns] = field(default_factory=dict)
    opening: list[float] = field(default_factory=list)
    library: list[float] = field(default_factory=list)

    @property
    def readings_of_ccm(self) -> list[float]:
        """Readings a second of notifications, of those of ccm."""
        return [ratio * DlmsMeter.readings / len(REGISTERS) for ratio in self.runs[DLMS].of_ccm]

    @property
    def opening_of_library(self) -> list[float]:
        """Frames a second that we open and decode in one process, of those of the other library."""
        return [ours / bare for ours, bare in zip(self.opening, self.library, strict=True)]

    @property
    def of_library(self) -> list[float]:
        """Frames a second of the whole system in two processes, of a bare loop in one process."""
        return [run.rate / bare for (_, run), bare in zip(self.runs[DLMS].rounds, self.library, strict=True)]

    @property
    def mixed_mean(self) -> float:
        """What uplinks of both would do of ccm if each frame took the time that it takes among its own kind."""
        return 2 / (1 + 1 / median(self.runs[DLMS].of_ccm))


def against_ccm(bench: Bench, concentrators: int, meters_each: int, sizes: Sizes, library: Path | None) -> None:
    """Measure ccm and DLMS in turn, then uplinks of both; ``library`` is the Python that has dlms-cosem 21.3.2."""
    results = bench.results.dlms = DlmsResults()
    if library is None:
        bench.say("no loop of dlms-cosem: name a Python that has dlms-cosem 21.3.2 with --dlms-cosem")

    def beside(kind: str) -> None:
        if library is not None and kind == DLMS:
            frames = _frames()
            results.opening.append(opening_rate(frames))
            results.library.append(library_rate(library, frames))
            ours, bare = results.opening[-1], results.library[-1]
            bench.say(f"opening and decoding, one process: {ours:,.0f} frames/s, dlms-cosem {bare:,.0f}")

    in_pairs(bench, concentrators, meters_each, (USUAL, DLMS, MIXED_WITH_DLMS), sizes, results.runs, beside)


_METER = DlmsMeter(bytes(range(8)), bytes(range(32)))


def _frames() -> list[bytes]:
    """Notifications as meters of a fleet push them, here all under one key set."""
    seal = _METER.sealer()
    return [seal(n, _METER.payload(n // _LOOP_METERS * INTERVAL_S, n, n)) for n in range(_LOOP_FRAMES)]


def opening_rate(frames: Sequence[bytes]) -> float:
    """Return the notifications a second of CPU that this process opens and decodes to values of registers."""
    registers = {
        one.obis_code: RegisterRow(number, one.unit, one.scaler, False, False, -(2**63), 2**63 - 1)
        for number, one in enumerate(STANDARD_REGISTERS)
    }
    form = digest(parse_notification(_METER.payload(0, 0, 0)).skeleton)
    profile = PushProfileRow(_METER.title[:3], form, parse_definition(DEFINITION))
    read = PushReader(Catalogue(registers, [profile])).read
    open_ = GcmCipher(_METER.keys, SECURITY_CONTROL).open_
    title, period = _METER.title, PayloadTimes(0, LAST_S)
    best_s = float("inf")
    for _ in range(_LOOP_PASSES):
        began = time.process_time()
        for frame in frames:
            read(open_(parse_dlms(frame)), title, 0, period)
        best_s = min(best_s, time.process_time() - began)
    return len(frames) / best_s


def library_rate(python: Path, frames: Sequence[bytes]) -> float:
    """Return the notifications a second of CPU that dlms-cosem opens and decodes, in its own environment."""
    said = {
        "guek": _METER.keys[:16].hex(), "gak": _METER.keys[16:].hex(), "frames": [frame.hex() for frame in frames],
        "passes": _LOOP_PASSES,
    }  # fmt: skip
    run = subprocess.run([python, _LOOP], input=json.dumps(said), capture_output=True, text=True, check=False)
    if run.returncode:
        raise LibraryError(f"{python} {_LOOP.name} failed:\n{run.stderr[-2000:]}")
    return len(frames) / float(run.stdout)
