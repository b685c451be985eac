"""DLMS meters in turn with meters of ccm, and a bare loop of another library over frames of the same meters."""

import json
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from bench.fleet import INTERVAL_S, REGISTERS
from bench.parts import Bench, Sizes
from bench.scheme_keys import DLMS, MIXED_WITH_DLMS
from bench.scheme_meters import DlmsMeter
from bench.schemes import SchemeRuns, in_pairs
from keyvault.schemes.table import USUAL

FRAMES_GOAL, READINGS_GOAL = 0.4, 1.5  # of ccm
LIBRARY_GOAL = 20  # of a bare loop in one process
_LOOP = Path(__file__).with_name("dlms_library_loop.py")
_LOOP_FRAMES = 1000


class LibraryError(Exception):
    """The loop of the other library failed."""


@dataclass
class DlmsResults:
    """Runs of notifications of ten values and of a mixed fleet; frames/s of one process of the other library."""

    runs: dict[str, SchemeRuns] = field(default_factory=dict)
    library: list[float] = field(default_factory=list)

    @property
    def readings_of_ccm(self) -> list[float]:
        """Readings a second of notifications, of those of ccm."""
        return [ratio * DlmsMeter.readings / len(REGISTERS) for ratio in self.runs[DLMS].of_ccm]

    @property
    def of_library(self) -> list[float]:
        """Frames a second of the whole system, of a bare loop in one process."""
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
            results.library.append(library_rate(library))
            bench.say(f"dlms-cosem, one process: {results.library[-1]:,.0f} frames/s")

    in_pairs(bench, concentrators, meters_each, (USUAL, DLMS, MIXED_WITH_DLMS), sizes, results.runs, beside)


def library_rate(python: Path) -> float:
    """Return the notifications a second that dlms-cosem opens and decodes, in a process of its own environment."""
    meter = DlmsMeter(bytes(range(8)), bytes(range(32)))
    seal = meter.sealer()
    frames = [seal(n, meter.payload(n * INTERVAL_S, n, n)).hex() for n in range(_LOOP_FRAMES)]
    said = {"guek": meter.keys[:16].hex(), "gak": meter.keys[16:].hex(), "frames": frames}
    run = subprocess.run([python, _LOOP], input=json.dumps(said), capture_output=True, text=True, check=False)
    if run.returncode:
        raise LibraryError(f"{python} {_LOOP.name} failed:\n{run.stderr[-2000:]}")
    return _LOOP_FRAMES / float(run.stdout)
